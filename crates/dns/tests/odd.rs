//! Odd but legal answers of servers pass the far and the system path, and the app gets a legal message.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "odd/answers.rs"]
mod answers;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use offramp_dns::{Lookup, Names, Responder, SystemResolver, Transport, Way, exchange_tcp};
use offramp_rules::DomainName;

use answers::Odd;

const LIMIT: Duration = Duration::from_secs(30);

/// A server that answers every query with one odd answer.
struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
    odd: Odd,
}

impl Server {
    async fn start(odd: Odd) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let udp = UdpSocket::bind(tcp.local_addr().unwrap()).await.unwrap();
        Self { udp, tcp, odd }
    }

    fn address(&self) -> SocketAddr {
        self.tcp.local_addr().unwrap()
    }

    async fn serve(&self) {
        tokio::join!(self.serve_udp(), self.serve_tcp());
    }

    async fn serve_udp(&self) {
        let mut query = [0; 1024];
        loop {
            let (length, from) = self.udp.recv_from(&mut query).await.unwrap();
            let mut answer = self.odd.answer(&query[..length]);
            if answer.len() > 1232 {
                // Cut as servers do: nothing but the question, and marked so.
                answer = self.odd.answer(&query[..length])[..length].to_vec();
                answer[2] |= 2;
                answer[6..12].fill(0);
            }
            self.udp.send_to(&answer, from).await.unwrap();
        }
    }

    async fn serve_tcp(&self) {
        loop {
            let (mut stream, _) = self.tcp.accept().await.unwrap();
            let Ok(length) = stream.read_u16().await else {
                continue;
            };
            let mut query = vec![0; usize::from(length)];
            stream.read_exact(&mut query).await.unwrap();
            let answer = self.odd.answer(&query);
            let length = u16::try_from(answer.len()).unwrap();
            let framed = [&length.to_be_bytes()[..], &answer].concat();
            stream.write_all(&framed).await.unwrap();
        }
    }
}

/// All names go one way.
struct App {
    way: Way,
    far: SocketAddr,
}

impl Lookup for App {
    fn way(&self, _: &DomainName) -> Way {
        self.way
    }

    fn ipv6(&self) -> bool {
        true
    }

    async fn far(&self, query: Bytes, _: SocketAddr) -> io::Result<Bytes> {
        let mut stream = TcpStream::connect(self.far).await?;
        exchange_tcp(&mut stream, &query).await
    }

    async fn approve(&self, _: &DomainName, _: &[(IpAddr, Duration)]) -> bool {
        true
    }
}

/// A responder whose far side and system resolver is the server.
struct Fixture {
    responder: Responder,
    app: App,
    _conf: tempfile::NamedTempFile,
}

fn fixture(server: &Server, way: Way) -> Fixture {
    let conf = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&conf, "nameserver 127.0.0.1\n").unwrap();
    let v6 = "fd00:6f66::/64".parse().unwrap();
    let names = Names::new("198.18.0.0/15".parse().unwrap(), Some(v6), 100);
    let system = SystemResolver::at(conf.path(), server.address().port());
    Fixture {
        responder: Responder::new(Arc::new(names), system),
        app: App {
            way,
            far: server.address(),
        },
        _conf: conf,
    }
}

fn query(odd: &Odd, payload: Option<u16>) -> Bytes {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(odd.name).unwrap();
    message.add_query(Query::query(name, RecordType::from(odd.kind)));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().unwrap().into()
}

/// What each app may count on, whatever a server says.
fn check(odd: &Odd, query: &[u8], answer: &[u8], transport: Transport, most: usize) -> Message {
    let what = odd.what;
    assert_eq!(answer[..2], query[..2], "{what}");
    assert_ne!(answer[2] & 0x80, 0, "{what}");
    let question = 12..12 + odd.name.len() + 5;
    assert_eq!(answer[question.clone()], query[question], "{what}");
    if transport == Transport::Udp {
        assert!(answer.len() <= most, "{what}: {} octets", answer.len());
    }
    Message::from_vec(answer).unwrap_or_else(|error| panic!("{what}: {error}"))
}

#[tokio::test]
async fn the_app_gets_a_legal_message_without_addresses_of_the_far_side() {
    for odd in answers::all() {
        let server = Server::start(odd).await;
        let odd = &server.odd;
        let Fixture { responder, app, .. } = &fixture(&server, Way::Relay);
        for (transport, payload) in [
            (Transport::Tcp, None),
            (Transport::Tcp, Some(1232)),
            (Transport::Udp, None),
            (Transport::Udp, Some(1232)),
            (Transport::Udp, Some(u16::MAX)),
        ] {
            let query = query(odd, payload);
            let asked = "192.0.2.53:53".parse().unwrap();
            let answer = responder.answer(query.clone(), asked, transport, app);
            let answer = tokio::select! {
                answer = timeout(LIMIT, answer) => answer.unwrap().unwrap(),
                () = server.serve() => unreachable!("serves for ever"),
            };
            let most = usize::from(payload.unwrap_or(512));
            let told = check(odd, &query, &answer, transport, most);
            assert!(told.additionals.is_empty(), "{}", odd.what);
            let records: Vec<_> = told.answers.iter().chain(&told.authorities).collect();
            let addresses = [RecordType::A, RecordType::AAAA];
            assert!(
                records
                    .iter()
                    .all(|r| !addresses.contains(&r.record_type())),
                "{}: {told}",
                odd.what
            );
            if !told.metadata.truncation {
                assert_eq!(records.len(), odd.told, "{}: {told}", odd.what);
            }
            if transport == Transport::Tcp {
                assert!(!told.metadata.truncation, "{}", odd.what);
            }
            assert!(records.iter().all(|r| r.ttl <= 3600), "{}", odd.what);
        }
    }
}

#[tokio::test]
async fn the_app_gets_the_answers_of_the_system() {
    for odd in answers::all() {
        let server = Server::start(odd).await;
        let odd = &server.odd;
        let Fixture { responder, app, .. } = &fixture(&server, Way::System);
        for (transport, payload) in [
            (Transport::Tcp, Some(1232)),
            (Transport::Udp, None),
            (Transport::Udp, Some(4096)),
        ] {
            let query = query(odd, payload);
            let asked = "192.0.2.53:53".parse().unwrap();
            let answer = responder.answer(query.clone(), asked, transport, app);
            let answer = tokio::select! {
                answer = timeout(LIMIT, answer) => answer.unwrap().unwrap(),
                () = server.serve() => unreachable!("serves for ever"),
            };
            let most = usize::from(payload.unwrap_or(512));
            let told = check(odd, &query, &answer, transport, most);
            if !told.metadata.truncation {
                let said = Message::from_vec(&odd.answer(&query)).expect(odd.what);
                let capped = |mut record: Record| {
                    record.ttl = record.ttl.min(3600);
                    record
                };
                let answers: Vec<Record> = said.answers.into_iter().map(capped).collect();
                assert_eq!(told.answers, answers, "{}", odd.what);
                let kept = told.additionals.iter().chain(&told.authorities);
                assert!(kept.count() <= said.authorities.len(), "{}", odd.what);
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs dig: run scripts/test"]
async fn dig_reads_whatever_a_server_said() {
    for odd in answers::all() {
        let server = Server::start(odd).await;
        let odd = &server.odd;
        for way in [Way::Relay, Way::System] {
            let fixture = fixture(&server, way);
            for transport in ["+notcp", "+tcp", "+notcp +noedns"] {
                let said = dig(&server, &fixture, transport).await;
                let is_whole = said.contains("status: NOERROR") || said.contains("NXDOMAIN");
                assert!(is_whole, "{} {transport}: {said}", odd.what);
                // In its own words for what it does not like; of what the system said, octets behind
                // the end are as the machine's resolver has them.
                let complaints = ["malformed", "WARNING", "Warning", "bad "];
                let fine = !complaints.iter().any(|words| said.contains(words));
                assert!(
                    fine || way == Way::System,
                    "{} {transport}: {said}",
                    odd.what
                );
            }
        }
    }
}

/// What dig says, asking through the responder.
async fn dig(server: &Server, fixture: &Fixture, transport: &str) -> String {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(front).await.unwrap();
    let Fixture { responder, app, .. } = fixture;
    let serve_udp = async {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            let query = Bytes::copy_from_slice(&buffer[..length]);
            let answer = responder.answer(query, front, Transport::Udp, app).await;
            udp.send_to(&answer.unwrap(), from).await.unwrap();
        }
    };
    let stop = CancellationToken::new();
    let serve_tcp = async {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            responder.serve_tcp(&mut stream, front, app, &stop).await;
        }
    };
    let mut dig = Command::new("dig");
    dig.args(["-r", "@127.0.0.1", "+tries=1", "+time=20", "+nostats"])
        .arg(format!("-p{}", front.port()))
        .args(transport.split(' '))
        .arg(server.odd.name)
        .arg(format!("TYPE{}", server.odd.kind))
        .kill_on_drop(true);
    let output = tokio::select! {
        output = timeout(LIMIT, dig.output()) => output.unwrap().expect("dig is installed"),
        () = server.serve() => unreachable!("serves for ever"),
        () = serve_udp => unreachable!("serves for ever"),
        () = serve_tcp => unreachable!("serves for ever"),
    };
    String::from_utf8_lossy(&output.stdout).into_owned()
}
