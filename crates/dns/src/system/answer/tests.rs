use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, OpCode, Query};
use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, SRV, SVCB};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn record(owner: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(owner), ttl, data)
}

fn address(text: &str) -> RData {
    match text.parse().unwrap() {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

fn answer(kind: RecordType, records: &[Record]) -> Message {
    let mut message = Message::response(7, OpCode::Query);
    message.add_query(Query::query(name("Asked.Example."), kind));
    for record in records {
        message.add_answer(record.clone());
    }
    message
}

#[track_caller]
fn check(message: &Message, expected: &[&str]) -> Message {
    let tidied = tidy(&message.to_vec().unwrap(), HOUR).expect("it can be read");
    let found: Vec<String> = tidied
        .addresses
        .iter()
        .map(|(address, life)| format!("{address} {}", life.as_secs()))
        .collect();
    assert_eq!(found, expected);
    Message::from_vec(&tidied.answer).expect("it can still be read")
}

#[test]
fn addresses_are_those_that_the_name_leads_to() {
    let to = |target: &str| RData::CNAME(CNAME(name(target)));
    let message = answer(
        RecordType::A,
        &[
            record("far.test.", 60, address("192.0.2.1")),
            record("ASKED.example.", 60, to("near.example.")),
            record("near.example.", 60, to("Far.test.")),
            record("else.test.", 60, address("192.0.2.66")),
        ],
    );
    check(&message, &["192.0.2.1 60"]);
    // A ring ends.
    let message = answer(
        RecordType::A,
        &[
            record("asked.example.", 60, to("b.example.")),
            record("b.example.", 60, to("asked.example.")),
        ],
    );
    check(&message, &[]);
}

#[test]
fn nothing_lives_for_longer_than_the_addresses_are_open() {
    let message = answer(
        RecordType::AAAA,
        &[
            record("asked.example.", 86_400, address("2001:db8::1")),
            record("asked.example.", 5, address("2001:db8::2")),
        ],
    );
    let told = check(&message, &["2001:db8::1 86400", "2001:db8::2 5"]);
    let lives: Vec<u32> = told.answers.iter().map(|record| record.ttl).collect();
    assert_eq!(lives, [3600, 5]);
}

#[test]
fn hints_are_addresses_and_additional_ones_are_left_out() {
    let hints = vec![
        (
            SvcParamKey::Ipv4Hint,
            SvcParamValue::Ipv4Hint(IpHint(vec![A(Ipv4Addr::new(192, 0, 2, 7))])),
        ),
        (
            SvcParamKey::Ipv6Hint,
            SvcParamValue::Ipv6Hint(IpHint(vec![AAAA(Ipv6Addr::LOCALHOST)])),
        ),
    ];
    let data = RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), hints)));
    let message = answer(RecordType::HTTPS, &[record("asked.example.", 60, data)]);
    check(&message, &["192.0.2.7 60", "::1 60"]);
    let service = RData::SRV(SRV::new(1, 1, 80, name("relayed.test.")));
    let mut message = answer(RecordType::SRV, &[record("asked.example.", 60, service)]);
    message.add_additional(record("relayed.test.", 60, address("192.0.2.9")));
    message.set_edns(Edns::new());
    let told = check(&message, &[]);
    assert!(told.additionals.is_empty() && told.edns.is_some());
    assert_eq!(told.answers.len(), 1);
}

#[test]
fn what_is_cut_off_is_no_answer() {
    let message = answer(
        RecordType::A,
        &[record("asked.example.", 60, address("192.0.2.1"))],
    );
    let octets = message.to_vec().unwrap();
    for length in 0..octets.len() {
        assert!(tidy(&octets[..length], HOUR).is_none(), "{length}");
    }
}
