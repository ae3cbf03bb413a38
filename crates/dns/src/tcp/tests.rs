use std::sync::Arc;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{DuplexStream, duplex};

use offramp_rules::DomainName;

use super::*;
use crate::{Names, SystemResolver, Way};

struct AllRelayed;

impl Lookup for AllRelayed {
    fn way(&self, _name: &DomainName) -> Way {
        Way::Relay
    }

    fn ipv6(&self) -> bool {
        true
    }

    async fn far(&self, _query: Bytes, _asked: SocketAddr) -> io::Result<Bytes> {
        std::future::pending().await
    }

    async fn approve(&self, _: &DomainName, _: &[(std::net::IpAddr, Duration)]) -> bool {
        true
    }
}

fn query(name: &str) -> Vec<u8> {
    query_of(name, RecordType::A)
}

fn query_of(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap();
    [&length.to_be_bytes()[..], message].concat()
}

async fn serve(mut stream: DuplexStream, stop: &CancellationToken) {
    let names = Names::new("198.18.0.0/15".parse().unwrap(), None, 100);
    let responder = Responder::new(Arc::new(names), SystemResolver::new());
    let asked = "192.0.2.53:53".parse().unwrap();
    let served = responder.serve_tcp(&mut stream, asked, &AllRelayed, stop);
    served.await;
}

#[tokio::test]
async fn several_queries_of_one_stream_are_all_answered() {
    let (mut app, ours) = duplex(100);
    let queries: Vec<_> = (0..50).map(|n| query(&format!("n{n}.example."))).collect();
    let sent: Vec<u8> = queries.iter().flat_map(|query| framed(query)).collect();
    let stop = CancellationToken::new();
    let (mut reader, mut writer) = tokio::io::split(&mut app);
    let write = async {
        // Byte by byte, to meet every place where a frame can be cut.
        for byte in &sent {
            writer.write_all(std::slice::from_ref(byte)).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    };
    let read = async {
        let mut waiting = queries.clone();
        while !waiting.is_empty() {
            let answer = read_message(&mut reader).await.unwrap().unwrap();
            let to =
                |query: &Vec<u8>| message::answers(query, &answer) && answer[..2] == query[..2];
            waiting.swap_remove(waiting.iter().position(to).unwrap());
        }
        assert_eq!(read_message(&mut reader).await.unwrap(), None);
    };
    tokio::join!(serve(ours, &stop), write, read);
}

#[tokio::test(start_paused = true)]
async fn a_slow_lookup_does_not_hold_up_the_next() {
    let (mut app, ours) = duplex(1000);
    let slow = query_of("a.example.", RecordType::MX);
    let fast = query("a.example.");
    app.write_all(&[framed(&slow), framed(&fast)].concat())
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let read = async {
        for query in [&fast, &slow] {
            let answer = read_message(&mut app).await.unwrap().unwrap();
            assert!(message::answers(query, &answer));
        }
        drop(app);
    };
    tokio::join!(serve(ours, &stop), read);
}

#[tokio::test(start_paused = true)]
async fn more_queries_than_are_worked_on_wait_in_the_stream() {
    let (mut app, ours) = duplex(100);
    let slow = framed(&query_of("a.example.", RecordType::MX)).repeat(100);
    let stop = CancellationToken::new();
    let write = async {
        // Taken are the ones that are worked on and what the two buffers hold.
        let mut sent = 0;
        while let Ok(length) = timeout(Duration::from_secs(1), app.write(&slow[sent..])).await {
            sent += length.unwrap();
        }
        assert!(sent < slow.len() / 2, "{sent}");
        stop.cancel();
    };
    tokio::join!(serve(ours, &stop), write);
}

#[tokio::test]
async fn the_helper_and_the_server_understand_each_other() {
    let (mut app, ours) = duplex(100);
    let query = query("a.example.");
    let stop = CancellationToken::new();
    let ask = async {
        let answer = exchange_tcp(&mut app, &query).await.unwrap();
        assert!(message::answers(&query, &answer));
        drop(app);
    };
    tokio::join!(serve(ours, &stop), ask);
}

#[tokio::test]
async fn what_is_no_query_ends_the_stream() {
    for junk in [framed(&[]), framed(&[0x80; 20]), vec![0, 9, 1], vec![0]] {
        let (mut app, ours) = duplex(100);
        app.write_all(&junk).await.unwrap();
        app.shutdown().await.unwrap();
        serve(ours, &CancellationToken::new()).await;
        assert_eq!(read_message(&mut app).await.unwrap(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_app_and_one_that_does_not_read_are_let_go() {
    let (_silent, ours) = duplex(100);
    serve(ours, &CancellationToken::new()).await;

    let (mut greedy, ours) = duplex(20);
    let sent = framed(&query("a.example."));
    let stop = CancellationToken::new();
    let (_, written) = tokio::join!(serve(ours, &stop), greedy.write_all(&sent));
    written.unwrap();
}

#[tokio::test]
async fn a_stop_ends_the_stream() {
    let (_app, ours) = duplex(100);
    let stop = CancellationToken::new();
    stop.cancel();
    serve(ours, &stop).await;
}

#[tokio::test]
async fn an_answer_to_another_query_is_no_answer() {
    let asked = query("a.example.");
    let mut id = asked.clone();
    id[2] |= 0x80;
    id[0] ^= 1;
    let mut other = query("b.example.");
    other[2] |= 0x80;
    other[..2].copy_from_slice(&asked[..2]);
    for wrong in [id, other, asked.clone(), Vec::new()] {
        let (mut ours, mut server) = duplex(1000);
        server.write_all(&framed(&wrong)).await.unwrap();
        let error = exchange_tcp(&mut ours, &asked).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
    let (mut ours, server) = duplex(1000);
    drop(server);
    assert!(exchange_tcp(&mut ours, &asked).await.is_err());
}

#[tokio::test]
async fn lookups_can_run_in_tasks_of_their_own() {
    let names = Names::new("198.18.0.0/15".parse().unwrap(), None, 10);
    let responder = Arc::new(Responder::new(Arc::new(names), SystemResolver::new()));
    let asked = "192.0.2.53:53".parse().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    let (app, mut ours) = duplex(100);
    drop(app);
    let streams = Arc::clone(&responder);
    tasks.spawn(async move {
        let stop = CancellationToken::new();
        let served = streams.serve_tcp(&mut ours, asked, &AllRelayed, &stop);
        served.await;
    });
    tasks.spawn(async move {
        let query = query("a.example.").into();
        let answer = responder.answer(query, asked, Transport::Udp, &AllRelayed);
        assert!(answer.await.is_some());
    });
    tasks.join_all().await;
}
