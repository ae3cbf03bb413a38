use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, Query};
use hickory_proto::rr::rdata::svcb::{Alpn, IpHint, SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS};
use hickory_proto::rr::{Name, RData, Record};

use super::super::{Transport, Way};
use super::*;
use crate::{Names, SystemResolver};

/// Names go the real way; the far side gives these records, or no answer.
#[derive(Default)]
struct Lab {
    far: Option<Vec<RData>>,
    ipv4_only: bool,
    /// An address that must not be told.
    beside: Option<IpAddr>,
    asked: Mutex<usize>,
    told: Mutex<Vec<(String, IpAddr, u64)>>,
}

impl Lookup for Lab {
    fn way(&self, _: &DomainName) -> Way {
        Way::Real
    }

    fn ipv6(&self) -> bool {
        !self.ipv4_only
    }

    async fn far(&self, query: Bytes, _: SocketAddr) -> io::Result<Bytes> {
        *self.asked.lock().unwrap() += 1;
        let records = self.far.clone().ok_or(io::ErrorKind::ConnectionRefused)?;
        let query = Message::from_vec(&query).unwrap();
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        answer.metadata.authentic_data = true;
        let name = query.queries[0].name().clone();
        answer.add_queries(query.queries);
        for data in records {
            answer.add_answer(Record::from_rdata(name.clone(), 300, data));
        }
        Ok(answer.to_vec().unwrap().into())
    }

    async fn approve(&self, _: &DomainName, _: &[(IpAddr, Duration)]) -> bool {
        panic!("nothing is excluded here");
    }

    async fn tell(&self, name: &DomainName, addresses: &[(IpAddr, Duration)]) -> bool {
        let told = addresses.iter();
        let told = told.map(|(address, ttl)| (name.to_string(), *address, ttl.as_secs()));
        self.told.lock().unwrap().extend(told);
        addresses
            .iter()
            .all(|(address, _)| Some(*address) != self.beside)
    }
}

async fn ask(lab: &Lab, kind: RecordType) -> Message {
    let v6 = "fd00:6f66::/64".parse().unwrap();
    let names = Names::new("198.18.0.0/15".parse().unwrap(), Some(v6), 10);
    let responder = Responder::new(Arc::new(names), SystemResolver::at("/nowhere", 53));
    let mut query = Message::query();
    query.metadata.authentic_data = true;
    query.add_query(Query::query(Name::from_ascii("A.Example.").unwrap(), kind));
    let query = query.to_vec().unwrap().into();
    let asked = "192.0.2.53:53".parse().unwrap();
    let answer = responder.answer(query, asked, Transport::Udp, lab).await;
    Message::from_vec(&answer.unwrap()).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addresses(answer: &Message) -> Vec<IpAddr> {
    let all = answer.answers.iter();
    all.filter_map(|record| record.data.ip_addr()).collect()
}

fn https() -> RData {
    let hint = A("192.0.2.9".parse().unwrap());
    let parameters = vec![
        (
            SvcParamKey::Alpn,
            SvcParamValue::Alpn(Alpn(vec!["h2".into()])),
        ),
        (
            SvcParamKey::Ipv4Hint,
            SvcParamValue::Ipv4Hint(IpHint(vec![hint])),
        ),
    ];
    RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), parameters)))
}

#[tokio::test]
async fn the_far_sides_answer_is_told_and_given_as_it_is() {
    let canonical = Name::from_ascii("b.example.").unwrap();
    let a = RData::A(A("192.0.2.1".parse().unwrap()));
    let lab = Lab {
        far: Some(vec![RData::CNAME(CNAME(canonical)), a]),
        ..Lab::default()
    };
    let answer = ask(&lab, RecordType::A).await;
    assert_eq!(answer.queries[0].name().to_string(), "A.Example.");
    assert_eq!((answer.answers.len(), answer.answers[1].ttl), (2, 300));
    assert!(answer.metadata.authentic_data);
    assert_eq!(addresses(&answer), [address("192.0.2.1")]);
    let told = lab.told.into_inner().unwrap();
    assert_eq!(told, [("a.example".to_owned(), address("192.0.2.1"), 300)]);
}

#[tokio::test]
async fn hints_are_told_as_well() {
    let lab = Lab {
        far: Some(vec![https()]),
        ..Lab::default()
    };
    assert_eq!(ask(&lab, RecordType::HTTPS).await.answers[0].data, https());
    let told = lab.told.into_inner().unwrap();
    assert_eq!(told, [("a.example".to_owned(), address("192.0.2.9"), 300)]);
}

#[tokio::test]
async fn what_would_lead_elsewhere_is_answered_by_what_stands_for_the_name() {
    let a = RData::A(A("127.0.0.1".parse().unwrap()));
    let other = RData::A(A("192.0.2.1".parse().unwrap()));
    let lab = Lab {
        far: Some(vec![other, a]),
        beside: Some(address("127.0.0.1")),
        ..Lab::default()
    };
    let found = addresses(&ask(&lab, RecordType::A).await);
    assert!(
        found[0].to_string().starts_with("198.1") && found.len() == 1,
        "{found:?}"
    );
    let lab = Lab {
        far: Some(vec![https()]),
        beside: Some(address("192.0.2.9")),
        ..Lab::default()
    };
    let answer = ask(&lab, RecordType::HTTPS).await;
    let hint = [192, 0, 2, 9];
    assert!(
        !answer
            .to_vec()
            .unwrap()
            .windows(4)
            .any(|bytes| bytes == hint),
        "{answer}"
    );
}

#[tokio::test]
async fn without_an_answer_of_the_far_side_there_is_none() {
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = ask(&Lab::default(), kind).await;
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::ServFail,
            "{kind}"
        );
    }
}

#[tokio::test]
async fn no_ipv6_is_asked_for_where_there_is_none() {
    let lab = Lab {
        far: Some(vec![RData::AAAA(AAAA("2001:db8::1".parse().unwrap()))]),
        ipv4_only: true,
        ..Lab::default()
    };
    let answer = ask(&lab, RecordType::AAAA).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.answers.is_empty() && *lab.asked.lock().unwrap() == 0);
}
