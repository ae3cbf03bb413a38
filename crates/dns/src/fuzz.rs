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

use crate::message::{Received, addresses, answers, is_truncated};
use crate::names::file;
use crate::system::resolv_conf;
use crate::tcp::take_message;
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
            let servers = resolv_conf::parse(input);
            assert!((1..=3).contains(&servers.len()));
        },
    );
}
