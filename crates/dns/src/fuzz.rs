//! Queries of apps, answers of servers, and the files that are read.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use offramp_fuzz::fuzz;
use offramp_rules::DomainName;

use crate::cache::{Cache, Key, Source};
use crate::far::Answer;
use crate::message::{Asked, Received, addresses, answers, is_truncated};
use crate::names::file;
use crate::svcb::{self, Changes};
use crate::system::resolv_conf;
use crate::tcp::take_message;
use crate::wire::{self, Part, Section, WireName, kind};
use crate::{Lookup, Names, Responder, SystemResolver, Transport, Way};

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// Queries, and an answer with three records, one of them by a pointer.
fn seeds() -> Vec<Vec<u8>> {
    let mut edns = query("a.example.com.", RecordType::AAAA);
    edns[11] = 1;
    edns.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
    let mut answer = query("www.example.com.", RecordType::A);
    answer[2] |= 0x80;
    answer[7] = 3;
    answer.extend_from_slice(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x02\xc0\x10");
    answer.extend_from_slice(b"\xc0\x10\0\x01\0\x01\0\0\0\x3c\0\x04\xcb\0\x71\x05");
    answer.extend_from_slice(b"\xc0\x10\0\x1c\0\x01\xff\0\0\x3c\0\x10\x20\x01\x0d\xb8aaaaaaaaaaaa");
    vec![
        query("www.example.com.", RecordType::A),
        query("4.3.2.1.in-addr.arpa.", RecordType::PTR),
        query("localhost.", RecordType::A),
        query("printer.local.", RecordType::ANY),
        query("example.com.", RecordType::HTTPS),
        edns,
        answer,
    ]
}

fn fuzz_messages(name: &str, target: impl Fn(&[u8])) {
    let seeds = seeds();
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    fuzz(name, &seeds, target);
}

/// Relays all; the far side answers with the query itself, marked as an answer.
struct Mirror;

impl Lookup for Mirror {
    fn way(&self, _: &DomainName) -> Way {
        Way::Relay
    }

    fn ipv6(&self) -> bool {
        true
    }

    async fn far(&self, query: Bytes, _: SocketAddr) -> io::Result<Bytes> {
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        Ok(answer.into())
    }

    async fn approve(&self, _: &DomainName, _: &[(IpAddr, Duration)]) -> bool {
        true
    }
}

#[test]
fn queries() {
    let names = Arc::new(Names::new(
        "198.18.0.0/15".parse().unwrap(),
        Some("fd00:6f66::/64".parse().unwrap()),
        16,
    ));
    let nowhere = SystemResolver::at("/nonexistent", 53);
    let responder = Responder::new(names, nowhere);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let asked = "192.0.2.53:53".parse().unwrap();
    fuzz_messages("queries", |input| {
        let query = Bytes::copy_from_slice(input);
        // Another reader of messages has read the same.
        if let Received::Asked(asked) = Received::read(query.clone())
            && let Ok(message) = Message::from_vec(input)
        {
            let question = &message.queries[0];
            assert_eq!(u16::from(question.query_type()), u16::from(asked.kind));
            assert_eq!(
                question.name().iter().count(),
                wire::labels(asked.wire_name()).count()
            );
            let dnssec_ok = message.edns.is_some_and(|edns| edns.flags().dnssec_ok);
            assert_eq!(dnssec_ok, asked.flags().dnssec_ok);
        }
        for transport in [Transport::Udp, Transport::Tcp] {
            let answer = responder.answer(query.clone(), asked, transport, &Mirror);
            if let Some(answer) = runtime.block_on(answer) {
                assert_eq!(answer[..2], input[..2], "an answer has the id of its query");
                assert_ne!(answer[2] & 0x80, 0, "an answer is one");
                assert!(input[2] & 0x80 == 0, "answers are not answered");
            }
        }
    });
}

#[test]
fn answers_of_servers() {
    let mut query = query("www.example.com.", RecordType::A);
    query[..2].copy_from_slice(b"\x12\x34");
    let Received::Asked(asked) = Received::read(query.clone().into()) else {
        panic!("the query can be read");
    };
    fuzz_messages("answers_of_servers", |input| {
        let found = addresses(input).unwrap_or_default();
        assert!(found.len() <= input.len() / 11);
        is_truncated(input);
        if let Some(adopted) = asked.adopt(input) {
            assert!(answers(&query, input) && adopted.len() == input.len());
            assert_eq!(adopted[..2], query[..2]);
            asked.fit_udp(adopted);
        }
    });
}

/// A query for what `answer` answers, by an app that takes `payload` octets, or says nothing of it.
fn query_for(answer: &[u8], payload: Option<u16>) -> Option<Asked> {
    let question = wire::question(answer)?;
    let mut query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    query.extend_from_slice(&answer[question]);
    if let Some(payload) = payload {
        query[11] = 1;
        query.extend_from_slice(&wire::opt(payload, 0, true));
    }
    match Received::read(query.into()) {
        Received::Asked(asked) => Some(asked),
        Received::Nothing | Received::Wrong(_) => None,
    }
}

/// Holds an answer to what every app may count on.
fn check_told(asked: &Asked, told: &[u8], changes: Changes) {
    assert_eq!(told[..2], asked.raw[..2]);
    assert!(told.len() <= usize::from(u16::MAX));
    assert_eq!(told[wire::question(told).unwrap()], *asked.question());
    for record in wire::records(told).unwrap() {
        let record = record.expect("an answer of ours can be read");
        assert!(WireName::read(told, record.owner).is_some());
        let is_opt = record.kind == kind::OPT;
        assert_eq!(is_opt, record.section == Section::Additional);
        assert!(!matches!(record.kind, kind::A | kind::AAAA));
        if matches!(record.kind, kind::SVCB | kind::HTTPS) {
            let (owner, _) = WireName::read(told, record.owner).unwrap();
            let own = asked.is_about(&owner);
            let again = svcb::rewrite(told, record.data.clone(), own, changes).unwrap();
            assert_eq!(
                octets(&again),
                told[record.data],
                "nothing is left to change"
            );
        }
    }
}

fn octets(parts: &[Part]) -> Vec<u8> {
    let octets = parts.iter().map(|part| match part {
        Part::Short(name) | Part::Whole(name) => name.as_bytes(),
        Part::Octets(octets) => octets,
    });
    octets.collect::<Vec<_>>().concat()
}

fn changes(octet: u8) -> Changes {
    Changes {
        ipv4: (octet & 1 != 0).then(|| "198.18.1.1".parse().unwrap()),
        ipv6: (octet & 2 != 0).then(|| "fd00::1".parse().unwrap()),
        keep_ech: octet & 4 != 0,
        none: false,
    }
}

#[test]
fn answers_of_the_far_side() {
    let mut seeds = seeds();
    let mut service = query("a.example.", RecordType::HTTPS);
    service[2] |= 0x80;
    service[7] = 1;
    service.extend_from_slice(b"\xc0\x0c\0\x41\0\x01\0\0\0\x3c\0\x13\0\x01\0");
    service.extend_from_slice(b"\0\0\0\x02\0\x04\0\x04\0\x04\xc0\0\x02\x01\0\x05");
    seeds.push(service);
    for seed in &mut seeds {
        seed.insert(0, 7);
    }
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    fuzz("answers_of_the_far_side", &seeds, |input| {
        let Some((octet, answer)) = input.split_first() else {
            return;
        };
        // No message is longer, whatever carries it.
        let answer = &answer[..answer.len().min(usize::from(u16::MAX))];
        for payload in [None, Some(1232)] {
            let Some(asked) = query_for(answer, payload) else {
                return;
            };
            let answer = Bytes::copy_from_slice(answer);
            let Some(answer) = Answer::read(&asked, answer) else {
                return;
            };
            assert!(answer.keep <= Duration::from_secs(3600));
            let changes = changes(*octet);
            let told = answer.for_app(&asked, Duration::from_secs(5), changes);
            check_told(&asked, &told, changes);
            let cut = asked.fit_udp(told);
            assert!(cut.len() <= usize::from(payload.unwrap_or(512)).max(asked.raw.len()));
            check_told(&asked, &cut, changes);
        }
    });
}

#[test]
fn data_of_services() {
    let seeds: [&[u8]; 3] = [
        b"\x07\0\x01\0\0\x01\0\x03\x02h2\0\x04\0\x04\xc0\0\x02\x01",
        b"\x05\0\x10\x03cdn\0\0\0\0\x04\0\x04\0\x05\0\x05\0\x01e",
        b"\0\0\0\x03cdn\0",
    ];
    fuzz("data_of_services", &seeds, |input| {
        let Some((octet, data)) = input.split_first() else {
            return;
        };
        let message = |data: &[u8]| [&[0; wire::HEADER][..], data].concat();
        let (whole, changes) = (message(data), changes(*octet));
        for own in [true, false] {
            let rewritten = svcb::rewrite(&whole, wire::HEADER..whole.len(), own, changes);
            let Some(parts) = rewritten else {
                return;
            };
            let once = message(&octets(&parts));
            let again = svcb::rewrite(&once, wire::HEADER..once.len(), own, changes);
            assert_eq!(octets(&again.unwrap()), once[wire::HEADER..]);
        }
    });
}

#[test]
fn what_is_kept() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let (kept, asked) = {
        let mut answer = query("a.example.", RecordType::TXT);
        answer[2] |= 0x80;
        answer[7] = 1;
        answer.extend_from_slice(b"\xc0\x0c\0\x10\0\x01\0\0\0\x3c\0\x02\x01x");
        let asked = query_for(&answer, None).unwrap();
        (Answer::read(&asked, answer.into()).unwrap(), asked)
    };
    let resolver = "192.0.2.53:53".parse().unwrap();
    fuzz("what_is_kept", &[b"abcabc", b"\x01\x81\x41\xc1"], |input| {
        let cache = Cache::default();
        let _entered = runtime.enter();
        // Each octet is an order: more of them tell nothing new.
        for octet in input.iter().take(256) {
            let source = Source {
                profile: offramp_rules::ProfileId::new("work"),
                number: u64::from(octet >> 2 & 3),
            };
            let key = Key::new(source, u32::from(octet & 3), resolver, &asked);
            match octet >> 4 {
                0..=7 => cache.keep(&key, &kept),
                8..=10 => drop(cache.find(&key)),
                11 => cache.retain(|source| source.number % 2 == 0),
                12 => drop(cache.board(key)),
                _ => {
                    let boarded = cache.board(key);
                    let found =
                        runtime.block_on(boarded.answer(async || Ok::<_, ()>(kept.clone())));
                    assert_eq!(found.as_ref(), Ok(&kept));
                }
            }
        }
        cache.check();
        assert!(cache.entries().len() <= 16);
    });
}

#[test]
fn framed_messages() {
    fuzz(
        "framed_messages",
        &[b"\0\x02ab\0\0\0\x01", b"\xff\xff"],
        |input| {
            let mut rest = BytesMut::from(input);
            let mut taken = 0;
            while let Some(message) = take_message(&mut rest) {
                taken += message.len() + 2;
            }
            assert_eq!(taken + rest.len(), input.len());
        },
    );
}

#[test]
fn files_of_names() {
    let seed = b"www.example.com 198.18.1.2 7\na.b fd00::1 0 0:1,1000:2\ntorn 198";
    fuzz("files_of_names", &[seed], |input| {
        let lines = file::read(input, 100).unwrap();
        let mut written = Vec::new();
        file::write(&mut written, &lines).unwrap();
        assert_eq!(file::read(&*written, 100).unwrap(), lines);
        let names = Names::new("198.18.0.0/15".parse().unwrap(), None, 50);
        assert!(names.load(input, input).unwrap() <= 50);
    });
}

#[test]
fn resolver_files() {
    let seed = b"# x\nnameserver 192.0.2.1\nnameserver fe80::1%2\noptions ndots:1\n";
    fuzz(
        "resolver_files",
        &[seed, b"nameserver fe80::1%lo"],
        |input| {
            let servers = resolv_conf::parse(input).servers;
            assert!((1..=3).contains(&servers.len()));
        },
    );
}
