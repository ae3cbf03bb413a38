use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use offramp_rules::DomainName;

use crate::Family;

/// What we say we can take over UDP: fits every path (the DNS flag day of 2020).
const OUR_PAYLOAD: u16 = 1232;

/// Seconds for which a synthetic or negative answer may be cached.
const SHORT_TTL: u32 = 1;

const HEADER: usize = 12;

/// What came in.
pub(crate) enum Received {
    /// No query, or no header: not to be answered.
    Nothing,
    /// A query that is wrong in itself, with the answer that says so.
    Wrong(Bytes),
    /// One question.
    Asked(Box<Asked>),
}

/// A query with one question.
pub(crate) struct Asked {
    pub(crate) question: Query,
    /// As received, for what is forwarded.
    pub(crate) raw: Bytes,
    metadata: Metadata,
    edns: Option<Edns>,
    question_at: Range<usize>,
}

impl Received {
    pub(crate) fn read(raw: Bytes) -> Self {
        let Some(&[id_high, id_low, flags, _, count_high, count_low, ..]) = raw.get(..HEADER)
        else {
            return Self::Nothing;
        };
        let id = u16::from_be_bytes([id_high, id_low]);
        if flags & 0x80 != 0 {
            return Self::Nothing;
        }
        let opcode = OpCode::from_u8((flags >> 3) & 0xf);
        let wrong = |code| Self::Wrong(encode(&Message::error_msg(id, opcode, code)));
        if opcode != OpCode::Query {
            return wrong(ResponseCode::NotImp);
        }
        if u16::from_be_bytes([count_high, count_low]) != 1 {
            return wrong(ResponseCode::FormErr);
        }
        match Asked::read(raw) {
            Some(asked) if asked.edns.as_ref().is_some_and(|edns| edns.version() > 0) => {
                Self::Wrong(asked.code(ResponseCode::BADVERS))
            }
            Some(asked) => Self::Asked(Box::new(asked)),
            None => wrong(ResponseCode::FormErr),
        }
    }
}

impl Asked {
    fn read(raw: Bytes) -> Option<Self> {
        let question_at = question_at(&raw)?;
        let message = Message::from_vec(&raw).ok()?;
        Some(Self {
            question: message.queries.into_iter().next()?,
            metadata: message.metadata,
            edns: message.edns,
            question_at,
            raw,
        })
    }

    /// The name asked for, if host names can express it.
    pub(crate) fn name(&self) -> Option<DomainName> {
        domain_name(self.question.name())
    }

    /// An answer of ours with one record.
    pub(crate) fn record(&self, data: RData) -> Bytes {
        let mut message = self.reply(ResponseCode::NoError);
        message.add_answer(Record::from_rdata(
            self.question.name().clone(),
            SHORT_TTL,
            data,
        ));
        encode(&message)
    }

    /// NXDOMAIN or NODATA, with the SOA that limits how long it is cached (RFC 2308).
    pub(crate) fn negative(&self, code: ResponseCode) -> Bytes {
        let mut message = self.reply(code);
        let ours = Name::from_ascii("offramp.invalid.").expect("a valid name");
        let ttl = i32::try_from(SHORT_TTL).expect("one second");
        let soa = SOA::new(ours.clone(), ours, 1, ttl, ttl, ttl, SHORT_TTL);
        let zone = self.question.name().base_name();
        message.add_authority(Record::from_rdata(zone, SHORT_TTL, RData::SOA(soa)));
        encode(&message)
    }

    /// An answer that is a code alone.
    pub(crate) fn code(&self, code: ResponseCode) -> Bytes {
        encode(&self.reply(code))
    }

    /// The most that the app takes over UDP, in bytes.
    fn udp_limit(&self) -> usize {
        let size = self.edns.as_ref().map_or(512, Edns::max_payload);
        usize::from(size.max(512))
    }

    /// The answer as the app gets it over UDP: header and question alone, marked as truncated,
    /// when all of it is more than the app takes.
    pub(crate) fn fit_udp(&self, answer: Bytes) -> Bytes {
        if answer.len() <= self.udp_limit() {
            return answer;
        }
        let code = ResponseCode::from_low(answer.get(3).map_or(0, |flags| flags & 0xf));
        let mut message = self.reply(code);
        message.metadata.truncation = true;
        encode(&message)
    }

    /// Makes another server's answer one to this query: its id, its spelling of the name.
    /// `None` when it answers something else.
    pub(crate) fn adopt(&self, answer: &[u8]) -> Option<Bytes> {
        if !answers(&self.raw, answer) {
            return None;
        }
        let mut answer = answer.to_vec();
        answer[..2].copy_from_slice(&self.raw[..2]);
        answer[self.question_at.clone()].copy_from_slice(&self.raw[self.question_at.clone()]);
        Some(answer.into())
    }

    fn reply(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.metadata.id, OpCode::Query);
        message.metadata.recursion_desired = self.metadata.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.metadata.checking_disabled;
        message.metadata.response_code = code;
        message.add_query(self.question.clone());
        if let Some(asked) = &self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(OUR_PAYLOAD);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            message.set_edns(edns);
        }
        message
    }
}

/// Whether `answer` is a response to the question of `query`; ids are not compared.
pub(crate) fn answers(query: &[u8], answer: &[u8]) -> bool {
    let (Some(asked), Some(answered)) = (question_at(query), question_at(answer)) else {
        return false;
    };
    let is_response = answer[2] & 0x80 != 0;
    let one_question = answer[4..6] == [0, 1];
    is_response && one_question && query[asked].eq_ignore_ascii_case(&answer[answered])
}

/// A query for the addresses of a name.
pub(crate) fn question(name: &DomainName, family: Family) -> Option<Vec<u8>> {
    let kind = match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    };
    let mut name = Name::from_ascii(name.as_str()).ok()?;
    name.set_fqdn(true);
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    message.to_vec().ok()
}

/// The addresses in the answer section with their time to live; `None` when it cannot be read.
///
/// Records of other types are passed over unread, so that an odd one does no harm.
pub(crate) fn addresses(answer: &[u8]) -> Option<Vec<(IpAddr, Duration)>> {
    let mut decoder = BinDecoder::new(answer);
    let start = u16::try_from(question_at(answer)?.end).ok()?;
    let count = u16::from_be_bytes([*answer.get(6)?, *answer.get(7)?]);
    decoder.read_slice(usize::from(start)).ok()?;
    let mut found = Vec::new();
    for _ in 0..count {
        Name::read(&mut decoder).ok()?;
        let kind = decoder.read_u16().ok()?.unverified();
        let class = decoder.read_u16().ok()?.unverified();
        let ttl = decoder.read_u32().ok()?.unverified();
        let length = usize::from(decoder.read_u16().ok()?.unverified());
        let data = decoder.read_slice(length).ok()?.unverified();
        let address = match (class, kind) {
            (1, 1) => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
            (1, 28) => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
            _ => None,
        };
        // A TTL with the highest bit set means 0 (RFC 2181 section 8).
        let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
        found.extend(address.map(|address| (address, Duration::from_secs(u64::from(ttl)))));
    }
    Some(found)
}

/// Whether a server said that this is not the whole answer.
pub(crate) fn is_truncated(answer: &[u8]) -> bool {
    answer.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

/// Where the first question stands.
fn question_at(message: &[u8]) -> Option<Range<usize>> {
    let mut decoder = BinDecoder::new(message);
    decoder.read_slice(HEADER).ok()?;
    Name::read(&mut decoder).ok()?;
    decoder.read_slice(4).ok()?;
    Some(HEADER..decoder.index())
}

fn domain_name(name: &Name) -> Option<DomainName> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !label
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        {
            return None;
        }
        text.extend(label.iter().map(|b| char::from(*b)));
        text.push('.');
    }
    DomainName::parse(&text).ok()
}

fn encode(message: &Message) -> Bytes {
    debug_assert_eq!(message.metadata.message_type, MessageType::Response);
    message
        .to_vec()
        .expect("a question that was read and at most one record of ours can be written")
        .into()
}

#[cfg(test)]
mod tests;
