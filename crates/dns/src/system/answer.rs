//! What of an answer of the system's resolver an app gets, and which addresses that opens.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::svcb;
use crate::wire::{self, Found, Section, WireName, kind};

/// How many names one behind another an answer may lead through.
const LONGEST_CHAIN: usize = 16;
const CNAME: u16 = 5;
const DNAME: u16 = 39;
const INTERNET: u16 = 1;

/// An answer as the app gets it.
pub(crate) struct Tidied {
    pub(crate) answer: Bytes,
    /// Addresses of the name that was asked for, hints of HTTPS and SVCB included.
    pub(crate) addresses: Vec<(IpAddr, Duration)>,
}

/// Leaves out the additional section but for EDNS: addresses of other names there would lead around
/// the look-ups of these. No record lives for longer than `most`. `None` for what cannot be read.
pub(crate) fn tidy(answer: &[u8], most: Duration) -> Option<Tidied> {
    let records: Vec<Found> = wire::records(answer)?.collect::<Option<_>>()?;
    let additional = records
        .iter()
        .position(|found| found.section == Section::Additional)
        .unwrap_or(records.len());
    let (kept, additional) = records.split_at(additional);
    let end = kept
        .last()
        .map_or(wire::question(answer)?.end, |last| last.data.end);
    let mut tidied = answer[..end].to_vec();
    let most_seconds = u32::try_from(most.as_secs()).unwrap_or(u32::MAX);
    for found in kept.iter().filter(|found| found.seconds() > most_seconds) {
        let at = found.data.start - 6;
        tidied[at..at + 4].copy_from_slice(&most_seconds.to_be_bytes());
    }
    // Its name is the root and its data has no names: it can stand anywhere.
    let edns = additional
        .iter()
        .find(|found| found.kind == kind::OPT && answer[found.owner] == 0);
    if let Some(edns) = edns {
        tidied.extend_from_slice(&answer[edns.owner..edns.data.end]);
    }
    tidied[10..12].copy_from_slice(&u16::from(edns.is_some()).to_be_bytes());
    Some(Tidied {
        addresses: addresses(answer, kept)?,
        answer: tidied.into(),
    })
}

/// The addresses that the name asked for leads to.
fn addresses(answer: &[u8], records: &[Found]) -> Option<Vec<(IpAddr, Duration)>> {
    let in_answer = |found: &&Found| found.section == Section::Answer && found.class == INTERNET;
    let mut names = BTreeSet::from([lower(answer, wire::HEADER)?]);
    for _ in 0..LONGEST_CHAIN {
        let before = names.len();
        for found in records.iter().filter(in_answer) {
            if found.kind == CNAME && names.contains(&lower(answer, found.owner)?) {
                names.insert(lower(answer, found.data.start)?);
            }
        }
        if names.len() == before {
            break;
        }
    }
    let mut all = Vec::new();
    for found in records.iter().filter(in_answer) {
        if matches!(found.kind, CNAME | DNAME) || !names.contains(&lower(answer, found.owner)?) {
            continue;
        }
        let data = &answer[found.data.clone()];
        let life = Duration::from_secs(u64::from(found.seconds()));
        let of_record: Vec<IpAddr> = match found.kind {
            kind::A => vec![<[u8; 4]>::try_from(data).ok()?.into()],
            kind::AAAA => vec![<[u8; 16]>::try_from(data).ok()?.into()],
            // One that cannot be read is of no use to the app either.
            kind::HTTPS | kind::SVCB => svcb::hints(answer, found.data.clone()).unwrap_or_default(),
            _ => Vec::new(),
        };
        all.extend(of_record.into_iter().map(|address| (address, life)));
    }
    Some(all)
}

fn lower(answer: &[u8], at: usize) -> Option<Vec<u8>> {
    let (name, _) = WireName::read(answer, at)?;
    // Lengths of labels are below the letters.
    Some(name.as_bytes().to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
