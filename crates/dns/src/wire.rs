//! Messages as they are on the wire: walked and written without understanding what is not needed.

use std::collections::HashMap;
use std::ops::Range;

pub(crate) const HEADER: usize = 12;

/// The longest name in octets, with the root's (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 255;

/// The longest message over TCP.
const LONGEST: usize = 65_535;

/// A pointer to the name of the question.
pub(crate) const QUESTION_NAME: [u8; 2] = [0xc0, HEADER as u8];

/// The two highest bits of a length octet that is a pointer (RFC 1035 section 4.1.4).
const POINTER: u8 = 0xc0;

/// Types whose data this crate knows.
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const RRSIG: u16 = 46;
    pub(crate) const SVCB: u16 = 64;
    pub(crate) const HTTPS: u16 = 65;
    pub(crate) const TKEY: u16 = 249;
    pub(crate) const TSIG: u16 = 250;
}

/// A name, whole and as it was spelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WireName(Vec<u8>);

impl WireName {
    /// The name at `at` and where what follows begins. Pointers lead backwards only, so that no
    /// name is without end.
    pub(crate) fn read(message: &[u8], at: usize) -> Option<(Self, usize)> {
        let mut name = Vec::with_capacity(32);
        let (mut at, mut before, mut end) = (at, at, None);
        loop {
            let length = *message.get(at)?;
            match length & POINTER {
                0 => {
                    let label = message.get(at..=at + usize::from(length))?;
                    name.extend_from_slice(label);
                    if name.len() > LONGEST_NAME {
                        return None;
                    }
                    at += label.len();
                    if length == 0 {
                        return Some((Self(name), end.unwrap_or(at)));
                    }
                }
                POINTER => {
                    let low = *message.get(at + 1)?;
                    let to = usize::from(u16::from_be_bytes([length & !POINTER, low]));
                    if to >= before || to < HEADER {
                        return None;
                    }
                    end.get_or_insert(at + 2);
                    (at, before) = (to, to);
                }
                _ => return None,
            }
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0 == [0]
    }
}

/// The labels of a whole name, without the root's.
pub(crate) fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first()?;
        let (label, after) = after.split_at_checked(usize::from(*length))?;
        rest = after;
        (!label.is_empty()).then_some(label)
    })
}

/// Where the one question stands: a name without pointers, a type, a class.
pub(crate) fn question(message: &[u8]) -> Option<Range<usize>> {
    let mut at = HEADER;
    loop {
        let length = *message.get(at)?;
        if length & POINTER != 0 {
            return None;
        }
        at += 1 + usize::from(length);
        if at - HEADER > LONGEST_NAME {
            return None;
        }
        if length == 0 {
            break;
        }
    }
    (message.len() >= at + 4).then_some(HEADER..at + 4)
}

pub(crate) fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    let octets = message.get(at..at + 2)?;
    Some(u16::from_be_bytes(octets.try_into().ok()?))
}

fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    let octets = message.get(at..at + 4)?;
    Some(u32::from_be_bytes(octets.try_into().ok()?))
}

/// Which part of a message a record stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// One record of a message.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) section: Section,
    pub(crate) owner: usize,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    /// As written: what a TTL means is told by [`Found::seconds`].
    pub(crate) ttl: u32,
    pub(crate) data: Range<usize>,
}

impl Found {
    /// The TTL; one with the highest bit set means 0 (RFC 2181 section 8).
    pub(crate) fn seconds(&self) -> u32 {
        if self.ttl > i32::MAX as u32 {
            0
        } else {
            self.ttl
        }
    }
}

/// The records of a message with one question; a record that cannot be read is `None` and the last.
pub(crate) struct Records<'a> {
    message: &'a [u8],
    at: usize,
    left: [u16; 3],
}

pub(crate) fn records(message: &[u8]) -> Option<Records<'_>> {
    let at = question(message)?.end;
    let mut left = [0; 3];
    for (index, count) in left.iter_mut().enumerate() {
        *count = u16_at(message, 6 + 2 * index)?;
    }
    Some(Records { message, at, left })
}

impl Records<'_> {
    fn read(&mut self, section: Section) -> Option<Found> {
        let owner = self.at;
        let at = skip_name(self.message, owner)?;
        let length = usize::from(u16_at(self.message, at + 8)?);
        let data = at + 10..at + 10 + length;
        self.message.get(data.clone())?;
        self.at = data.end;
        Some(Found {
            section,
            owner,
            kind: u16_at(self.message, at)?,
            class: u16_at(self.message, at + 2)?,
            ttl: u32_at(self.message, at + 4)?,
            data,
        })
    }
}

impl Iterator for Records<'_> {
    type Item = Option<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        const SECTIONS: [Section; 3] = [Section::Answer, Section::Authority, Section::Additional];
        let index = self.left.iter().position(|left| *left > 0)?;
        self.left[index] -= 1;
        let found = self.read(SECTIONS[index]);
        if found.is_none() {
            self.left = [0; 3];
        }
        Some(found)
    }
}

/// Where the name at `at` ends; what a pointer leads to is not looked at.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *message.get(at)?;
        match length & POINTER {
            0 if length == 0 => return Some(at + 1),
            0 => at += 1 + usize::from(length),
            POINTER => return Some(at + 2),
            _ => return None,
        }
    }
}

/// Writes a message, names as short as they can be.
pub(crate) struct Writer {
    message: Vec<u8>,
    /// Where the question's name stands.
    asked: Range<usize>,
    counts: [u16; 3],
    /// Where the rest of a name, spelled so, has been written before.
    known: HashMap<Vec<u8>, u16>,
    is_full: bool,
}

/// A name within a record's data, or octets.
pub(crate) enum Part {
    /// May be written as a pointer (types of RFC 1035 only, RFC 3597 section 4).
    Short(WireName),
    /// Is written whole.
    Whole(WireName),
    Octets(Vec<u8>),
}

impl Writer {
    /// Begins with a header of which the counts are written at the end, and the question.
    pub(crate) fn new(head: &[u8], question: &[u8]) -> Self {
        let mut writer = Self {
            message: head.to_vec(),
            asked: head.len()..head.len() + question.len().saturating_sub(4),
            counts: [0; 3],
            known: HashMap::new(),
            is_full: false,
        };
        writer.message.extend_from_slice(question);
        let name = writer.message[writer.asked.clone()].to_vec();
        writer.remember(&name, head.len());
        writer
    }

    /// Adds a record; from the first one on that does not fit, none is added.
    pub(crate) fn add(
        &mut self,
        section: Section,
        owner: &WireName,
        [kind, class]: [u16; 2],
        ttl: u32,
        data: &[Part],
    ) {
        if self.is_full {
            return;
        }
        let start = self.message.len();
        // An owner that was asked for is spelled as it was.
        match owner
            .0
            .eq_ignore_ascii_case(&self.message[self.asked.clone()])
        {
            true => self.message.extend_from_slice(&QUESTION_NAME),
            false => self.name(owner, true),
        }
        self.message.extend_from_slice(&kind.to_be_bytes());
        self.message.extend_from_slice(&class.to_be_bytes());
        self.message.extend_from_slice(&ttl.to_be_bytes());
        let length_at = self.message.len();
        self.message.extend_from_slice(&[0; 2]);
        for part in data {
            match part {
                Part::Short(name) => self.name(name, true),
                Part::Whole(name) => self.name(name, false),
                Part::Octets(octets) => self.message.extend_from_slice(octets),
            }
        }
        // An OPT record has to fit as well.
        if self.message.len() + OPT_LENGTH > LONGEST {
            self.message.truncate(start);
            self.is_full = true;
            return;
        }
        let length = u16::try_from(self.message.len() - length_at - 2).unwrap_or(0);
        self.message[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        self.counts[section as usize] += 1;
    }

    /// The message, and whether all records found room.
    pub(crate) fn finish(mut self, opt: Option<[u8; OPT_LENGTH]>) -> (Vec<u8>, bool) {
        if let Some(opt) = opt {
            self.message.extend_from_slice(&opt);
            self.counts[Section::Additional as usize] += 1;
        }
        for (index, count) in self.counts.into_iter().enumerate() {
            self.message[6 + 2 * index..8 + 2 * index].copy_from_slice(&count.to_be_bytes());
        }
        (self.message, !self.is_full)
    }

    fn name(&mut self, name: &WireName, is_short: bool) {
        let mut rest = name.as_bytes();
        let start = self.message.len();
        while let [length, ..] = *rest
            && length > 0
        {
            if is_short && let Some(at) = self.known.get(rest) {
                let pointer = at | u16::from(POINTER) << 8;
                self.message.extend_from_slice(&pointer.to_be_bytes());
                return self.remember(name.as_bytes(), start);
            }
            let (label, after) = rest.split_at(1 + usize::from(length));
            self.message.extend_from_slice(label);
            rest = after;
        }
        self.message.push(0);
        self.remember(name.as_bytes(), start);
    }

    fn remember(&mut self, name: &[u8], start: usize) {
        let mut rest = name;
        while let [length, ..] = *rest
            && length > 0
        {
            let at = start + name.len() - rest.len();
            // What a pointer cannot reach needs no place; what is known has a place already, and
            // what follows it too.
            let Some(at) = u16::try_from(at).ok().filter(|at| *at < 0x4000) else {
                return;
            };
            match self.known.entry(rest.to_vec()) {
                std::collections::hash_map::Entry::Occupied(_) => return,
                std::collections::hash_map::Entry::Vacant(free) => free.insert(at),
            };
            rest = &rest[1 + usize::from(length)..];
        }
    }
}

/// An OPT record without options.
pub(crate) const OPT_LENGTH: usize = 11;

/// An OPT record (RFC 6891 section 6.1.2) without options.
pub(crate) fn opt(payload: u16, high_code: u8, dnssec_ok: bool) -> [u8; OPT_LENGTH] {
    let [high, low] = payload.to_be_bytes();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    [0, 0, 41, high, low, high_code, 0, flags, 0, 0, 0]
}

#[cfg(test)]
mod tests;
