//! Flows of every sort, opened and used at a word: `open`, `use`, and what came of each.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::Context;
use nix::sched::{CloneFlags, unshare};

const LIMIT: Duration = Duration::from_secs(10);

/// Where the flows go: a banner over IPv4 and IPv6, an echo of datagrams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Targets {
    pub(crate) four: SocketAddr,
    pub(crate) six: SocketAddr,
    pub(crate) udp: SocketAddr,
}

/// Opens and uses flows, in this process, another thread and a child, at each line of the input.
pub(crate) fn hold(targets: Targets) -> anyhow::Result<()> {
    let mut flows = None;
    for line in io::stdin().lock().lines() {
        match line?.as_str() {
            "open" => flows = Some(Everything::open(targets)?),
            "use" => {}
            other => anyhow::bail!("open or use, not {other}"),
        }
        let all = flows.as_mut().context("nothing is open yet")?;
        println!("{}", serde_json::to_string(&all.report()?)?);
    }
    Ok(())
}

/// The part of [`hold`] that a child does: its standard error is a flow that it inherited.
pub(crate) fn child(targets: Targets) -> anyhow::Result<()> {
    let inherited = TcpStream::from(io::stderr().as_fd().try_clone_to_owned()?);
    let mut flows = [
        ("inherited", Flow::Tcp(inherited, "works".to_owned())),
        ("child", Flow::tcp(targets.four)),
    ];
    for line in io::stdin().lock().lines() {
        line?;
        println!("{}", serde_json::to_string(&report(&mut flows))?);
    }
    Ok(())
}

type Report = BTreeMap<String, String>;

/// What came of using each flow: the address that the target saw, or what went wrong at first.
fn report(flows: &mut [(&'static str, Flow)]) -> Report {
    let flows = flows.iter_mut();
    flows
        .map(|(label, flow)| ((*label).to_owned(), flow.report()))
        .collect()
}

#[derive(Debug)]
enum Flow {
    /// With the address that the target saw, where it said so.
    Tcp(TcpStream, String),
    /// Unconnected, with its target; or connected.
    Udp(UdpSocket, Option<SocketAddr>),
    /// Both ends.
    Loopback(TcpStream, TcpStream),
    /// With what went wrong at first.
    Failed(String),
}

impl Flow {
    fn new(made: io::Result<Self>) -> Self {
        made.unwrap_or_else(|error| Flow::Failed(format!("{:?}", error.kind())))
    }

    fn tcp(target: SocketAddr) -> Self {
        Self::new(connect(target).map(|(flow, peer)| Flow::Tcp(flow, peer)))
    }

    fn udp(target: SocketAddr, is_connected: bool) -> Self {
        let open = || {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.set_read_timeout(Some(LIMIT))?;
            if is_connected {
                socket.connect(target)?;
            }
            Ok(Flow::Udp(socket, (!is_connected).then_some(target)))
        };
        Self::new(open())
    }

    fn loopback() -> Self {
        let open = || {
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            let one = TcpStream::connect(listener.local_addr()?)?;
            Ok(Flow::Loopback(one, listener.accept()?.0))
        };
        Self::new(open())
    }

    fn report(&mut self) -> String {
        match self.try_use() {
            Ok(peer) => peer,
            Err(error) => {
                let failure = format!("{:?}", error.kind());
                *self = Flow::Failed(failure.clone());
                failure
            }
        }
    }

    fn try_use(&mut self) -> io::Result<String> {
        match self {
            Flow::Tcp(flow, peer) => {
                flow.write_all(b"?")?;
                flow.read_exact(&mut [0])?;
                Ok(peer.clone())
            }
            Flow::Udp(socket, target) => {
                match target {
                    Some(target) => socket.send_to(b"?", *target)?,
                    None => socket.send(b"?")?,
                };
                let mut answer = [0; 100];
                let count = socket.recv(&mut answer)?;
                Ok(peer_in(&String::from_utf8_lossy(&answer[..count])))
            }
            Flow::Loopback(one, other) => {
                one.write_all(b"?")?;
                other.read_exact(&mut [0])?;
                Ok("works".to_owned())
            }
            Flow::Failed(failure) => Ok(failure.clone()),
        }
    }
}

/// Opens a flow to a banner, and reads what it says.
fn connect(target: SocketAddr) -> io::Result<(TcpStream, String)> {
    let mut flow = TcpStream::connect_timeout(&target, LIMIT)?;
    flow.set_read_timeout(Some(LIMIT))?;
    let (mut banner, mut byte) = (Vec::new(), [0]);
    while byte != *b"\n" {
        flow.read_exact(&mut byte)?;
        banner.extend(byte);
    }
    Ok((flow, peer_in(&String::from_utf8_lossy(&banner))))
}

/// The address of `ADDRESS:PORT …`.
fn peer_in(text: &str) -> String {
    let first = text.split_whitespace().next().unwrap_or_default();
    match first.parse::<SocketAddr>() {
        Ok(peer) => peer.ip().to_string(),
        Err(_) => text.to_owned(),
    }
}

/// All flows: of this process, of a thread with descriptors of its own, and of a child.
struct Everything {
    own: Vec<(&'static str, Flow)>,
    thread: Thread,
    child: Descendant,
}

impl Everything {
    fn open(targets: Targets) -> anyhow::Result<Self> {
        let duplicated = match Flow::tcp(targets.four) {
            Flow::Tcp(flow, peer) => Flow::Tcp(flow.try_clone()?, peer),
            other => other,
        };
        Ok(Self {
            own: vec![
                ("tcp4", Flow::tcp(targets.four)),
                ("tcp6", Flow::tcp(targets.six)),
                ("duplicated", duplicated),
                ("udp", Flow::udp(targets.udp, false)),
                ("udp connected", Flow::udp(targets.udp, true)),
                ("loopback", Flow::loopback()),
            ],
            thread: Thread::start(targets),
            child: Descendant::start(targets)?,
        })
    }

    fn report(&mut self) -> anyhow::Result<Report> {
        let mut all = report(&mut self.own);
        self.thread.asks.send(())?;
        all.extend(self.thread.answers.recv()?);
        writeln!(self.child.input, "use")?;
        let mut line = String::new();
        self.child.output.read_line(&mut line)?;
        all.extend(serde_json::from_str::<Report>(&line).context("the child is gone")?);
        Ok(all)
    }
}

struct Thread {
    asks: SyncSender<()>,
    answers: Receiver<Report>,
}

impl Thread {
    fn start(targets: Targets) -> Self {
        let ((asks, asked), (tell, answers)) = (sync_channel(1), sync_channel(1));
        std::thread::spawn(move || {
            let own = unshare(CloneFlags::CLONE_FILES).map_err(io::Error::from);
            let flow = match own {
                Ok(()) => Flow::tcp(targets.four),
                Err(error) => Flow::new(Err(error)),
            };
            let mut flows = [("thread", flow)];
            while asked.recv().is_ok() && tell.send(report(&mut flows)).is_ok() {}
        });
        Self { asks, answers }
    }
}

struct Descendant {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Descendant {
    fn start(targets: Targets) -> anyhow::Result<Self> {
        // Without a flow to inherit the child says so.
        let inherited = match connect(targets.four) {
            Ok((flow, _)) => Stdio::from(OwnedFd::from(flow)),
            Err(_) => Stdio::null(),
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("hold-child");
        for target in [targets.four, targets.six, targets.udp] {
            command.arg(target.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(inherited).spawn()?;
        Ok(Self {
            input: child.stdin.take().context("piped")?,
            output: BufReader::new(child.stdout.take().context("piped")?),
            child,
        })
    }
}

impl Drop for Descendant {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
