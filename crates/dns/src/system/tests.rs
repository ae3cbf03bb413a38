use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

/// A server on loopback that gives a test's answers, over UDP in datagrams of their own, over
/// TCP the last of them.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(
        behave: impl Fn(Message) -> Vec<Message> + Send + Sync + 'static,
    ) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), behave).await
    }

    async fn start_at(
        address: SocketAddr,
        behave: impl Fn(Message) -> Vec<Message> + Send + Sync + 'static,
    ) -> Self {
        let tcp = TcpListener::bind(address).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let behave = Arc::new(behave);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&behave)));
        tasks.spawn(serve_tcp(tcp, behave));
        Self {
            address,
            _tasks: tasks,
        }
    }
}

async fn serve_udp(socket: UdpSocket, behave: Arc<impl Fn(Message) -> Vec<Message>>) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let query = Message::from_vec(&buffer[..length]).unwrap();
        for answer in behave(query) {
            socket
                .send_to(&answer.to_vec().unwrap(), from)
                .await
                .unwrap();
        }
    }
}

async fn serve_tcp(listener: TcpListener, behave: Arc<impl Fn(Message) -> Vec<Message>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut query).await.unwrap();
        let mut answer = behave(Message::from_vec(&query).unwrap()).pop().unwrap();
        answer.metadata.truncation = false;
        let answer = answer.to_vec().unwrap();
        stream
            .write_u16(answer.len().try_into().unwrap())
            .await
            .unwrap();
        stream.write_all(&answer).await.unwrap();
    }
}

fn answer(query: &Message, address: &str) -> Message {
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    let name = query.queries[0].name().clone();
    answer.add_queries(query.queries.clone());
    let data = RData::A(A(address.parse().unwrap()));
    answer.add_answer(Record::from_rdata(name, 60, data));
    answer
}

fn query() -> Message {
    let mut message = Message::query();
    let name = Name::from_ascii("a.example.").unwrap();
    message.add_query(Query::query(name, RecordType::A));
    message
}

/// What the servers at `addresses` say.
async fn exchange(
    addresses: &[IpAddr],
    port: u16,
    transport: Transport,
) -> Result<Message, ResolveError> {
    let mut conf = tempfile::NamedTempFile::new().unwrap();
    for address in addresses {
        writeln!(conf, "nameserver {address}").unwrap();
    }
    let names = Names::new("198.18.0.0/15".parse().unwrap(), None, 1);
    let query = query().to_vec().unwrap();
    let resolver = SystemResolver::at(conf.path(), port);
    let answer = resolver.exchange(&query, transport, &names).await?;
    Ok(Message::from_vec(&answer).unwrap())
}

fn first(message: &Message) -> String {
    message.answers[0].data.ip_addr().unwrap().to_string()
}

#[tokio::test]
async fn over_both_transports_the_answer_is_the_servers() {
    let server = Server::start(|query| vec![answer(&query, "192.0.2.1")]).await;
    for transport in [Transport::Udp, Transport::Tcp] {
        let answer = exchange(&[server.address.ip()], server.address.port(), transport).await;
        assert_eq!(first(&answer.unwrap()), "192.0.2.1");
    }
}

#[tokio::test]
async fn forged_answers_are_passed_over() {
    let server = Server::start(|query| {
        let mut id = answer(&query, "192.0.2.66");
        id.metadata.id ^= 1;
        let mut name = answer(&query, "192.0.2.66");
        name.queries[0].set_name(Name::from_ascii("b.example.").unwrap());
        let mut kind = answer(&query, "192.0.2.66");
        kind.queries[0].set_query_type(RecordType::AAAA);
        let mut none = answer(&query, "192.0.2.66");
        none.queries.clear();
        vec![
            id,
            name,
            kind,
            none,
            query.clone(),
            answer(&query, "192.0.2.1"),
        ]
    });
    let server = server.await;
    let answer = exchange(
        &[server.address.ip()],
        server.address.port(),
        Transport::Udp,
    )
    .await;
    assert_eq!(first(&answer.unwrap()), "192.0.2.1");
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp() {
    let server = Server::start(|query| {
        let mut answer = answer(&query, "192.0.2.1");
        answer.metadata.truncation = true;
        vec![answer]
    });
    let server = server.await;
    let answer = exchange(
        &[server.address.ip()],
        server.address.port(),
        Transport::Udp,
    )
    .await;
    assert!(!answer.unwrap().metadata.truncation);
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_fails() {
    let failing = Server::start(|query| {
        let mut answer = answer(&query, "192.0.2.66");
        answer.metadata.response_code = ResponseCode::ServFail;
        vec![answer]
    });
    let failing = failing.await;
    let port = failing.address.port();
    let second = Server::start_at(([127, 0, 0, 2], port).into(), |query| {
        vec![answer(&query, "192.0.2.1")]
    });
    let second = second.await;
    let (failing, second) = (failing.address.ip(), second.address.ip());
    let absent = "127.0.0.3".parse().unwrap();
    let found = exchange(&[absent, failing, second], port, Transport::Udp).await;
    assert_eq!(first(&found.unwrap()), "192.0.2.1");
    let failed = exchange(&[failing, absent], port, Transport::Udp).await;
    assert_eq!(
        failed.unwrap().metadata.response_code,
        ResponseCode::ServFail
    );
}

#[tokio::test]
async fn synthetic_addresses_are_never_asked() {
    let synthetic = "198.18.0.4".parse().unwrap();
    let refused = exchange(&[synthetic], 53, Transport::Udp).await;
    assert!(matches!(refused, Err(ResolveError::NoServer)));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up() {
    let server = Server::start(|_| Vec::new()).await;
    let failed = exchange(
        &[server.address.ip()],
        server.address.port(),
        Transport::Udp,
    )
    .await;
    let Err(ResolveError::NoAnswer(error)) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[test]
fn the_servers_are_those_of_the_file_as_it_is_now() {
    let conf = tempfile::NamedTempFile::new().unwrap();
    let resolver = ResolvConf::new(conf.path().to_owned());
    let check = |text: &str, expected: &[&str]| {
        std::fs::write(&conf, text).unwrap();
        let servers: Vec<_> = resolver
            .current()
            .addresses(53)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(servers, expected, "{text}");
    };
    check("", &["127.0.0.1:53"]);
    check("nameserver 192.0.2.1\n", &["192.0.2.1:53"]);
    check(
        "# nameserver 1.1.1.1\n nameserver\t192.0.2.1 # x\nnameserver ::1\nsearch a\nnameserver\nnameserver x\n",
        &["192.0.2.1:53", "[::1]:53"],
    );
    check("nameserver fe80::1%lo\n", &["[fe80::1%1]:53"]);
    check("nameserver fe80::1%7\n", &["[fe80::1%7]:53"]);
    check("nameserver fe80::1%../x\n", &["127.0.0.1:53"]);
    let many = "nameserver 192.0.2.1\n".repeat(9);
    check(&many, &["192.0.2.1:53"; 3]);
    check("nameserver fe80::1%\n", &["127.0.0.1:53"]);
    check(
        "nameserver 192.0.2.1\nnameserver fe80::1%nosuch\n",
        &["192.0.2.1:53"],
    );
    // Another file of the same size in its place, as NetworkManager does it, then a link to one.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    let resolver = ResolvConf::new(path.clone());
    let check = |expected: &str| {
        let servers = resolver.current().addresses(53);
        assert_eq!(servers, [format!("{expected}:53").parse().unwrap()]);
    };
    for server in ["192.0.2.1", "192.0.2.2"] {
        let fresh = folder.path().join("fresh");
        std::fs::write(&fresh, format!("nameserver {server}\n")).unwrap();
        std::fs::rename(fresh, &path).unwrap();
        check(server);
    }
    for server in ["192.0.2.3", "192.0.2.4"] {
        let (target, fresh) = (folder.path().join(server), folder.path().join("link"));
        std::fs::write(&target, format!("nameserver {server}\n")).unwrap();
        std::os::unix::fs::symlink(&target, &fresh).unwrap();
        std::fs::rename(fresh, &path).unwrap();
        check(server);
    }
    std::fs::remove_file(&path).unwrap();
    check("127.0.0.1");
}

#[test]
fn options_are_those_of_resolvers() {
    let conf = resolv_conf::parse(
        b"options timeout:3 rotate edns0 trust-ad ndots:2\noptions attempts:99 use-vc timeout:x",
    );
    assert_eq!(conf.timeout, Some(Duration::from_secs(3)));
    assert_eq!(conf.attempts, Some(5));
    assert!(conf.rotate && conf.over_tcp);
    let conf = resolv_conf::parse(b"nameserver 192.0.2.1\n#options rotate\n; options use-vc\n");
    let servers = vec![("192.0.2.1".parse().unwrap(), None)];
    let plain = resolv_conf::Conf {
        servers,
        ..resolv_conf::Conf::default()
    };
    assert_eq!(conf, plain);
}

#[tokio::test]
async fn rotation_and_tcp_alone_are_as_the_file_says() {
    let over_udp = Arc::new(AtomicUsize::new(0));
    let mut servers = Vec::new();
    for number in 0..2u8 {
        let address: SocketAddr = match servers.first() {
            None => "127.0.0.1:0".parse().unwrap(),
            Some(Server { address, .. }) => ([127, 0, 0, 2], address.port()).into(),
        };
        let seen = Arc::clone(&over_udp);
        let server = Server::start_at(address, move |query| {
            seen.fetch_add(1, Ordering::Relaxed);
            let mut answer = answer(&query, &format!("192.0.2.{number}"));
            // Over UDP nothing is whole.
            answer.metadata.truncation = true;
            vec![answer]
        });
        servers.push(server.await);
    }
    let mut conf = tempfile::NamedTempFile::new().unwrap();
    writeln!(conf, "nameserver 127.0.0.1\nnameserver 127.0.0.2").unwrap();
    writeln!(conf, "options rotate use-vc").unwrap();
    let names = Names::new("198.18.0.0/15".parse().unwrap(), None, 1);
    let resolver = SystemResolver::at(conf.path(), servers[0].address.port());
    let query = query().to_vec().unwrap();
    let mut said = Vec::new();
    for _ in 0..4 {
        let answer = resolver.exchange(&query, Transport::Udp, &names).await;
        said.push(first(&Message::from_vec(&answer.unwrap()).unwrap()));
    }
    assert_eq!(said, ["192.0.2.0", "192.0.2.1", "192.0.2.0", "192.0.2.1"]);
    assert_eq!(
        over_udp.load(Ordering::Relaxed),
        4,
        "each was asked once, over TCP"
    );
}
