use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, RecordType};
use hickory_proto::serialize::binary::BinEncodable;

use offramp_rules::DomainName;

use crate::Family;
use crate::wire::{self, HEADER, OPT_LENGTH, QUESTION_NAME, WireName, kind, labels, u16_at};

/// What we say we can take over UDP: fits every path (the DNS flag day of 2020).
const OUR_PAYLOAD: u16 = 1232;

/// Seconds for which a synthetic or negative answer may be cached: so that an app follows a change
/// of rules at its next look-up, which costs no round trip.
const SHORT_TTL: u32 = 1;

/// `offramp.invalid.`, then `.`, and five numbers of which the last limits negative caching.
const OUR_SOA: &[u8] =
    b"\x07offramp\x07invalid\0\0\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x01";

/// What came in.
pub(crate) enum Received {
    /// No query, or no header: not to be answered.
    Nothing,
    /// A query that is wrong in itself, with the answer that says so.
    Wrong(Bytes),
    /// One question.
    Asked(Asked),
}

/// A query with one question.
#[derive(Debug)]
pub(crate) struct Asked {
    /// As received, for what is forwarded.
    pub(crate) raw: Bytes,
    pub(crate) kind: RecordType,
    pub(crate) class: DNSClass,
    /// Where the question ends, which begins behind the header.
    end: usize,
    edns: Option<Edns>,
}

/// What an app says of itself beyond RFC 1035; options are not looked at.
#[derive(Clone, Copy, Debug)]
struct Edns {
    payload: u16,
    version: u8,
    dnssec_ok: bool,
}

impl Received {
    pub(crate) fn read(raw: Bytes) -> Self {
        let Some(head) = raw.first_chunk::<HEADER>() else {
            return Self::Nothing;
        };
        let (flags, questions) = (head[2], [head[4], head[5]]);
        if flags & 0x80 != 0 {
            return Self::Nothing;
        }
        let wrong = |code: ResponseCode| {
            let echoed = 0x80 | flags & 0x79;
            let head = [
                head[0],
                head[1],
                echoed,
                0x80 | code.low(),
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
            ];
            Self::Wrong(Bytes::copy_from_slice(&head))
        };
        if flags & 0x78 != 0 {
            return wrong(ResponseCode::NotImp);
        }
        if questions != [0, 1] {
            return wrong(ResponseCode::FormErr);
        }
        match Asked::read(&raw) {
            Some(asked) if asked.edns.is_some_and(|edns| edns.version > 0) => {
                Self::Wrong(asked.code(ResponseCode::BADVERS))
            }
            Some(asked) => Self::Asked(asked),
            None => wrong(ResponseCode::FormErr),
        }
    }
}

impl Asked {
    fn read(raw: &Bytes) -> Option<Self> {
        let end = wire::question(raw)?.end;
        Some(Self {
            raw: raw.clone(),
            kind: RecordType::from(u16_at(raw, end - 4)?),
            class: DNSClass::from(u16_at(raw, end - 2)?),
            end,
            edns: Edns::read(raw)?,
        })
    }

    /// The name asked for, with the length of each label before it.
    pub(crate) fn wire_name(&self) -> &[u8] {
        &self.raw[HEADER..self.end - 4]
    }

    pub(crate) fn is_root(&self) -> bool {
        self.wire_name() == [0]
    }

    /// The name asked for, if host names can express it.
    pub(crate) fn name(&self) -> Option<DomainName> {
        domain_name(labels(self.wire_name()))
    }

    /// What of the name host names can express, from the end: what rules can be about.
    pub(crate) fn suffix(&self) -> Option<DomainName> {
        let all: Vec<_> = labels(self.wire_name()).collect();
        (1..all.len()).find_map(|skipped| domain_name(all[skipped..].iter().copied()))
    }

    /// Whether the app asked for a name that it spelled in the same or another case.
    pub(crate) fn is_about(&self, name: &WireName) -> bool {
        self.wire_name().eq_ignore_ascii_case(name.as_bytes())
    }

    pub(crate) fn question(&self) -> &[u8] {
        &self.raw[HEADER..self.end]
    }

    /// Recursion wanted, authentic data understood, checking disabled, DNSSEC OK: what an answer
    /// depends on besides the question.
    pub(crate) fn flags(&self) -> Flags {
        Flags {
            recursion: self.raw[2] & 1 != 0,
            authentic: self.raw[3] & 0x20 != 0,
            unchecked: self.raw[3] & 0x10 != 0,
            dnssec_ok: self.edns.is_some_and(|edns| edns.dnssec_ok),
        }
    }

    /// An answer of ours with one address.
    pub(crate) fn address(&self, address: IpAddr) -> Bytes {
        match address {
            IpAddr::V4(v4) => self.reply(ResponseCode::NoError, &[(kind::A, &v4.octets())], false),
            IpAddr::V6(v6) => {
                self.reply(ResponseCode::NoError, &[(kind::AAAA, &v6.octets())], false)
            }
        }
    }

    /// An answer of ours with these records.
    pub(crate) fn records(&self, data: &[RData]) -> Bytes {
        let written: Vec<_> = data
            .iter()
            .map(|data| {
                let octets = data.to_bytes().expect("a record of ours can be written");
                (u16::from(data.record_type()), octets)
            })
            .collect();
        let answers: Vec<_> = written
            .iter()
            .map(|(kind, data)| (*kind, &**data))
            .collect();
        self.reply(ResponseCode::NoError, &answers, false)
    }

    /// NXDOMAIN or NODATA, with the SOA that limits how long it is cached (RFC 2308).
    pub(crate) fn negative(&self, code: ResponseCode) -> Bytes {
        self.reply(code, &[], true)
    }

    /// An answer that is a code alone.
    pub(crate) fn code(&self, code: ResponseCode) -> Bytes {
        self.reply(code, &[], false)
    }

    fn reply(&self, code: ResponseCode, answers: &[(u16, &[u8])], soa: bool) -> Bytes {
        let mut message = Vec::with_capacity(self.end + 96);
        message.extend_from_slice(&self.head(code.low(), false));
        message[7] = u8::try_from(answers.len()).expect("a few records");
        message[9] = u8::from(soa);
        message.extend_from_slice(self.question());
        for (kind, data) in answers {
            message.extend_from_slice(&QUESTION_NAME);
            add(&mut message, *kind, data);
        }
        if soa {
            // The zone is the name above.
            let first = labels(self.wire_name()).next().map_or(0, <[u8]>::len);
            let above = HEADER + 1 + first;
            match first == 0 || self.raw[above] == 0 {
                true => message.push(0),
                false => message.extend([0xc0, u8::try_from(above).expect("one label")]),
            }
            add(&mut message, kind::SOA, OUR_SOA);
        }
        if let Some(opt) = self.opt(code.high()) {
            message[11] = 1;
            message.extend_from_slice(&opt);
        }
        message.into()
    }

    /// The header of an answer without records.
    pub(crate) fn head(&self, code: u8, is_authentic: bool) -> [u8; HEADER] {
        let asked = &self.raw;
        let flags = 0x80 | asked[2] & 0x01;
        let more = 0x80 | asked[3] & 0x10 | u8::from(is_authentic) << 5 | code & 0xf;
        [asked[0], asked[1], flags, more, 0, 1, 0, 0, 0, 0, 0, 0]
    }

    /// What we say of ourselves to an app that did.
    pub(crate) fn opt(&self, high_code: u8) -> Option<[u8; OPT_LENGTH]> {
        let edns = self.edns?;
        Some(wire::opt(OUR_PAYLOAD, high_code, edns.dnssec_ok))
    }

    /// The most that the app takes over UDP, in bytes.
    fn udp_limit(&self) -> usize {
        usize::from(self.edns.map_or(512, |edns| edns.payload.max(512)))
    }

    /// The answer as the app gets it over UDP: cut behind the last whole record that fits, and
    /// marked so, when all of it is more than the app takes.
    pub(crate) fn fit_udp(&self, answer: Bytes) -> Bytes {
        let limit = self.udp_limit();
        if answer.len() <= limit {
            return answer;
        }
        let opt = self.opt(0);
        let room = limit - opt.map_or(0, |opt| opt.len());
        let (mut end, mut count) = (self.end, 0_u16);
        let whole = wire::records(&answer)
            .into_iter()
            .flatten()
            .map_while(|r| r);
        for record in whole {
            if record.section != wire::Section::Answer || record.data.end > room {
                break;
            }
            (end, count) = (record.data.end, count + 1);
        }
        let mut cut = answer.get(..end).unwrap_or(&answer[..HEADER]).to_vec();
        cut[2] |= 0x02;
        cut[6..8].copy_from_slice(&count.to_be_bytes());
        cut[8..12].copy_from_slice(&[0, 0, 0, u8::from(opt.is_some())]);
        cut.extend(opt.into_iter().flatten());
        cut.into()
    }

    /// Makes another server's answer one to this query: its id, its spelling of the name.
    /// `None` when it answers something else.
    pub(crate) fn adopt(&self, answer: &[u8]) -> Option<Bytes> {
        if !answers(&self.raw, answer) {
            return None;
        }
        let mut answer = answer.to_vec();
        answer[..2].copy_from_slice(&self.raw[..2]);
        answer[HEADER..self.end].copy_from_slice(self.question());
        Some(answer.into())
    }
}

/// What an answer depends on besides the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flags {
    pub(crate) recursion: bool,
    pub(crate) authentic: bool,
    pub(crate) unchecked: bool,
    pub(crate) dnssec_ok: bool,
}

impl Edns {
    /// What the query's additional records say; `None` when its records cannot be read.
    fn read(raw: &[u8]) -> Option<Option<Self>> {
        let mut found = None;
        for record in wire::records(raw)? {
            let record = record?;
            if record.kind != kind::OPT {
                continue;
            }
            let is_wrong = record.section != wire::Section::Additional
                || raw[record.owner] != 0
                || found.is_some();
            if is_wrong {
                return None;
            }
            let [_, version, flags, _] = record.ttl.to_be_bytes();
            found = Some(Self {
                payload: record.class,
                version,
                dnssec_ok: flags & 0x80 != 0,
            });
        }
        Some(found)
    }
}

/// The rest of a record of ours, behind its name.
fn add(message: &mut Vec<u8>, kind: u16, data: &[u8]) {
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&u16::from(DNSClass::IN).to_be_bytes());
    message.extend_from_slice(&SHORT_TTL.to_be_bytes());
    let length = u16::try_from(data.len()).expect("data of ours is short");
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(data);
}

/// Whether `answer` is a response to the question of `query`; ids are not compared.
pub(crate) fn answers(query: &[u8], answer: &[u8]) -> bool {
    let (Some(asked), Some(answered)) = (wire::question(query), wire::question(answer)) else {
        return false;
    };
    let is_response = answer[2] & 0xf8 == 0x80;
    let one_question = answer[4..6] == [0, 1];
    let (name, rest) = query[asked.clone()].split_at(asked.len() - 4);
    is_response
        && one_question
        && asked == answered
        && name.eq_ignore_ascii_case(&answer[asked.start..asked.end - 4])
        && answer[asked].ends_with(rest)
}

/// An id for a query of ours.
pub(crate) fn random_id() -> u16 {
    // hickory draws the id of a new query from a cryptographic generator.
    Message::query().metadata.id
}

/// A query for the addresses of a name.
pub(crate) fn question(name: &DomainName, family: Family) -> Option<Vec<u8>> {
    let kind = match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    };
    let mut query = random_id().to_be_bytes().to_vec();
    query.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.as_str().split('.') {
        query.push(u8::try_from(label.len()).ok()?);
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&u16::from(kind).to_be_bytes());
    query.extend_from_slice(&u16::from(DNSClass::IN).to_be_bytes());
    Some(query)
}

/// The addresses in the answer section with their time to live; `None` when it cannot be read.
///
/// Records of other types are passed over unread, so that an odd one does no harm.
pub(crate) fn addresses(answer: &[u8]) -> Option<Vec<(IpAddr, Duration)>> {
    let mut found = Vec::new();
    for record in wire::records(answer)? {
        let record = record?;
        if record.section != wire::Section::Answer {
            break;
        }
        let data = &answer[record.data.clone()];
        let address = match (record.class, record.kind) {
            (1, kind::A) => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
            (1, kind::AAAA) => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
            _ => None,
        };
        let ttl = Duration::from_secs(u64::from(record.seconds()));
        found.extend(address.map(|address| (address, ttl)));
    }
    Some(found)
}

/// Whether a server said that this is not the whole answer.
pub(crate) fn is_truncated(answer: &[u8]) -> bool {
    answer.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

fn domain_name<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Option<DomainName> {
    let mut text = String::with_capacity(64);
    let mut count = 0;
    for label in labels {
        // Some programs ask for Unicode as it is (RFC 6055 section 3).
        let label = std::str::from_utf8(label).ok()?;
        if !label
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_') || !c.is_ascii())
        {
            return None;
        }
        text.extend(label.chars().map(|c| c.to_ascii_lowercase()));
        text.push('.');
        count += 1;
    }
    let name = DomainName::parse(&text).ok()?;
    // IDNA has other full stops; in a label they end none.
    (name.as_str().split('.').count() == count).then_some(name)
}

#[cfg(test)]
mod tests;
