//! Flows that go on while something happens to the daemon, and new ones all the time.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a thread does over and over.
type Work = Box<dyn Fn(&All) -> io::Result<()> + Send>;

const LIMIT: Duration = Duration::from_secs(20);
const SORTS: usize = 5;
/// Pause between two uses of an open flow.
const BEAT: Duration = Duration::from_millis(20);

/// Uses `flows` flows of each sort and makes new ones from `makers` threads until a line or the end
/// of the input; says what came of each sort as JSON: `done` exchanges, failures by their kind, and
/// the longest of them in milliseconds.
pub(crate) fn steady(
    flows: usize,
    makers: usize,
    tcp: SocketAddr,
    udp: SocketAddr,
    name: &str,
) -> anyhow::Result<()> {
    let all = Arc::new(All::default());
    let mut threads = Vec::new();
    let mut start = |sort: &'static str, work: Work| {
        let all = Arc::clone(&all);
        threads.push(std::thread::spawn(move || {
            while !all.stop.load(Ordering::Relaxed) {
                all.run(sort, || work(&all));
            }
        }));
    };
    for _ in 0..flows {
        start("tcp", Box::new(move |all| open_tcp(all, tcp)));
        start("udp", Box::new(move |all| open_udp(all, udp)));
    }
    for _ in 0..makers {
        start(
            "connect",
            Box::new(move |all| all.timed("connect", || once(tcp))),
        );
    }
    let name = name.to_owned();
    start(
        "name",
        Box::new(move |all| all.timed("name", || look_up(&name))),
    );
    start(
        "datagram",
        Box::new(move |all| all.timed("datagram", || ask(udp))),
    );
    println!("ready");
    io::stdin().read_line(&mut String::new())?;
    // On a busy machine the first of a sort takes a while.
    let end = Instant::now() + LIMIT;
    while all.sorts.lock().expect("no panics").len() < SORTS && Instant::now() < end {
        std::thread::sleep(BEAT);
    }
    all.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    println!(
        "{}",
        serde_json::to_string(&*all.sorts.lock().expect("no panics"))?
    );
    Ok(())
}

#[derive(Default)]
struct All {
    stop: AtomicBool,
    number: AtomicU64,
    sorts: Mutex<BTreeMap<&'static str, Sort>>,
}

#[derive(Default, serde::Serialize)]
struct Sort {
    done: u64,
    longest_ms: u64,
    failures: BTreeMap<String, u64>,
}

impl All {
    fn run(&self, sort: &'static str, work: impl FnOnce() -> io::Result<()>) {
        if let Err(error) = work() {
            let mut sorts = self.sorts.lock().expect("no panics");
            let failure = format!("{:?}: {error}", error.kind());
            *sorts
                .entry(sort)
                .or_default()
                .failures
                .entry(failure)
                .or_insert(0) += 1;
            drop(sorts);
            std::thread::sleep(BEAT);
        }
    }

    /// One exchange.
    fn timed(&self, sort: &'static str, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let begun = Instant::now();
        work()?;
        let mut sorts = self.sorts.lock().expect("no panics");
        let sort = sorts.entry(sort).or_default();
        sort.done += 1;
        sort.longest_ms = sort.longest_ms.max(begun.elapsed().as_millis() as u64);
        Ok(())
    }

    fn token(&self) -> String {
        format!("token {:020}", self.number.fetch_add(1, Ordering::Relaxed))
    }
}

/// One flow, used until the end.
fn open_tcp(all: &All, target: SocketAddr) -> io::Result<()> {
    let mut flow = connect(target)?;
    let mut answer = vec![0; 26];
    while !all.stop.load(Ordering::Relaxed) {
        let token = all.token();
        all.timed("tcp", || {
            flow.write_all(token.as_bytes())?;
            flow.read_exact(&mut answer)?;
            same(token.as_bytes(), &answer)
        })?;
        std::thread::sleep(BEAT);
    }
    Ok(())
}

fn open_udp(all: &All, target: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.connect(target)?;
    let mut peer = None;
    while !all.stop.load(Ordering::Relaxed) {
        all.timed("udp", || {
            let now = exchange(&socket, &all.token())?;
            // Another peer is another flow at the far side.
            if *peer.get_or_insert(now.clone()) != now {
                return Err(io::Error::other("another way"));
            }
            Ok(())
        })?;
        std::thread::sleep(BEAT);
    }
    Ok(())
}

/// Sends one datagram and returns which peer the target saw.
fn exchange(socket: &UdpSocket, token: &str) -> io::Result<String> {
    socket.send(token.as_bytes())?;
    let mut answer = [0; 200];
    let count = socket.recv(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    match answer.split_once(' ') {
        Some((peer, echo)) if echo == token => Ok(peer.to_owned()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn ask(target: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.connect(target)?;
    exchange(&socket, "token").map(drop)
}

fn once(target: SocketAddr) -> io::Result<()> {
    let mut flow = connect(target)?;
    flow.write_all(b"once")?;
    let mut answer = [0; 4];
    flow.read_exact(&mut answer)?;
    same(b"once", &answer)
}

fn look_up(name: &str) -> io::Result<()> {
    let mut found = (name, 7).to_socket_addrs()?;
    found.next().map(drop).ok_or(io::ErrorKind::NotFound.into())
}

fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let flow = TcpStream::connect_timeout(&target, LIMIT)?;
    flow.set_read_timeout(Some(LIMIT))?;
    flow.set_nodelay(true)?;
    Ok(flow)
}

fn same(one: &[u8], other: &[u8]) -> io::Result<()> {
    match one == other {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}
