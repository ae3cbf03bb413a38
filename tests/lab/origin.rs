//! The servers that apps want to reach; each says which peer it saw.

mod web;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::addresses::{target, target6};
use crate::authority::Authority;
use crate::digest::{Digest, pattern};
use crate::host::{Host, enter_namespace};

/// The ports of the origin's servers.
pub mod port {
    /// TCP: sends back what comes until the end. UDP: sends back the peer's address, a space and
    /// the payload.
    pub const ECHO: u16 = 7;
    /// Reads to the end, then answers with count and digest.
    pub const SINK: u16 = 9;
    /// Reads a line with a number and sends that many bytes, then ends.
    pub const SOURCE: u16 = 19;
    /// HTTP/1.1 and HTTP/2 without TLS.
    pub const HTTP: u16 = 80;
    /// HTTP/1.1 and HTTP/2 over TLS. UDP: echo.
    pub const HTTPS: u16 = 443;
    /// Speaks first: a line with the peer's address; then echoes.
    pub const BANNER: u16 = 2001;
    /// Resets after the first byte.
    pub const RESET: u16 = 2002;
    /// Says `bye`, ends its own side, and reads on; see `Origin::totals`.
    pub const ENDS_FIRST: u16 = 2003;
    /// Accepts and never reads.
    pub const STUCK: u16 = 2004;
    /// Nobody listens here.
    pub const REFUSED: u16 = 2005;
    /// The echo again, for targets whose local port is taken on the client.
    pub const ECHO_8443: u16 = 8443;
    /// UDP echo on the port of DNS over TLS, which nobody treats specially.
    pub const UDP_8443: u16 = 8443;
}

/// How many targets of each family have UDP servers: 203.0.113.1 and up, 2001:db8::1 and up.
const UDP_TARGETS: u8 = 16;
/// The targets of ways out, see the probe; each has an echo of datagrams.
const WAY_TARGETS: std::ops::RangeInclusive<u8> = 100..=250;

/// A flow that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The address and port that it was for.
    pub target: SocketAddr,
    /// Where it came from.
    pub peer: SocketAddr,
}

#[derive(Debug, Default)]
struct Record {
    seen: Mutex<Vec<Seen>>,
    totals: Mutex<Vec<String>>,
}

impl Record {
    fn add(&self, target: SocketAddr, peer: SocketAddr) {
        let mut seen = self.seen.lock().expect("nobody panics with the lock");
        if seen.len() < 1_000_000 {
            seen.push(Seen {
                target: canonical(target),
                peer: canonical(peer),
            });
        }
    }
}

/// The servers, in a thread of this process that lives in the origin's network.
#[derive(Debug)]
pub struct Origin {
    record: Arc<Record>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    /// Starts every server; returns when all of them listen.
    pub(crate) fn start(host: &Host, authority: &Authority, files: &Path) -> Self {
        let record = Arc::new(Record::default());
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let namespace = host.namespace();
        let web = web::Web::new(authority, files);
        let thread = std::thread::spawn({
            let record = Arc::clone(&record);
            move || {
                enter_namespace(&namespace);
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime
                    .expect("a runtime needs nothing special")
                    .block_on(async move {
                        let mut servers = JoinSet::new();
                        start_all(&mut servers, &record, web).expect("the origin's ports are free");
                        ready.send(()).expect("the lab waits for this");
                        // The sender only ever goes away, which is what ends the servers.
                        let _ = stopped.await;
                    });
            }
        });
        is_ready.recv().expect("the origin starts");
        Self {
            record,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The flows that arrived since the start or the last [`Origin::forget`].
    pub fn seen(&self) -> Vec<Seen> {
        self.record
            .seen
            .lock()
            .expect("nobody panics with the lock")
            .clone()
    }

    /// What the clients of [`port::ENDS_FIRST`] sent after the end, as count and digest.
    pub fn totals(&self) -> Vec<String> {
        self.record
            .totals
            .lock()
            .expect("nobody panics with the lock")
            .clone()
    }

    /// Forgets every flow and total so far.
    pub fn forget(&self) {
        self.record
            .seen
            .lock()
            .expect("nobody panics with the lock")
            .clear();
        self.record
            .totals
            .lock()
            .expect("nobody panics with the lock")
            .clear();
    }

    /// Fails the test unless flows arrived and every one came from one of `peers`.
    #[track_caller]
    pub fn assert_seen_only(&self, peers: &[IpAddr]) {
        let seen = self.seen();
        assert!(!seen.is_empty(), "no flow reached the origin");
        let stray: Vec<_> = seen
            .iter()
            .filter(|seen| !peers.contains(&seen.peer.ip()))
            .collect();
        assert!(
            stray.is_empty(),
            "the origin saw others than {peers:?}: {stray:?}"
        );
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The IPv4 form of a v4-mapped address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn start_all(servers: &mut JoinSet<()>, record: &Arc<Record>, web: web::Web) -> io::Result<()> {
    let web = Arc::new(web);
    for number in [port::ECHO, port::ECHO_8443] {
        accept(servers, record, number, |flow, _| echo(flow))?;
    }
    accept(servers, record, port::SINK, |flow, _| sink(flow))?;
    accept(servers, record, port::SOURCE, |flow, _| source(flow))?;
    accept(servers, record, port::BANNER, |flow, _| banner(flow))?;
    accept(servers, record, port::RESET, |flow, _| reset(flow))?;
    accept(servers, record, port::ENDS_FIRST, ends_first)?;
    accept(servers, record, port::STUCK, |flow, _| stuck(flow))?;
    let plain = Arc::clone(&web);
    accept(servers, record, port::HTTP, move |flow, _| {
        Arc::clone(&plain).plain(flow)
    })?;
    accept(servers, record, port::HTTPS, move |flow, _| {
        Arc::clone(&web).tls(flow)
    })?;
    let all = [port::ECHO, port::HTTPS, port::UDP_8443];
    let echoes = (1..=UDP_TARGETS).flat_map(|number| all.map(|port| (number, port)));
    for (number, port) in echoes.chain(WAY_TARGETS.map(|number| (number, port::ECHO))) {
        for address in [IpAddr::from(target(number)), target6(number.into()).into()] {
            let socket = std::net::UdpSocket::bind((address, port))?;
            socket.set_nonblocking(true)?;
            servers.spawn(udp_echo(UdpSocket::from_std(socket)?, Arc::clone(record)));
        }
    }
    Ok(())
}

fn accept<F, W>(
    servers: &mut JoinSet<()>,
    record: &Arc<Record>,
    port: u16,
    serve: F,
) -> io::Result<()>
where
    F: Fn(TcpStream, Arc<Record>) -> W + Send + 'static,
    W: Future<Output = io::Result<()>> + Send + 'static,
{
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(4096)?;
    let listener = TcpListener::from_std(socket.into())?;
    let record = Arc::clone(record);
    servers.spawn(async move {
        let mut flows = JoinSet::new();
        loop {
            tokio::select! {
                Ok((flow, peer)) = listener.accept() => {
                    if let Ok(target) = flow.local_addr() {
                        record.add(target, peer);
                    }
                    flows.spawn(serve(flow, Arc::clone(&record)));
                }
                Some(_) = flows.join_next() => {}
            }
        }
    });
    Ok(())
}

async fn echo(mut flow: TcpStream) -> io::Result<()> {
    let (mut from, mut to) = flow.split();
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

async fn sink(mut flow: TcpStream) -> io::Result<()> {
    let digest = read_all(&mut flow).await?;
    flow.write_all(format!("{digest}\n").as_bytes()).await?;
    flow.shutdown().await
}

async fn source(flow: TcpStream) -> io::Result<()> {
    let mut flow = BufReader::new(flow);
    let mut line = String::new();
    flow.read_line(&mut line).await?;
    let mut left: usize = line.trim().parse().map_err(io::Error::other)?;
    let block = pattern();
    while left > 0 {
        let piece = &block[..left.min(block.len())];
        flow.write_all(piece).await?;
        left -= piece.len();
    }
    flow.shutdown().await
}

async fn banner(mut flow: TcpStream) -> io::Result<()> {
    let peer = canonical(flow.peer_addr()?);
    flow.write_all(format!("{peer}\n").as_bytes()).await?;
    echo(flow).await
}

async fn reset(mut flow: TcpStream) -> io::Result<()> {
    flow.read_u8().await?;
    socket2::SockRef::from(&flow).set_linger(Some(std::time::Duration::ZERO))
}

async fn ends_first(mut flow: TcpStream, record: Arc<Record>) -> io::Result<()> {
    flow.write_all(b"bye\n").await?;
    flow.shutdown().await?;
    let total = read_all(&mut flow).await?;
    record
        .totals
        .lock()
        .expect("nobody panics with the lock")
        .push(total);
    Ok(())
}

async fn stuck(flow: TcpStream) -> io::Result<()> {
    std::future::pending::<()>().await;
    drop(flow);
    Ok(())
}

async fn read_all(flow: &mut TcpStream) -> io::Result<String> {
    let mut digest = Digest::default();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match flow.read(&mut buffer).await? {
            0 => return Ok(digest.finish()),
            count => digest.update(&buffer[..count]),
        }
    }
}

async fn udp_echo(socket: UdpSocket, record: Arc<Record>) {
    let mut buffer = vec![0; 65536];
    let Ok(target) = socket.local_addr() else {
        return;
    };
    loop {
        // An ICMP error of an earlier answer may show up here; the next datagram matters.
        let Ok((count, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        record.add(target, peer);
        let mut answer = format!("{peer} ").into_bytes();
        answer.extend_from_slice(&buffer[..count]);
        let _ = socket.send_to(&answer, peer).await;
    }
}
