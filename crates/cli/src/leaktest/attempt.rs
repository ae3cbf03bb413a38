//! What the process under the profile does: tries all doors at once, and tells what came of each.

mod bus;
mod lookup;
mod sockets;

use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::doors::{self, DOORS, Door, Kind, Plan};
use crate::arguments::LeaktestDoors;
use crate::failure::{FAILED, Failure, USAGE};

/// What a door has.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// What all have together, with the time that their threads take to begin.
const ALL: Duration = Duration::from_secs(5);

/// What came of one door.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Attempt {
    /// Which of [`DOORS`].
    pub(super) door: usize,
    pub(super) trace: Trace,
    pub(super) outcome: Outcome,
    /// How long it took, in milliseconds.
    pub(super) took: u64,
}

/// What a socket can say of where it went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trace {
    pub(super) local: Option<SocketAddr>,
    pub(super) target: Option<SocketAddr>,
    /// `SO_MARK`: that of its class where it is captured.
    pub(super) mark: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Outcome {
    /// The machine cannot try this.
    Skipped(String),
    /// An error, by number.
    Refused(i32),
    /// There was no answer, nor an error.
    Silent,
    /// TCP is connected.
    Connected,
    /// Something came back.
    Answered(String),
    /// A name was answered with this.
    Resolved(std::net::IpAddr),
    /// Something could be opened that leads out by itself.
    Opened,
}

/// A failure of a door's own, or what came of it.
pub(super) type Tried = (Trace, Outcome);

/// Tries all doors, or one that asks for a process of its own; prints one line for each.
pub(crate) fn run(arguments: &LeaktestDoors) -> Result<(), Failure> {
    let plan: Plan = serde_json::from_str(&arguments.plan)
        .map_err(|error| Failure::new(USAGE, format!("no plan: {error}")))?;
    if let Some(number) = arguments.only {
        return alone(number, &plan);
    }
    let (sender, results) = mpsc::sync_channel(DOORS.len());
    let mut left = 0;
    for (number, door) in DOORS.iter().enumerate() {
        if door.needs_target() && plan.target.is_none() {
            continue;
        }
        let (sender, plan) = (sender.clone(), plan.clone());
        left += 1;
        // It outlives its door where that does not end in time, and ends with the process.
        thread::spawn(move || {
            // Nobody listens any more where it came too late.
            let _ = sender.send(timed(number, || perform(number, door, &plan)));
        });
    }
    drop(sender);
    let end = Instant::now() + ALL;
    while left > 0 {
        match results.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(attempt) => tell(&attempt)?,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
        left -= 1;
    }
    println_end()?;
    // Lives on for as long as somebody may ask the daemon about this process.
    let _ = io::stdin().lock().read_line(&mut String::new());
    Ok(())
}

fn timed(door: usize, work: impl FnOnce() -> Tried) -> Attempt {
    let start = Instant::now();
    let (trace, outcome) = work();
    Attempt {
        door,
        trace,
        outcome,
        took: start.elapsed().as_millis() as u64,
    }
}

fn tell(attempt: &Attempt) -> Result<(), Failure> {
    crate::output::print_line(attempt)
}

/// An empty line: that was all.
fn println_end() -> Result<(), Failure> {
    crate::output::print("\n")
}

fn perform(number: usize, door: &Door, plan: &Plan) -> Tried {
    let target = door.kind.target(number, plan);
    let tried = match (door.kind, target) {
        (Kind::Lookup(resolver), Some(target)) => lookup::ask(number, resolver, target, plan),
        (Kind::Lookup(_), None) => Ok(skipped("no resolver is configured")),
        (Kind::Libc, _) => Ok(lookup::libc(number, plan)),
        (Kind::Service(path), _) => lookup::service(path),
        (Kind::Bus, _) => bus::ask(&doors::name(number, plan)),
        (Kind::Child | Kind::Namespace, _) => apart(number, plan),
        (Kind::TargetTcp | Kind::TargetUdp | Kind::TargetQuic, _) => {
            sockets::given(door.kind, plan)
        }
        (kind, Some(target)) => sockets::attempt(kind, target, plan),
        (_, None) => Ok(skipped("it leads nowhere")),
    };
    tried.unwrap_or_else(|error| (Trace::default(), refused(&error)))
}

pub(super) fn skipped(why: &str) -> Tried {
    (Trace::default(), Outcome::Skipped(why.to_owned()))
}

/// What an error of a call means for its door.
pub(super) fn refused(error: &io::Error) -> Outcome {
    if matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    ) && error.raw_os_error() != Some(nix::libc::ETIMEDOUT)
    {
        return Outcome::Silent;
    }
    match error.raw_os_error() {
        Some(number) => Outcome::Refused(number),
        None => Outcome::Silent,
    }
}

/// Has a process of its own try the door, and takes its word.
fn apart(number: usize, plan: &Plan) -> io::Result<Tried> {
    let plan = serde_json::to_string(plan).map_err(io::Error::other)?;
    let said = Command::new(std::env::current_exe()?)
        .args(["leaktest-doors", "--only", &number.to_string(), &plan])
        .output()?;
    let attempt: Attempt = serde_json::from_slice(&said.stdout).map_err(io::Error::other)?;
    Ok((attempt.trace, attempt.outcome))
}

/// One thread has to be all there is where a user namespace is made.
fn alone(number: usize, plan: &Plan) -> Result<(), Failure> {
    let door = DOORS
        .get(number)
        .ok_or_else(|| Failure::new(FAILED, "there is no such door"))?;
    let target = door.kind.target(number, plan);
    let target = target.ok_or_else(|| Failure::new(FAILED, "it leads nowhere"))?;
    tell(&timed(number, || {
        let tried = match door.kind {
            Kind::Namespace => unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .and_then(|()| sockets::attempt(door.kind, target, plan)),
            kind => sockets::attempt(kind, target, plan),
        };
        tried.unwrap_or_else(|error| (Trace::default(), refused(&error)))
    }))?;
    io::stdout()
        .flush()
        .map_err(|error| Failure::new(FAILED, error.to_string()))
}
