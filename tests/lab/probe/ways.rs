//! Every way out that a program may try, each by a name, and each in a process of its own.
//!
//! `ways list` tells all of them. `ways at-start|at-work COMMAND…` starts each: what a way needs from
//! before its program is managed is made first, then `COMMAND… way NAME NUMBER` is executed. All of
//! them try at the same time, at a line of input; those of `at-start` have not been executed before
//! that. Each says in one line what came of it.

mod before;
mod dns;
mod packets;
mod process;
mod raw;
mod ring;
mod table;
mod tcp;
mod udp;

use std::io::{self, BufRead, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use offramp_tests::addresses::{target, target6};
use offramp_tests::port;

use table::WAYS;

/// Numbers of targets begin here, so that they are nobody else's.
const FIRST: u8 = 100;
const NOBODY: u32 = 65534;

/// The addresses that one way alone tries.
#[derive(Debug, Clone, Copy)]
struct Target(u8);

impl Target {
    fn tcp4(self) -> SocketAddr {
        (target(self.0), port::BANNER).into()
    }

    fn tcp6(self) -> SocketAddr {
        (target6(self.0.into()), port::BANNER).into()
    }

    fn udp4(self) -> SocketAddr {
        (target(self.0), port::ECHO).into()
    }

    fn udp6(self) -> SocketAddr {
        (target6(self.0.into()), port::ECHO).into()
    }

    /// A port that tells the way where the address cannot.
    fn port(self) -> u16 {
        20_000 + u16::from(self.0)
    }
}

/// What came of a way that did not fail.
#[derive(Debug)]
enum Said {
    /// The target saw this address.
    Seen(IpAddr),
    /// Nothing answers on this way.
    Sent,
    /// Somebody else tells it.
    Elsewhere,
}

type Made = io::Result<Vec<OwnedFd>>;
type Outcome = io::Result<Said>;

/// One way out.
struct Way {
    /// What it is one of.
    row: &'static str,
    name: &'static str,
    /// What is made before the program is managed.
    before: Option<fn(Target) -> Made>,
    /// The attempt.
    after: fn(Target, Vec<OwnedFd>) -> Outcome,
    who: Who,
}

/// Who tries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Root,
    /// A user without rights.
    User,
    /// Root, and only where there is a daemon.
    Managed,
}

pub(crate) fn ways(arguments: &[String]) -> anyhow::Result<()> {
    let Some((mode, command)) = arguments.split_first() else {
        bail!("list, at-start or at-work")
    };
    if mode == "list" {
        for (way, number) in WAYS.iter().zip(FIRST..) {
            let who = match way.who {
                Who::Root => "root",
                Who::User => "user",
                Who::Managed => "managed",
            };
            let held = if way.before.is_some() { "held" } else { "" };
            println!("{number}\t{}\t{who}\t{held}\t{}", way.name, way.row);
        }
        return Ok(());
    }
    let (wait, go) = nix::unistd::pipe()?;
    keep_over_exec(&wait)?;
    // The other end is nobody's but ours: when it is closed, all see the end.
    fcntl(&go, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // Every process of a way has an end of this one: the last of them has ended when it is closed.
    let (end, theirs) = nix::unistd::pipe()?;
    fcntl(&end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let mut children = Vec::new();
    for way in chosen() {
        children.push((way.name, launch(way, mode, &wait, command)?));
    }
    drop(theirs);
    io::stdin().lock().lines().next().context("no go")??;
    drop(go);
    for (name, mut child) in children {
        let status = child.wait()?;
        if !status.success() {
            println!("{name} failed {status}");
        }
    }
    std::fs::File::from(end).read_to_end(&mut Vec::new())?;
    println!("end");
    Ok(())
}

/// The ways that `WAYS` of the environment names, or all.
fn chosen() -> impl Iterator<Item = &'static Way> {
    let only = std::env::var("ONLY").unwrap_or_default();
    WAYS.iter()
        .filter(move |way| only.is_empty() || only.split(',').any(|name| name == way.name))
}

fn launch(way: &Way, mode: &str, wait: &OwnedFd, line: &[String]) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["way-launch", way.name, mode]).args(line);
    command.env("GO", wait.as_raw_fd().to_string());
    command.stdin(Stdio::null()).spawn()
}

fn find(name: &str) -> anyhow::Result<(&'static Way, Target)> {
    let mut all = WAYS.iter().zip(FIRST..);
    let found = all.find(|(way, _)| way.name == name);
    let (way, number) = found.with_context(|| format!("no way {name}"))?;
    Ok((way, Target(number)))
}

/// Makes what the way has from before, and becomes the program that tries it.
pub(crate) fn launch_one(arguments: &[String]) -> anyhow::Result<()> {
    let [name, mode, program, line @ ..] = arguments else {
        bail!("NAME MODE COMMAND…")
    };
    let (way, target) = find(name)?;
    let held = match way.before {
        Some(before) => before(target).with_context(|| format!("{name}: before"))?,
        None => Vec::new(),
    };
    let mut numbers = Vec::new();
    for one in held {
        keep_over_exec(&one)?;
        numbers.push(std::os::fd::IntoRawFd::into_raw_fd(one).to_string());
    }
    if mode == "at-start" {
        ready(name)?;
    }
    if way.who == Who::User {
        setgroups(&[])?;
        let (group, user) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
        setresgid(group, group, group)?;
        setresuid(user, user, user)?;
    }
    let mut command = Command::new(program);
    command.args(line).args(["way", name, mode]);
    command.env("HELD", numbers.join(","));
    Err(command.exec().into())
}

/// Tries one way and says what came of it.
pub(crate) fn way(arguments: &[String]) -> anyhow::Result<()> {
    let [name, mode] = arguments else {
        bail!("NAME MODE")
    };
    let (way, target) = find(name)?;
    let held = std::env::var("HELD").unwrap_or_default();
    let numbers = held.split(',').filter_map(|number| number.parse().ok());
    let held = numbers.map(raw::inherited).collect();
    if mode == "at-work" {
        ready(name)?;
    }
    // What blocks for ever ends all the same.
    nix::unistd::alarm::set(3 * limit().as_secs() as u32 + 5);
    let mut outcome = (way.after)(target, held);
    // A datagram may get lost on a busy machine; what is shut stays so.
    for _ in 0..2 {
        if way.before.is_none() && outcome.as_ref().is_err_and(is_silence) {
            outcome = (way.after)(target, Vec::new());
        }
    }
    tell(name, outcome);
    Ok(())
}

/// Tries a flow for another way.
pub(crate) fn say_as(arguments: &[String]) -> anyhow::Result<()> {
    let number = arguments.first().context("NUMBER")?.parse()?;
    process::say_as(number);
    Ok(())
}

/// Has what it has inherited, until nobody needs that.
pub(crate) fn hold() -> anyhow::Result<()> {
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Has a socket of its own, until nobody needs that.
pub(crate) fn open_and_tell(arguments: &[String]) -> anyhow::Result<()> {
    before::open_and_tell(crate::address(arguments.first().context("TARGET")?)?)
}

/// Says what came of a way.
fn tell(name: &str, outcome: Outcome) {
    match outcome {
        Ok(Said::Seen(peer)) => println!("{name} seen {peer}"),
        Ok(Said::Sent) => println!("{name} sent"),
        Ok(Said::Elsewhere) => {}
        Err(error) if is_silence(&error) => println!("{name} silence"),
        Err(error) => match error.raw_os_error() {
            Some(number) => println!("{name} refused {}", nix::errno::Errno::from_raw(number)),
            None => println!("{name} refused {:?} {error}", error.kind()),
        },
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    ) || error.raw_os_error() == Some(libc::EINPROGRESS)
}

/// Says that this way is ready, and waits until all are.
fn ready(name: &str) -> anyhow::Result<()> {
    println!("{name} ready");
    let number: RawFd = std::env::var("GO")?.parse()?;
    let mut wait = std::fs::File::from(raw::inherited(number));
    wait.read_to_end(&mut Vec::new())?;
    Ok(())
}

fn keep_over_exec(descriptor: &OwnedFd) -> io::Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// How long an answer is waited for.
fn limit() -> Duration {
    let seconds = std::env::var("LIMIT")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(6))
}
