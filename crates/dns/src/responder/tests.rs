use std::sync::Mutex;

use hickory_proto::op::{Message, OpCode, Query};
use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::TXT;
use proptest::prelude::*;

use super::*;

/// `*.excluded` goes to the system, `*.refused` is refused, all else is relayed.
#[derive(Default)]
struct Lab {
    ipv4_only: bool,
    far_texts: Option<usize>,
    approved: Mutex<Vec<(IpAddr, Duration)>>,
}

impl Lookup for Lab {
    fn way(&self, name: &DomainName) -> Way {
        match name.as_str().rsplit('.').next() {
            Some("excluded") => Way::System,
            Some("refused") => Way::Refuse,
            _ => Way::Relay,
        }
    }

    fn ipv6(&self) -> bool {
        !self.ipv4_only
    }

    async fn far(&self, query: Bytes, _asked: SocketAddr) -> io::Result<Bytes> {
        let count = self.far_texts.ok_or(io::ErrorKind::ConnectionRefused)?;
        let query = Message::from_vec(&query).unwrap();
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        let name = query.queries[0].name().clone();
        answer.add_queries(query.queries);
        for _ in 0..count {
            let text = RData::TXT(TXT::new(vec!["far".repeat(60)]));
            answer.add_answer(Record::from_rdata(name.clone(), 60, text));
        }
        Ok(answer.to_vec().unwrap().into())
    }

    async fn approve(&self, _: &DomainName, addresses: &[(IpAddr, Duration)]) -> bool {
        self.approved.lock().unwrap().extend(addresses);
        true
    }
}

fn names(capacity: usize) -> Arc<Names> {
    Arc::new(Names::new(
        "198.18.0.0/15".parse().unwrap(),
        Some("fd00:6f66::/64".parse().unwrap()),
        capacity,
    ))
}

/// A responder whose system resolver is `server`, or none at all.
struct Fixture {
    responder: Responder,
    _conf: tempfile::NamedTempFile,
}

fn fixture(capacity: usize, server: Option<SocketAddr>) -> Fixture {
    let server = server.unwrap_or("198.18.0.53:53".parse().unwrap());
    let conf = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&conf, format!("nameserver {}\n", server.ip())).unwrap();
    let system = SystemResolver::at(conf.path(), server.port());
    Fixture {
        responder: Responder::new(names(capacity), system),
        _conf: conf,
    }
}

impl Fixture {
    async fn raw(&self, lab: &Lab, query: Bytes, transport: Transport) -> Option<Bytes> {
        let asked = "192.0.2.53:53".parse().unwrap();
        self.responder.answer(query, asked, transport, lab).await
    }

    async fn ask(&self, lab: &Lab, name: &str, kind: RecordType) -> Message {
        let query = query(Name::from_ascii(name).unwrap(), kind);
        let answer = self.raw(lab, query.clone(), Transport::Udp).await.unwrap();
        assert_eq!(answer[..2], query[..2]);
        Message::from_vec(&answer).unwrap()
    }
}

fn query(name: Name, kind: RecordType) -> Bytes {
    let mut message = Message::query();
    message.add_query(Query::query(name, kind));
    message.to_vec().unwrap().into()
}

async fn ask(name: &str, kind: RecordType) -> Message {
    fixture(10, None).ask(&Lab::default(), name, kind).await
}

#[track_caller]
fn code(answer: &Message, expected: ResponseCode) {
    assert_eq!(answer.metadata.response_code, expected, "{answer}");
    assert!(answer.answers.is_empty(), "{answer}");
    let negative = matches!(expected, ResponseCode::NoError | ResponseCode::NXDomain);
    assert_eq!(!answer.authorities.is_empty(), negative, "{answer}");
}

#[tokio::test]
async fn a_relayed_name_has_the_synthetic_address_of_the_name_map() {
    let fixture = fixture(10, None);
    let lab = Lab::default();
    for (kind, family) in [(RecordType::A, Family::V4), (RecordType::AAAA, Family::V6)] {
        let answer = fixture.ask(&lab, "Www.Example.com.", kind).await;
        let address = answer.answers[0].data.ip_addr().unwrap();
        let name = DomainName::parse("www.example.com").unwrap();
        assert_eq!(
            fixture.responder.names.address_for(&name, family, 0).ok(),
            Some(address)
        );
        assert_eq!((answer.answers.len(), answer.answers[0].ttl), (1, 1));
    }
    assert!(lab.approved.lock().unwrap().is_empty());
}

#[tokio::test]
async fn relayed_names_have_no_ipv6_where_the_upstream_has_none() {
    let lab = Lab {
        ipv4_only: true,
        ..Lab::default()
    };
    let fixture = fixture(10, None);
    code(
        &fixture.ask(&lab, "a.example.", RecordType::AAAA).await,
        ResponseCode::NoError,
    );
}

#[tokio::test]
async fn a_full_name_map_is_a_server_failure() {
    let (fixture, lab) = (fixture(1, None), Lab::default());
    fixture.ask(&lab, "a.example.", RecordType::A).await;
    code(
        &fixture.ask(&lab, "b.example.", RecordType::A).await,
        ResponseCode::ServFail,
    );
    assert_eq!(
        fixture
            .ask(&lab, "a.example.", RecordType::A)
            .await
            .answers
            .len(),
        1
    );
}

#[tokio::test]
async fn what_has_no_address_has_its_code() {
    use RecordType as T;
    use ResponseCode as C;
    for (name, kind, expected) in [
        ("a.example.", T::HTTPS, C::NoError),
        ("a.example.", T::SVCB, C::NoError),
        ("a.example.", T::AXFR, C::Refused),
        ("a.example.", T::IXFR, C::Refused),
        ("a.refused.", T::A, C::Refused),
        ("a.refused.", T::TXT, C::Refused),
        ("use-application-dns.net.", T::A, C::NXDomain),
        ("use-application-dns.net.", T::AAAA, C::NXDomain),
        ("_dns.resolver.arpa.", T::SVCB, C::NoError),
        ("printer.local.", T::A, C::NXDomain),
        ("printer.local.", T::TXT, C::NXDomain),
        ("a.invalid.", T::A, C::NXDomain),
        ("printer.", T::A, C::NXDomain),
        ("printer.", T::AAAA, C::NXDomain),
        ("localhost.", T::MX, C::NoError),
        (".", T::A, C::NoError),
        (".", T::HTTPS, C::NoError),
        (".", T::NS, C::ServFail),
        (".", T::AXFR, C::Refused),
        ("a.example.", T::OPT, C::FormErr),
        ("a.example.", T::ZERO, C::FormErr),
        ("a.example.", T::TSIG, C::NotImp),
        ("a.example.", T::Unknown(253), C::NotImp),
        ("ipv4only.arpa.", T::AAAA, C::NoError),
        ("router.home.arpa.", T::A, C::NXDomain),
        ("x.onion.", T::AAAA, C::NXDomain),
        ("_dns.resolver.example.", T::SVCB, C::NoError),
        ("*.example.", T::A, C::NXDomain),
        ("a.excluded.", T::A, C::ServFail),
        ("a.example.", T::TXT, C::ServFail),
        ("com.", T::NS, C::ServFail),
        ("1.2.0.192.in-addr.arpa.", T::PTR, C::ServFail),
    ] {
        let answer = ask(name, kind).await;
        assert_eq!(answer.metadata.response_code, expected, "{name} {kind}");
        code(&answer, expected);
    }
}

#[tokio::test]
async fn names_that_no_host_has_go_the_way_of_what_they_end_with() {
    use RecordType as T;
    use ResponseCode as C;
    let (fixture, lab) = (fixture(10, None), Lab::default());
    for (suffix, kind, expected) in [
        ("example", T::TXT, C::ServFail),
        ("example", T::SRV, C::ServFail),
        ("example", T::A, C::NXDomain),
        ("example", T::HTTPS, C::NXDomain),
        ("local", T::TXT, C::NXDomain),
        ("refused", T::A, C::Refused),
        ("excluded", T::A, C::ServFail),
        ("invalid", T::TXT, C::NXDomain),
        ("localhost", T::TXT, C::NoError),
    ] {
        let name = Name::from_labels([&b"My Pr\xc3\xbcnter."[..], b"_ipp", suffix.as_bytes()]);
        let query = query(name.unwrap(), kind);
        let answer = fixture.raw(&lab, query, Transport::Udp).await.unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.response_code, expected, "{suffix} {kind}");
    }
}

#[tokio::test]
async fn localhost_is_this_machine() {
    for name in ["localhost.", "a.LOCALHOST."] {
        let v4 = ask(name, RecordType::A).await;
        assert_eq!(
            v4.answers[0].data.ip_addr().unwrap().to_string(),
            "127.0.0.1"
        );
        let v6 = ask(name, RecordType::AAAA).await;
        assert_eq!(v6.answers[0].data.ip_addr().unwrap().to_string(), "::1");
    }
}

#[tokio::test]
async fn any_is_answered_with_as_little_as_can_be() {
    let answer = ask("a.example.", RecordType::ANY).await;
    assert_eq!(answer.answers[0].record_type(), RecordType::HINFO);
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn other_classes_are_refused() {
    for class in [DNSClass::CH, DNSClass::ANY, DNSClass::Unknown(7)] {
        let mut message = Message::query();
        let mut question =
            Query::query(Name::from_ascii("version.bind.").unwrap(), RecordType::TXT);
        question.set_query_class(class);
        message.add_query(question);
        let raw = message.to_vec().unwrap().into();
        let answer = fixture(1, None)
            .raw(&Lab::default(), raw, Transport::Udp)
            .await
            .unwrap();
        code(&Message::from_vec(&answer).unwrap(), ResponseCode::Refused);
    }
}

#[tokio::test]
async fn a_synthetic_address_has_its_name_back() {
    let (fixture, lab) = (fixture(10, None), Lab::default());
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = fixture.ask(&lab, "a.example.", kind).await;
        let address = answer.answers[0].data.ip_addr().unwrap();
        let arpa = Name::from(address).to_ascii();
        let answer = fixture.ask(&lab, &arpa, RecordType::PTR).await;
        let RData::PTR(PTR(name)) = &answer.answers[0].data else {
            panic!("{answer}");
        };
        assert_eq!(name.to_string(), "a.example.");
        code(
            &fixture.ask(&lab, &arpa, RecordType::TXT).await,
            ResponseCode::NoError,
        );
    }
    code(
        &ask("1.0.18.198.in-addr.arpa.", RecordType::PTR).await,
        ResponseCode::NXDomain,
    );
}

#[tokio::test]
async fn other_types_are_resolved_at_the_far_side() {
    let lab = Lab {
        far_texts: Some(2),
        ..Lab::default()
    };
    let answer = fixture(1, None)
        .ask(&lab, "A.example.", RecordType::TXT)
        .await;
    assert_eq!(answer.answers.len(), 2);
    assert_eq!(answer.queries[0].name().to_string(), "A.example.");
}

/// The far side never answers; the reverse names of 192.0.2.0/24 are known near.
struct Silent;

impl Lookup for Silent {
    fn way(&self, _: &DomainName) -> Way {
        Way::Relay
    }

    fn way_of(&self, address: IpAddr) -> Way {
        match address.to_string().starts_with("192.0.2.") {
            true => Way::System,
            false => Way::Refuse,
        }
    }

    fn ipv6(&self) -> bool {
        true
    }

    fn source(&self) -> Option<Source> {
        let profile = offramp_rules::ProfileId::new("work");
        Some(Source { profile, number: 1 })
    }

    async fn far(&self, _: Bytes, _: SocketAddr) -> io::Result<Bytes> {
        std::future::pending().await
    }

    async fn approve(&self, _: &DomainName, _: &[(IpAddr, Duration)]) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_browser_does_not_wait_for_a_far_side_that_is_silent() {
    let fixture = fixture(10, None);
    let asked = "192.0.2.53:53".parse().unwrap();
    for (kind, expected, seconds) in [
        (RecordType::HTTPS, ResponseCode::NoError, 1),
        (RecordType::SVCB, ResponseCode::NoError, 1),
        (RecordType::TXT, ResponseCode::ServFail, 10),
    ] {
        let begin = Instant::now();
        let query = query(Name::from_ascii("a.example.").unwrap(), kind);
        let answer = fixture
            .responder
            .answer(query, asked, Transport::Udp, &Silent);
        code(
            &Message::from_vec(&answer.await.unwrap()).unwrap(),
            expected,
        );
        assert_eq!(begin.elapsed().as_secs(), seconds, "{kind}");
    }
    assert!(fixture.responder.cached().is_empty());
}

#[tokio::test]
async fn names_of_addresses_that_are_reached_directly_are_asked_near() {
    let server = crate::system::tests::Server::start(|query| {
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        let owner = query.queries[0].name().clone();
        answer.add_queries(query.queries);
        let near = PTR(Name::from_ascii("near.example.").unwrap());
        answer.add_answer(Record::from_rdata(owner, 60, RData::PTR(near)));
        vec![answer]
    });
    let server = server.await;
    let fixture = fixture(10, Some(server.address));
    let query = query(
        Name::from_ascii("1.2.0.192.in-addr.arpa.").unwrap(),
        RecordType::PTR,
    );
    let asked = "192.0.2.53:53".parse().unwrap();
    let answer = fixture
        .responder
        .answer(query, asked, Transport::Udp, &Silent);
    let answer = Message::from_vec(&answer.await.unwrap()).unwrap();
    assert!(answer.to_string().contains("near.example."), "{answer}");
    // What is refused as an address has a name that anybody may know.
    let other = self::query(
        Name::from_ascii("1.113.0.203.in-addr.arpa.").unwrap(),
        RecordType::PTR,
    );
    assert!(matches!(
        fixture.responder.begin(other, Transport::Udp, &Silent),
        Begun::Waits(Question {
            from: Elsewhere::Far(_),
            ..
        })
    ));
}

#[tokio::test]
async fn a_long_answer_is_cut_over_udp_only() {
    let lab = Lab {
        far_texts: Some(20),
        ..Lab::default()
    };
    let fixture = fixture(1, None);
    let query = query(Name::from_ascii("a.example.").unwrap(), RecordType::TXT);
    let udp = fixture
        .raw(&lab, query.clone(), Transport::Udp)
        .await
        .unwrap();
    let udp = Message::from_vec(&udp).unwrap();
    assert!(udp.metadata.truncation && (1..4).contains(&udp.answers.len()));
    let tcp = fixture.raw(&lab, query, Transport::Tcp).await.unwrap();
    let tcp = Message::from_vec(&tcp).unwrap();
    assert!(!tcp.metadata.truncation && tcp.answers.len() == 20);
}

#[tokio::test]
async fn addresses_of_an_excluded_name_are_approved_before_the_answer() {
    let server = crate::system::tests::Server::start(|query| {
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        let name = query.queries[0].name().clone();
        answer.add_queries(query.queries);
        for (ttl, address) in [
            (5, "192.0.2.1"),
            (90, "192.0.2.2"),
            (86400, "192.0.2.3"),
            (5, "198.18.7.7"),
        ] {
            let data = RData::A(address.parse().unwrap());
            answer.add_answer(Record::from_rdata(name.clone(), ttl, data));
        }
        vec![answer]
    });
    let server = server.await;
    let (fixture, lab) = (fixture(1, Some(server.address)), Lab::default());
    let answer = fixture.ask(&lab, "A.Excluded.", RecordType::A).await;
    assert_eq!(answer.answers.len(), 4);
    // No app keeps it for longer than it is open.
    assert_eq!(answer.answers[2].ttl, 3600);
    assert_eq!(answer.queries[0].name().to_string(), "A.Excluded.");
    let approved = lab.approved.into_inner().unwrap();
    let expected = [("192.0.2.1", 60), ("192.0.2.2", 90), ("192.0.2.3", 3600)];
    assert_eq!(
        approved,
        expected.map(|(a, s)| (a.parse().unwrap(), Duration::from_secs(s)))
    );
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

/// Queries that are mostly right, with some bytes changed.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let label = proptest::collection::vec(any::<u8>(), 1..63);
    let labels = proptest::collection::vec(label, 0..4);
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (labels, any::<u16>(), any::<bool>(), changes).prop_map(|(labels, kind, edns, changes)| {
        let mut message = Message::query();
        let name = Name::from_labels(labels.iter().map(|l| &l[..])).unwrap_or_default();
        message.add_query(Query::query(name, RecordType::from(kind % 300)));
        if edns {
            message.set_edns(hickory_proto::op::Edns::new());
        }
        let mut raw = message.to_vec().unwrap();
        for (index, byte) in changes {
            let at = index.index(raw.len());
            raw[at] = byte;
        }
        raw
    })
}

fn survives(raw: Vec<u8>) -> Result<(), TestCaseError> {
    let fixture = fixture(10, None);
    let lab = Lab {
        far_texts: None,
        ..Lab::default()
    };
    for transport in [Transport::Udp, Transport::Tcp] {
        let answer = block_on(fixture.raw(&lab, raw.clone().into(), transport));
        let query = raw.len() >= 12 && raw[2] & 0x80 == 0;
        prop_assert_eq!(answer.is_some(), query);
        if let Some(answer) = answer {
            prop_assert_eq!(&answer[..2], &raw[..2]);
            prop_assert!(Message::from_vec(&answer).is_ok());
            prop_assert!(transport == Transport::Tcp || answer.len() <= 512 || raw.len() > 23);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
        survives(raw)?;
    }

    #[test]
    fn mutated_queries_do_no_harm(raw in mutated()) {
        survives(raw)?;
    }

    #[test]
    fn random_answers_do_no_harm(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
        message::addresses(&raw);
        let query = query(Name::from_ascii("a.example.").unwrap(), RecordType::A);
        let Received::Asked(asked) = Received::read(query.clone()) else {
            panic!("a good query");
        };
        prop_assert!(asked.adopt(&raw).is_none());
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        answer.extend(&raw);
        message::addresses(&answer);
        prop_assert!(asked.adopt(&answer).is_some());
    }
}
