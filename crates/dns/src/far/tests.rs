use hickory_proto::op::{Message, OpCode, Query};
use hickory_proto::rr::rdata::svcb::{
    Alpn, EchConfigList, IpHint, Mandatory, SvcParamKey, SvcParamValue,
};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, MX, NS, SRV, SVCB, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;
use crate::message::Received;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn query(owner: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(name(owner), kind));
    message
}

fn asked(message: &Message) -> Asked {
    match Received::read(message.to_vec().unwrap().into()) {
        Received::Asked(asked) => asked,
        Received::Nothing | Received::Wrong(_) => panic!("not read: {message}"),
    }
}

fn answer(query: &Message) -> Message {
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.add_queries(query.queries.iter().cloned());
    answer
}

fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(name(owner), 300, data)
}

/// What the app gets of `answer`, ten seconds old.
fn told(query: &Message, answer: &Message, changes: Changes) -> Message {
    let asked = asked(query);
    let answer = Answer::read(&asked, answer.to_vec().unwrap().into()).expect("readable");
    let told = answer.for_app(&asked, Duration::from_secs(10), changes);
    Message::from_vec(&told).unwrap()
}

#[test]
fn the_far_side_is_asked_without_options_and_in_lower_case() {
    let mut message = query("A.eXample.", RecordType::TXT);
    let mut edns = hickory_proto::op::Edns::new();
    edns.options_mut()
        .insert(hickory_proto::rr::rdata::opt::EdnsOption::Unknown(
            8,
            vec![0, 1, 24, 0, 192, 0, 2],
        ));
    edns.set_dnssec_ok(true);
    message.set_edns(edns);
    message.metadata.checking_disabled = true;
    let sent = Message::from_vec(&asked(&message).far_query()).unwrap();
    assert_eq!(sent.queries[0].name().to_string(), "a.example.");
    assert_eq!(sent.queries[0].query_type(), RecordType::TXT);
    assert!(sent.metadata.checking_disabled && !sent.metadata.recursion_desired);
    let edns = sent.edns.expect("DNSSEC OK is said there");
    assert!(edns.flags().dnssec_ok && edns.options().as_ref().is_empty());
    let plain = asked(&query("a.example.", RecordType::Unknown(0x4141))).far_query();
    let plain = Message::from_vec(&plain).unwrap();
    assert!(plain.edns.is_none());
    assert_eq!(plain.queries[0].query_type(), RecordType::Unknown(0x4141));
}

#[test]
fn no_address_reaches_the_app_in_whatever_section() {
    let a = || RData::A(A::new(192, 0, 2, 1));
    let aaaa = || RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    for (kind, data) in [
        (
            RecordType::MX,
            RData::MX(MX::new(10, name("mail.example."))),
        ),
        (RecordType::NS, RData::NS(NS(name("ns.example.")))),
        (
            RecordType::SRV,
            RData::SRV(SRV::new(1, 2, 3, name("srv.example."))),
        ),
        (RecordType::TXT, RData::TXT(TXT::new(vec!["x".to_owned()]))),
    ] {
        let query = query("A.example.", kind);
        let mut far = answer(&query);
        far.add_answer(record(
            "a.example.",
            RData::CNAME(CNAME(name("b.example."))),
        ));
        far.add_answer(record("b.example.", a()));
        far.add_answer(record("b.example.", data.clone()));
        far.add_authority(record("example.", RData::NS(NS(name("ns.example.")))));
        far.add_authority(record("ns.example.", aaaa()));
        far.add_additional(record("mail.example.", a()));
        far.add_additional(record("mail.example.", aaaa()));
        far.metadata.authentic_data = true;
        let told = told(&query, &far, Changes::default());
        assert!(told.additionals.is_empty(), "{told}");
        let all: Vec<_> = told.answers.iter().map(|record| &record.data).collect();
        assert_eq!(all, [&RData::CNAME(CNAME(name("b.example."))), &data]);
        assert_eq!(told.authorities.len(), 1);
        assert!(told.answers.iter().all(|record| record.ttl == 290));
        assert!(
            !told.metadata.authentic_data,
            "it is changed, and nobody asked"
        );
        assert_eq!(told.queries[0].name().to_string(), "A.example.");
    }
}

#[test]
fn what_was_validated_stays_so_unless_it_is_changed() {
    let mut query = query("a.example.", RecordType::TXT);
    query.metadata.authentic_data = true;
    let mut far = answer(&query);
    far.metadata.authentic_data = true;
    far.add_answer(record(
        "a.example.",
        RData::TXT(TXT::new(vec!["x".to_owned()])),
    ));
    far.add_additional(record("b.example.", RData::A(A::new(192, 0, 2, 1))));
    assert!(
        told(&query, &far, Changes::default())
            .metadata
            .authentic_data
    );
    far.add_answer(record("a.example.", RData::A(A::new(192, 0, 2, 1))));
    assert!(
        !told(&query, &far, Changes::default())
            .metadata
            .authentic_data
    );
}

#[test]
fn a_service_has_synthetic_hints() {
    let query = query("Www.example.", RecordType::HTTPS);
    let mut far = answer(&query);
    far.metadata.authentic_data = true;
    let parameters = |v4, v6| {
        let mut keys = vec![SvcParamKey::Alpn];
        let mut all = vec![(
            SvcParamKey::Alpn,
            SvcParamValue::Alpn(Alpn(vec!["h2".into()])),
        )];
        if let Some(v4) = v4 {
            keys.push(SvcParamKey::Ipv4Hint);
            all.push((
                SvcParamKey::Ipv4Hint,
                SvcParamValue::Ipv4Hint(IpHint(vec![A(v4)])),
            ));
        }
        let ech = SvcParamValue::EchConfigList(EchConfigList(b"config".to_vec()));
        all.push((SvcParamKey::EchConfigList, ech));
        if let Some(v6) = v6 {
            all.push((
                SvcParamKey::Ipv6Hint,
                SvcParamValue::Ipv6Hint(IpHint(vec![AAAA(v6)])),
            ));
        }
        let mandatory = SvcParamValue::Mandatory(Mandatory(keys));
        all.insert(0, (SvcParamKey::Mandatory, mandatory));
        all
    };
    let service = |target: &str, v4: Option<&str>, v6: Option<&str>| {
        let parameters = parameters(
            v4.map(|v4| v4.parse().unwrap()),
            v6.map(|v6| v6.parse().unwrap()),
        );
        RData::HTTPS(HTTPS(SVCB::new(1, name(target), parameters)))
    };
    let real = (Some("192.0.2.1"), Some("2001:db8::1"));
    far.add_answer(record("www.example.", service(".", real.0, real.1)));
    far.add_answer(record(
        "www.example.",
        service("cdn.example.", real.0, real.1),
    ));
    far.add_answer(record("other.example.", service(".", real.0, real.1)));
    let changes = Changes {
        ipv4: Some("198.18.1.1".parse().unwrap()),
        ipv6: None,
        keep_ech: true,
        none: false,
    };
    let told = told(&query, &far, changes);
    let data: Vec<_> = told
        .answers
        .iter()
        .map(|record| record.data.clone())
        .collect();
    assert_eq!(
        data,
        [
            service(".", Some("198.18.1.1"), None),
            service("cdn.example.", None, None),
            service(".", None, None),
        ]
    );
    assert!(!told.metadata.authentic_data);
}

#[test]
fn codes_say_what_the_app_can_use() {
    use ResponseCode as C;
    for (far_code, expected) in [
        (C::NoError, C::NoError),
        (C::NXDomain, C::NXDomain),
        (C::YXDomain, C::YXDomain),
        (C::FormErr, C::ServFail),
        (C::ServFail, C::ServFail),
        (C::NotImp, C::NotImp),
        (C::Refused, C::Refused),
    ] {
        let query = query("a.example.", RecordType::TXT);
        let mut far = answer(&query);
        far.metadata.response_code = far_code;
        far.add_answer(record(
            "a.example.",
            RData::CNAME(CNAME(name("b.example."))),
        ));
        let told = told(&query, &far, Changes::default());
        assert_eq!(told.metadata.response_code, expected);
        let has_records = matches!(expected, C::NoError | C::NXDomain | C::YXDomain);
        assert_eq!(!told.answers.is_empty(), has_records);
    }
}

#[test]
fn an_answer_to_something_else_or_torn_is_none() {
    let query = query("a.example.", RecordType::TXT);
    let asked = asked(&query);
    let mut far = answer(&query);
    far.add_answer(record(
        "a.example.",
        RData::TXT(TXT::new(vec!["x".to_owned()])),
    ));
    let raw = far.to_vec().unwrap();
    assert!(Answer::read(&asked, raw.clone().into()).is_some());
    for length in 0..raw.len() {
        assert!(
            Answer::read(&asked, raw[..length].to_vec().into()).is_none(),
            "{length}"
        );
    }
    let mut other = raw.clone();
    other[14] ^= 1;
    assert!(Answer::read(&asked, other.into()).is_none());
    let mut request = raw;
    request[2] &= 0x7f;
    assert!(Answer::read(&asked, request.into()).is_none());
}

#[test]
fn data_without_octets_stays_so() {
    let query = query("a.example.", RecordType::NULL);
    let asked = asked(&query);
    let mut raw = answer(&query).to_vec().unwrap();
    raw[7] = 1;
    raw.extend_from_slice(b"\xc0\x0c\0\x0a\0\x01\0\0\x01\x2c\0\0");
    let answer = Answer::read(&asked, raw.clone().into()).unwrap();
    let told = answer.for_app(&asked, Duration::ZERO, Changes::default());
    assert_eq!(told[4..], [&raw[4..12], &raw[12..]].concat());
}
