use hickory_proto::op::{Edns as HickoryEdns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, Record};

use super::*;

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn raw(message: &Message) -> Bytes {
    message.to_vec().unwrap().into()
}

fn asked(message: &Message) -> Asked {
    match Received::read(raw(message)) {
        Received::Asked(asked) => asked,
        Received::Nothing | Received::Wrong(_) => panic!("not read: {message}"),
    }
}

#[track_caller]
fn wrong(raw: impl Into<Bytes>, expected: ResponseCode) {
    let raw = raw.into();
    let Received::Wrong(answer) = Received::read(raw.clone()) else {
        panic!("not wrong");
    };
    let message = Message::from_vec(&answer).unwrap();
    assert_eq!(message.metadata.response_code, expected);
    assert_eq!(message.metadata.message_type, MessageType::Response);
    assert_eq!(answer[..2], raw[..2]);
}

#[test]
fn what_is_no_query_is_dropped() {
    let mut response = query("a.example.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    for raw in [raw(&response), Bytes::new(), vec![0; 11].into()] {
        assert!(matches!(Received::read(raw), Received::Nothing));
    }
}

#[test]
fn what_is_wrong_in_itself_says_so() {
    let good = raw(&query("a.example.", RecordType::A));
    wrong(vec![0; 12], ResponseCode::FormErr);
    wrong(good.slice(..good.len() - 1), ResponseCode::FormErr);
    wrong(good.slice(..12), ResponseCode::FormErr);
    let mut two = query("a.example.", RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::NS));
    wrong(raw(&two), ResponseCode::FormErr);
    for opcode in [1, 2, 3, 4, 5, 6, 15] {
        let mut other = good.to_vec();
        other[2] = opcode << 3;
        wrong(other, ResponseCode::NotImp);
    }
}

#[test]
fn an_unknown_edns_version_is_refused_with_ours() {
    let mut message = query("a.example.", RecordType::A);
    let mut edns = HickoryEdns::new();
    edns.set_version(1);
    message.set_edns(edns);
    let Received::Wrong(answer) = Received::read(raw(&message)) else {
        panic!("taken");
    };
    let answer = Message::from_vec(&answer).unwrap();
    // 16 is the code of both BADVERS and BADSIG.
    assert_eq!(u16::from(answer.metadata.response_code), 16);
    assert_eq!(answer.version(), 0);
}

#[test]
fn the_question_comes_back_as_it_was_spelled() {
    let message = query("wWw.ExAmPlE.cOm.", RecordType::A);
    let asked = asked(&message);
    assert_eq!(asked.name().unwrap().as_str(), "www.example.com");
    let answer = asked.address("198.18.1.1".parse().unwrap());
    let sent = raw(&message);
    assert_eq!(answer[12..sent.len()], sent[12..]);
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.answers[0].name.to_string(), "wWw.ExAmPlE.cOm.");
    assert_eq!(answer.answers[0].ttl, 1);
}

#[test]
fn flags_and_edns_follow_the_query() {
    let mut message = query("a.example.", RecordType::A);
    message.metadata.checking_disabled = true;
    message.metadata.authentic_data = true;
    let mut edns = HickoryEdns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    message.set_edns(edns);
    let answer = Message::from_vec(&asked(&message).negative(ResponseCode::NXDomain)).unwrap();
    assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
    assert!(answer.metadata.checking_disabled && !answer.metadata.authentic_data);
    assert!(!answer.metadata.authoritative && !answer.metadata.truncation);
    let edns = answer.edns.unwrap();
    assert_eq!(edns.max_payload(), OUR_PAYLOAD);
    assert!(edns.flags().dnssec_ok);
    assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
    assert_eq!(answer.authorities[0].name.to_string(), "example.");
    assert_eq!(answer.authorities[0].ttl, 1);
}

#[test]
fn names_that_hosts_cannot_have_are_none() {
    let odd = Name::from_labels([&b"a b"[..], b"example"]).unwrap();
    let dotted = Name::from_labels([&b"a.b"[..], b"example"]).unwrap();
    let bytes = Name::from_labels([&b"\xff\x00"[..], b"example"]).unwrap();
    let puny = Name::from_ascii("xn--\u{61}.example.").unwrap();
    let ended = Name::from_labels(["a\u{3002}b".as_bytes(), b"example"]).unwrap();
    for name in [odd, dotted, bytes, puny, ended, Name::root()] {
        assert_eq!(domain_name(name.iter()), None, "{name}");
    }
}

#[test]
fn names_in_unicode_are_those_in_a_labels() {
    for label in [
        "b\u{fc}cher",
        "B\u{dc}CHER",
        "xn--bcher-kva",
        "XN--Bcher-KVA",
    ] {
        let name = Name::from_labels([label.as_bytes(), b"Example"]).unwrap();
        let name = domain_name(name.iter()).expect(label);
        assert_eq!(name.as_str(), "xn--bcher-kva.example");
    }
    // What only looks like one, and underscores, are host names to many.
    for label in ["r3---sn-abc", "_sip", "a_b"] {
        let name = Name::from_labels([label.as_bytes(), b"example"]).unwrap();
        assert_eq!(
            domain_name(name.iter()).expect(label).as_str(),
            format!("{label}.example")
        );
    }
}

/// The answer that a server would give to `message`: under an id of its own.
fn answered(message: &Message, records: &[(&str, u32, RData)]) -> Vec<u8> {
    let mut answer = Message::response(message.metadata.id ^ 1, OpCode::Query);
    let mut question = message.queries[0].clone();
    question.set_name(question.name().to_lowercase());
    answer.add_query(question);
    for (name, ttl, data) in records {
        let name = Name::from_ascii(name).unwrap();
        answer.add_answer(Record::from_rdata(name, *ttl, data.clone()));
    }
    answer.to_vec().unwrap()
}

#[test]
fn an_adopted_answer_has_the_id_and_the_spelling_of_the_query() {
    let message = query("A.eXample.", RecordType::A);
    let data = RData::A("192.0.2.1".parse().unwrap());
    let answer = answered(&message, &[("a.example.", 30, data)]);
    let adopted = asked(&message).adopt(&answer).unwrap();
    let sent = raw(&message);
    assert_eq!(adopted[..2], sent[..2]);
    assert_eq!(adopted[12..sent.len()], sent[12..]);
    assert_eq!(adopted[sent.len()..], answer[sent.len()..]);
}

#[test]
fn an_answer_to_something_else_is_not_adopted() {
    let message = query("a.example.", RecordType::A);
    let asked = asked(&message);
    let other = query("b.example.", RecordType::A);
    let kind = query("a.example.", RecordType::AAAA);
    assert_eq!(asked.adopt(&answered(&other, &[])), None);
    assert_eq!(asked.adopt(&answered(&kind, &[])), None);
    assert_eq!(asked.adopt(&raw(&message)), None, "a query");
    for length in 0..12 {
        assert_eq!(asked.adopt(&answered(&message, &[])[..length]), None);
    }
}

#[test]
fn addresses_of_the_whole_answer_section_are_found() {
    let message = query("a.example.", RecordType::A);
    let cname = hickory_proto::rr::rdata::CNAME(Name::from_ascii("b.example.").unwrap());
    let answer = answered(
        &message,
        &[
            ("a.example.", 300, RData::CNAME(cname)),
            ("b.example.", 30, RData::A("192.0.2.1".parse().unwrap())),
            (
                "b.example.",
                u32::MAX,
                RData::AAAA("2001:db8::1".parse().unwrap()),
            ),
        ],
    );
    assert_eq!(
        addresses(&answer).unwrap(),
        [
            ("192.0.2.1".parse().unwrap(), Duration::from_secs(30)),
            ("2001:db8::1".parse().unwrap(), Duration::ZERO),
        ]
    );
    assert_eq!(addresses(&answer[..answer.len() - 1]), None);
}

#[test]
fn over_udp_an_answer_is_cut_behind_a_record() {
    let mut message = query("a.example.", RecordType::TXT);
    let text = RData::TXT(hickory_proto::rr::rdata::TXT::new(vec!["x".repeat(80)]));
    let long = answered(&message, &vec![("a.example.", 60, text); 10]);
    let fit = |message: &Message| asked(message).fit_udp(long.clone().into());
    let (question, record) = (raw(&message).len(), 93);
    assert_eq!(long.len(), question + 10 * record);
    let check = |message: &Message, count: usize, cut: bool| {
        let answer = Message::from_vec(&fit(message)).unwrap();
        assert_eq!(answer.answers.len(), count);
        assert_eq!(answer.metadata.truncation, cut);
        assert_eq!(answer.edns.is_some(), cut && message.edns.is_some());
    };
    check(&message, (512 - question) / record, true);
    let mut edns = HickoryEdns::new();
    for (payload, count, cut) in [
        // Less than 512 means 512; what we say of ourselves has to fit as well.
        (100, (512 - question - 11) / record, true),
        (u16::try_from(long.len()).unwrap() - 1, 9, true),
        (u16::try_from(long.len()).unwrap(), 10, false),
        (4096, 10, false),
    ] {
        edns.set_max_payload(payload);
        message.set_edns(edns.clone());
        check(&message, count, cut);
    }
}
