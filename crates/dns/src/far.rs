//! Answers of the far side: what is asked there, and what of an answer reaches the app.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::ResponseCode;

use crate::message::{self, Asked};
use crate::svcb::{self, Changes};
use crate::wire::{self, Found, HEADER, Part, Section, WireName, Writer, kind, u16_at};

/// The longest time to live that an app is told and an answer is kept for, in seconds.
const LONGEST_TTL: u32 = 3600;

/// How long a server's failure is kept (RFC 9520 section 3.2 asks for a second at least).
const FAILURE: Duration = Duration::from_secs(1);

/// What the far side has said to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    raw: Bytes,
    /// How long it may be kept; zero: it may not.
    pub(crate) keep: Duration,
}

impl Asked {
    /// The same question for the far side. Options stay here: client subnet (RFC 7871) would tell
    /// the network that the app is in, and a cookie would be another server's.
    pub(crate) fn far_query(&self) -> Bytes {
        let flags = self.flags();
        let mut query = Vec::with_capacity(HEADER + self.question().len() + wire::OPT_LENGTH);
        query.extend_from_slice(&message::random_id().to_be_bytes());
        let more = u8::from(flags.authentic) << 5 | u8::from(flags.unchecked) << 4;
        let counts = [0, 1, 0, 0, 0, 0, 0, u8::from(flags.dnssec_ok)];
        query.extend_from_slice(&[u8::from(flags.recursion), more]);
        query.extend_from_slice(&counts);
        let (name, rest) = self.question().split_at(self.wire_name().len());
        // The lengths of labels are less than any letter.
        query.extend(name.iter().map(u8::to_ascii_lowercase));
        query.extend_from_slice(rest);
        if flags.dnssec_ok {
            query.extend_from_slice(&wire::opt(u16::MAX, 0, true));
        }
        query.into()
    }
}

impl Answer {
    /// What the far side said to `asked`. `None`: that is no answer to it, or cannot be read.
    pub(crate) fn read(asked: &Asked, raw: Bytes) -> Option<Self> {
        if !message::answers(&asked.raw, &raw) {
            return None;
        }
        let mut least = LONGEST_TTL;
        let mut negative = None;
        let mut answers = 0;
        for record in wire::records(&raw)? {
            let record = record?;
            let is_kept = record.section != Section::Additional && record.kind != kind::OPT;
            if !is_kept {
                continue;
            }
            answers += usize::from(record.section == Section::Answer);
            least = least.min(record.seconds());
            if record.section == Section::Authority && record.kind == kind::SOA {
                negative = record.data.len().checked_sub(4).and_then(|at| {
                    let minimum = raw.get(record.data.start + at..record.data.end)?;
                    Some(u32::from_be_bytes(minimum.try_into().ok()?))
                });
            }
        }
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let keep = match code(&raw) {
            ResponseCode::ServFail => FAILURE,
            _ if message::is_truncated(&raw) => Duration::ZERO,
            ResponseCode::NoError if answers > 0 && negative.is_none() => seconds(least),
            // No data, or an alias that leads to none: kept only where the zone says how long.
            ResponseCode::NoError | ResponseCode::NXDomain => {
                seconds(negative.map_or(0, |minimum| least.min(minimum)))
            }
            _ => Duration::ZERO,
        };
        Some(Self { raw, keep })
    }

    /// The same in memory of its own, which nothing longer shares.
    pub(crate) fn alone(&self) -> Self {
        let raw = Bytes::copy_from_slice(&self.raw);
        Self { raw, ..*self }
    }

    pub(crate) fn code(&self) -> ResponseCode {
        code(&self.raw)
    }

    pub(crate) fn len(&self) -> usize {
        self.raw.len()
    }

    /// The addresses that the app would be told, with their time to live; `None` where they cannot be
    /// read.
    pub(crate) fn addresses(&self) -> Option<Vec<(IpAddr, Duration)>> {
        let mut found = Vec::new();
        for record in wire::records(&self.raw)? {
            let record = record?;
            if record.section == Section::Additional {
                continue;
            }
            let data = self.raw.get(record.data.clone())?;
            let addresses = match record.kind {
                kind::A => vec![<[u8; 4]>::try_from(data).ok()?.into()],
                kind::AAAA => vec![<[u8; 16]>::try_from(data).ok()?.into()],
                kind::SVCB | kind::HTTPS => svcb::hints(&self.raw, record.data.clone())?,
                _ => Vec::new(),
            };
            let ttl = Duration::from_secs(record.seconds().into());
            found.extend(addresses.into_iter().map(|address| (address, ttl)));
        }
        Some(found)
    }

    /// As the app gets it, `age` after it was given: without additional records and, where something
    /// is changed, without addresses, which would lead around the names.
    pub(crate) fn for_app(&self, asked: &Asked, age: Duration, changes: Changes) -> Bytes {
        let code = code(&self.raw);
        match code {
            ResponseCode::NoError | ResponseCode::NXDomain | ResponseCode::YXDomain => {}
            // It was our query that it could not read.
            ResponseCode::FormErr => return asked.code(ResponseCode::ServFail),
            _ => return asked.code(code),
        }
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        let mut is_changed = false;
        let mut writer = Writer::new(&asked.head(code.low(), false), asked.question());
        let all = wire::records(&self.raw).into_iter().flatten().flatten();
        for record in all.filter(|record| record.section != Section::Additional) {
            let Some((owner, _)) = WireName::read(&self.raw, record.owner) else {
                is_changed = true;
                continue;
            };
            let data = match self.parts(asked, &record, &owner, changes) {
                Some((data, is_whole)) => {
                    is_changed |= !is_whole;
                    data
                }
                None => {
                    is_changed = true;
                    continue;
                }
            };
            let ttl = record.seconds().min(LONGEST_TTL).saturating_sub(age);
            writer.add(
                record.section,
                &owner,
                [record.kind, record.class],
                ttl,
                &data,
            );
        }
        let (mut message, is_whole) = writer.finish(asked.opt(0));
        if !is_whole || message::is_truncated(&self.raw) {
            message[2] |= 0x02;
        }
        let flags = asked.flags();
        // What was changed is not what was signed.
        let is_authentic = self.raw[3] & 0x20 != 0 && !is_changed && is_whole;
        if is_authentic && (flags.authentic || flags.dnssec_ok) {
            message[3] |= 0x20;
        }
        message.into()
    }

    /// The data of a record as the app may see it, and whether it is as it was; `None`: the app
    /// may not see it, or it cannot be read.
    fn parts(
        &self,
        asked: &Asked,
        record: &Found,
        owner: &WireName,
        changes: Changes,
    ) -> Option<(Vec<Part>, bool)> {
        let data = record.data.clone();
        match record.kind {
            kind::A | kind::AAAA | kind::SVCB | kind::HTTPS | kind::RRSIG if changes.none => {
                Some((plain(&self.raw, record.kind, data)?, true))
            }
            kind::A | kind::AAAA | kind::OPT | kind::TKEY | kind::TSIG => None,
            kind::SVCB | kind::HTTPS => {
                let is_about_question = asked.is_about(owner);
                let parts = svcb::rewrite(&self.raw, data, is_about_question, changes)?;
                Some((parts, false))
            }
            // A signature of what is changed.
            kind::RRSIG if is_changed_kind(u16_at(&self.raw, data.start)?) => None,
            other => Some((plain(&self.raw, other, data)?, true)),
        }
    }
}

fn is_changed_kind(covered: u16) -> bool {
    matches!(covered, kind::A | kind::AAAA | kind::SVCB | kind::HTTPS)
}

fn code(raw: &[u8]) -> ResponseCode {
    ResponseCode::from_low(raw[3] & 0xf)
}

/// How the data of a type begins: octets, strings, names; and whether these may be short.
fn layout(kind: u16) -> Option<(usize, usize, usize, bool)> {
    Some(match kind {
        // NS, MD, MF, CNAME, MB, MG, MR, PTR
        2..=5 | 7..=9 | 12 => (0, 0, 1, true),
        // SOA, MINFO
        6 | 14 => (0, 0, 2, true),
        // MX
        15 => (2, 0, 1, true),
        // RP
        17 => (0, 0, 2, false),
        // AFSDB, RT, KX
        18 | 21 | 36 => (2, 0, 1, false),
        // SIG, RRSIG
        24 | 46 => (18, 0, 1, false),
        // PX
        26 => (2, 0, 2, false),
        // NXT, DNAME, NSEC
        30 | 39 | 47 => (0, 0, 1, false),
        // SRV
        33 => (6, 0, 1, false),
        // NAPTR
        35 => (4, 3, 1, false),
        _ => return None,
    })
}

/// The data of a record of a type without addresses, its names made whole.
fn plain(message: &[u8], kind: u16, data: std::ops::Range<usize>) -> Option<Vec<Part>> {
    let Some((octets, strings, names, is_short)) = layout(kind) else {
        return Some(vec![Part::Octets(message.get(data)?.to_vec())]);
    };
    let mut at = data.start + octets;
    for _ in 0..strings {
        at += 1 + usize::from(*message.get(at)?);
    }
    let mut parts = vec![Part::Octets(message.get(data.start..at)?.to_vec())];
    for _ in 0..names {
        let (name, end) = WireName::read(message, at)?;
        parts.push(match is_short {
            true => Part::Short(name),
            false => Part::Whole(name),
        });
        at = end;
    }
    if at > data.end {
        return None;
    }
    parts.push(Part::Octets(message.get(at..data.end)?.to_vec()));
    Some(parts)
}

#[cfg(test)]
mod tests;
