//! Exchanges of every sort, one after another, until the input ends; then how each of them ended.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

/// Between two exchanges of a sort, so that others have the machine too.
const PACE: Duration = Duration::from_millis(5);

/// What is exchanged with whom.
#[derive(Debug)]
pub(crate) struct Traffic {
    /// How long an answer may take.
    pub(crate) patience: Duration,
    /// A server that says whom it sees, then echoes.
    pub(crate) banner: SocketAddr,
    /// Echoes datagrams, and says whom it sees.
    pub(crate) echo: SocketAddr,
    /// NAME:PORT of such a server as `banner`.
    pub(crate) name: String,
    /// Command lines that are started, with what they end counted.
    pub(crate) commands: Vec<String>,
}

/// How often each sort of exchange ended in which way.
#[derive(Default)]
struct Ends(Mutex<BTreeMap<String, usize>>);

impl Ends {
    fn add(&self, sort: &str, end: io::Result<String>) {
        let end = end.unwrap_or_else(|error| format!("{:?}", error.kind()));
        let mut ends = self.0.lock().expect("nobody panics with the lock");
        *ends.entry(format!("{sort} {end}")).or_insert(0) += 1;
    }
}

impl Traffic {
    /// Goes on until the standard input ends, and prints the ends as JSON.
    pub(crate) fn go_on(&self) -> anyhow::Result<()> {
        let (ends, over) = (Ends::default(), AtomicBool::new(false));
        let again = |sort: &str, exchange: &dyn Fn() -> io::Result<String>| {
            while !over.load(Ordering::Relaxed) {
                ends.add(sort, exchange());
                sleep(PACE);
            }
        };
        scope(|threads| {
            threads.spawn(|| again("tcp", &|| Ok(self.connect(self.banner)?.1)));
            threads.spawn(|| again("udp", &|| self.ask()));
            threads.spawn(|| again("name", &|| self.by_name()));
            threads.spawn(|| again("long", &|| self.hold(&over)));
            for command in &self.commands {
                let again = &again;
                threads.spawn(move || {
                    let program = command.split(' ').next().unwrap_or_default();
                    let name = Path::new(program).file_name().unwrap_or_default();
                    let sort = format!("start {}", name.to_string_lossy());
                    again(&sort, &|| start(command));
                });
            }
            let rest = io::stdin().read_to_end(&mut Vec::new());
            over.store(true, Ordering::Relaxed);
            rest
        })?;
        let ends = ends.0.into_inner().expect("nobody panics with the lock");
        println!("{}", serde_json::to_string(&ends)?);
        Ok(())
    }

    /// Opens a flow and uses it; returns whom the server saw.
    fn connect(&self, target: SocketAddr) -> io::Result<(TcpStream, String)> {
        let mut flow = TcpStream::connect_timeout(&target, self.patience)?;
        flow.set_read_timeout(Some(self.patience))?;
        let (mut said, mut byte) = (Vec::new(), [0]);
        while byte != *b"\n" {
            flow.read_exact(&mut byte)?;
            said.extend(byte);
        }
        echo(&mut flow)?;
        Ok((flow, peer_in(&said)))
    }

    fn ask(&self) -> io::Result<String> {
        let any = if self.echo.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(self.patience))?;
        socket.send_to(b"?", self.echo)?;
        let mut answer = [0; 100];
        loop {
            match socket.recv_from(&mut answer) {
                // A child that ends while its parent is still at starting it.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => return Ok(peer_in(&answer[..received?.0])),
            }
        }
    }

    fn by_name(&self) -> io::Result<String> {
        let found = self.name.to_socket_addrs()?.next();
        let target = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(self.connect(target)?.1)
    }

    /// Uses one flow over and over until it breaks.
    fn hold(&self, over: &AtomicBool) -> io::Result<String> {
        let (mut flow, peer) = self.connect(self.banner)?;
        while !over.load(Ordering::Relaxed) {
            echo(&mut flow)?;
            sleep(PACE);
        }
        Ok(peer)
    }
}

fn echo(flow: &mut TcpStream) -> io::Result<()> {
    flow.write_all(b"?")?;
    flow.read_exact(&mut [0])
}

fn start(line: &str) -> io::Result<String> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status()?;
    Ok(status
        .code()
        .map_or("killed".into(), |code| code.to_string()))
}

/// The address of `ADDRESS:PORT …`.
fn peer_in(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let first = text.split_whitespace().next().unwrap_or_default();
    match first.parse::<SocketAddr>() {
        Ok(peer) => peer.ip().to_canonical().to_string(),
        Err(_) => text.into_owned(),
    }
}
