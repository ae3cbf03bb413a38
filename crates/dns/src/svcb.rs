//! HTTPS and SVCB records (RFC 9460) as an app may see them: no address but synthetic ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::{Part, WireName, u16_at};

mod key {
    pub(super) const MANDATORY: u16 = 0;
    pub(super) const IPV4_HINT: u16 = 4;
    pub(super) const ECH: u16 = 5;
    pub(super) const IPV6_HINT: u16 = 6;
}

/// What the parameters of a record are replaced by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changes {
    /// In place of addresses, where the record is about the name that was asked for.
    pub(crate) ipv4: Option<Ipv4Addr>,
    pub(crate) ipv6: Option<Ipv6Addr>,
    /// Whether the configuration of Encrypted Client Hello stays.
    pub(crate) keep_ech: bool,
    /// Nothing is changed: the app is told true addresses.
    pub(crate) none: bool,
}

/// The data of a record, changed; `None` for what clients have to reject anyway.
///
/// Hints of another target are left out: its name is looked up, and gets an address then.
pub(crate) fn rewrite(
    message: &[u8],
    data: std::ops::Range<usize>,
    is_about_question: bool,
    changes: Changes,
) -> Option<Vec<Part>> {
    let priority = u16_at(message, data.start)?;
    let (target, at) = WireName::read(message, data.start + 2)?;
    let given = message.get(at..data.end)?;
    let own = is_about_question && target.is_root();
    let written = match priority {
        // An alias has no parameters (RFC 9460 section 2.4.2).
        0 => Vec::new(),
        _ => write(&parameters(given)?, own, changes),
    };
    Some(vec![
        Part::Octets(priority.to_be_bytes().to_vec()),
        Part::Whole(target),
        Part::Octets(written),
    ])
}

/// The addresses in the data of a record; `None` for what clients have to reject.
pub(crate) fn hints(message: &[u8], data: std::ops::Range<usize>) -> Option<Vec<IpAddr>> {
    let (_, at) = WireName::read(message, data.start + 2)?;
    let mut hints = Vec::new();
    for (key, value) in parameters(message.get(at..data.end)?)? {
        match key {
            key::IPV4_HINT => {
                hints.extend(value.as_chunks::<4>().0.iter().copied().map(IpAddr::from))
            }
            key::IPV6_HINT => {
                hints.extend(value.as_chunks::<16>().0.iter().copied().map(IpAddr::from))
            }
            _ => {}
        }
    }
    Some(hints)
}

/// Keys and values, keys ascending.
fn parameters(mut rest: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut all: Vec<(u16, &[u8])> = Vec::new();
    while !rest.is_empty() {
        let key = u16_at(rest, 0)?;
        let length = usize::from(u16_at(rest, 2)?);
        let value = rest.get(4..4 + length)?;
        if all.last().is_some_and(|(last, _)| *last >= key) {
            return None;
        }
        all.push((key, value));
        rest = &rest[4 + length..];
    }
    Some(all)
}

fn write(parameters: &[(u16, &[u8])], own: bool, changes: Changes) -> Vec<u8> {
    let ipv4 = changes.ipv4.filter(|_| own).map(|address| address.octets());
    let ipv6 = changes.ipv6.filter(|_| own).map(|address| address.octets());
    let is_dropped = |key: u16| match key {
        key::IPV4_HINT => ipv4.is_none(),
        key::IPV6_HINT => ipv6.is_none(),
        key::ECH => !changes.keep_ech,
        _ => false,
    };
    let mut written = Vec::new();
    for (key, value) in parameters {
        // A key that is mandatory has to be there.
        let kept: Vec<u8> = match *key {
            key::MANDATORY => value
                .chunks_exact(2)
                .filter(|key| u16_at(key, 0).is_some_and(|key| !is_dropped(key)))
                .flatten()
                .copied()
                .collect(),
            key::IPV4_HINT => ipv4.into_iter().flatten().collect(),
            key::IPV6_HINT => ipv6.into_iter().flatten().collect(),
            _ => value.to_vec(),
        };
        if is_dropped(*key) || *key == key::MANDATORY && kept.is_empty() {
            continue;
        }
        written.extend_from_slice(&key.to_be_bytes());
        written.extend_from_slice(&u16::try_from(kept.len()).unwrap_or(0).to_be_bytes());
        written.extend_from_slice(&kept);
    }
    written
}

#[cfg(test)]
mod tests;
