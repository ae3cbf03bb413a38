use std::convert::Infallible;
use std::pin::pin;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::pending;
use hickory_proto::op::{Message, OpCode, Query};
use hickory_proto::rr::rdata::{SOA, TXT};
use hickory_proto::rr::{Name, RData, Record};

use super::*;
use crate::message::Received;

fn asked(name: &str) -> Asked {
    let mut message = Message::query();
    let name = Name::from_ascii(name).unwrap();
    message.add_query(Query::query(name, RecordType::TXT));
    let Received::Asked(asked) = Received::read(message.to_vec().unwrap().into()) else {
        panic!("a query");
    };
    asked
}

fn source(profile: &str, number: u64) -> Source {
    let profile = ProfileId::new(profile);
    Source { profile, number }
}

fn key(name: &str, asker: u32) -> Key {
    let resolver = "192.0.2.53:53".parse().unwrap();
    Key::new(source("work", 1), asker, resolver, &asked(name))
}

/// An answer of so many texts of 250 octets.
fn texts(name: &str, count: usize, ttl: u32) -> Answer {
    let asked = asked(name);
    let mut message = Message::response(1, OpCode::Query);
    let query = Message::from_vec(&asked.raw).unwrap().queries.remove(0);
    let owner = query.name().clone();
    message.add_query(query);
    for _ in 0..count {
        let text = RData::TXT(TXT::new(vec!["x".repeat(250)]));
        message.add_answer(Record::from_rdata(owner.clone(), ttl, text));
    }
    Answer::read(&asked, message.to_vec().unwrap().into()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_as_long_as_it_says() {
    let cache = Cache::default();
    cache.keep(&key("A.example.", 7), &texts("a.example.", 1, 60));
    cache.keep(&key("b.example.", 7), &texts("b.example.", 1, 0));
    cache.keep(&key("c.example.", 7), &texts("c.example.", 1, u32::MAX / 4));
    tokio::time::advance(Duration::from_secs(59)).await;
    let (_, age) = cache.find(&key("a.eXample.", 7)).expect("kept");
    assert_eq!(age, Duration::from_secs(59));
    assert!(
        cache.find(&key("b.example.", 7)).is_none(),
        "not to be kept"
    );
    let entries = cache.entries();
    assert_eq!(entries.len(), 2);
    assert_eq!((&*entries[0].name, &*entries[0].kind), ("a.example", "TXT"));
    assert_eq!(entries[0].expires, Duration::from_secs(1));
    assert_eq!(
        entries[1].expires,
        Duration::from_secs(3600 - 59),
        "an hour at most"
    );
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(cache.find(&key("a.example.", 7)).is_none());
    assert_eq!(cache.entries().len(), 1);
}

#[tokio::test]
async fn nobody_is_answered_from_what_another_asked() {
    let cache = Cache::default();
    let own = key("a.example.", 7);
    cache.keep(&own, &texts("a.example.", 1, 60));
    let others = [
        Key {
            asker: 8,
            ..own.clone()
        },
        Key {
            source: source("work", 2),
            ..own.clone()
        },
        Key {
            source: source("other", 1),
            ..own.clone()
        },
        Key {
            resolver: "192.0.2.54:53".parse().unwrap(),
            ..own.clone()
        },
        Key {
            kind: 15,
            ..own.clone()
        },
        Key {
            flags: Flags {
                dnssec_ok: true,
                ..own.flags
            },
            ..own.clone()
        },
        Key {
            flags: Flags {
                unchecked: true,
                ..own.flags
            },
            ..own.clone()
        },
        key("b.example.", 7),
    ];
    assert!(others.iter().all(|other| cache.find(other).is_none()));
    assert!(cache.find(&own).is_some());
    cache.retain(|source| source.number == 2);
    assert!(cache.find(&own).is_none());
}

#[tokio::test]
async fn the_longest_unused_goes_first() {
    let cache = Cache::default();
    let name = |number: usize| format!("{number}.example.");
    for number in 0..USER_ENTRIES {
        cache.keep(&key(&name(number), 7), &texts(&name(number), 0, 60).kept());
    }
    assert!(cache.find(&key(&name(0), 7)).is_some());
    cache.keep(&key("new.example.", 7), &texts("new.example.", 1, 60));
    assert!(cache.find(&key(&name(0), 7)).is_some(), "used since");
    assert!(cache.find(&key(&name(1), 7)).is_none());
    assert_eq!(cache.entries().len(), USER_ENTRIES);
}

#[tokio::test]
async fn who_keeps_much_loses_own_answers() {
    let cache = Cache::default();
    cache.keep(&key("small.example.", 8), &texts("small.example.", 1, 60));
    for number in 0..40 {
        let name = format!("{number}.example.");
        cache.keep(&key(&name, 7), &texts(&name, 200, 60));
    }
    assert!(cache.find(&key("small.example.", 8)).is_some());
    let of = |asker| {
        let entries = cache.entries();
        entries
            .iter()
            .filter(|entry| entry.asker == asker)
            .map(|entry| entry.bytes)
            .sum::<usize>()
    };
    assert!(of(7) <= USER_BYTES && of(7) > USER_BYTES / 2);
    for asker in 100..150 {
        for number in 0..20 {
            let name = format!("{number}.example.");
            cache.keep(&key(&name, asker), &texts(&name, 200, 60));
        }
    }
    let all = cache.lock();
    assert!(all.bytes <= ALL_BYTES && all.bytes > ALL_BYTES / 2);
    let sum: usize = all.shelves.values().map(|shelf| shelf.bytes).sum();
    assert_eq!(sum, all.bytes);
    assert!(
        all.shelves
            .values()
            .all(|shelf| shelf.turns.len() == shelf.entries.len())
    );
    drop(all);
    assert!(
        cache.find(&key("small.example.", 8)).is_some(),
        "others have more"
    );
}

#[tokio::test]
async fn the_same_question_is_asked_once_at_a_time() {
    let cache = Cache::default();
    let answer = texts("a.example.", 1, 0);
    let asked = std::cell::Cell::new(0);
    let ask = async || {
        asked.set(asked.get() + 1);
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(answer.clone())
    };
    let join = |asker| {
        let boarded = cache.board(key("a.example.", asker));
        async move { boarded.answer(ask).await }
    };
    let (first, second, other) = tokio::join!(join(7), join(7), join(8));
    for found in [first, second, other] {
        assert_eq!(found, Ok(answer.clone()));
    }
    assert_eq!(asked.get(), 2, "once for each user");
    assert!(cache.lock().flights.is_empty() && cache.entries().is_empty());
}

#[tokio::test]
async fn who_gives_up_asking_leaves_it_to_the_next() {
    let cache = Cache::default();
    let answer = texts("a.example.", 1, 60);
    let first = cache.board(key("a.example.", 7));
    let second = cache.board(key("a.example.", 7));
    {
        let mut first = pin!(first.answer(async || pending::<Result<_, Infallible>>().await));
        assert!((&mut first).now_or_never().is_none());
        let mut waiting = pin!(second.answer(async || Ok::<_, Infallible>(answer.clone())));
        assert!((&mut waiting).now_or_never().is_none());
    }
    drop(first);
    let failed = second.answer(async || Err(()));
    assert_eq!(failed.await, Err(()), "an error is nobody else's");
    assert_eq!(
        second.answer(async || Ok::<_, ()>(answer.clone())).await,
        Ok(answer)
    );
    assert!(cache.lock().flights.is_empty());
    assert!(cache.find(&key("a.example.", 7)).is_some());
    drop(cache.board(key("b.example.", 7)));
    assert!(cache.lock().flights.is_empty());
}

#[test]
fn names_are_told_as_they_are_written() {
    assert_eq!(text(b"\x03a b\x02.\\\x01\xff\0"), "a\\032b.\\.\\\\.\\255");
    assert_eq!(text(b"\0"), ".");
}

impl Answer {
    /// A short answer that is kept for a minute.
    fn kept(mut self) -> Self {
        self.keep = Duration::from_secs(60);
        self
    }
}

#[test]
fn what_is_not_there_is_kept_as_the_zone_says() {
    for (minimum, ttl, expected) in [(30, 900, 30), (900, 30, 30), (86_400, 86_400, 3600)] {
        let asked = asked("a.example.");
        let mut message = Message::response(1, OpCode::Query);
        message.add_queries(Message::from_vec(&asked.raw).unwrap().queries);
        let zone = Name::from_ascii("example.").unwrap();
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, minimum);
        let bare = Answer::read(&asked, Bytes::from(message.to_vec().unwrap())).unwrap();
        assert_eq!(
            bare.keep,
            Duration::ZERO,
            "no SOA, not kept (RFC 2308 section 5)"
        );
        message.add_authority(Record::from_rdata(zone, ttl, RData::SOA(soa)));
        for code in [0, 3] {
            message.metadata.response_code = hickory_proto::op::ResponseCode::from_low(code);
            let raw = Bytes::from(message.to_vec().unwrap());
            let answer = Answer::read(&asked, raw).unwrap();
            assert_eq!(answer.keep, Duration::from_secs(expected));
        }
        message.metadata.response_code = hickory_proto::op::ResponseCode::ServFail;
        let failed = Answer::read(&asked, message.to_vec().unwrap().into()).unwrap();
        assert_eq!(failed.keep, Duration::from_secs(1));
    }
}
