//! Runs of many ways at the same time.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use offramp_tests::{Running, binary};

const LIMIT: Duration = Duration::from_secs(30);

/// One way out, as the probe lists it.
#[derive(Debug)]
pub(crate) struct Way {
    /// Of its targets.
    pub(crate) number: u8,
    pub(crate) name: String,
    /// `root`, `user` or `managed`: who tries.
    pub(crate) who: String,
    /// The line of the table that it belongs to.
    pub(crate) row: String,
    /// Whether it has something from before its program was managed.
    pub(crate) is_held: bool,
    /// Whether a flow was open, directly, before its program was managed.
    pub(crate) is_old: bool,
}

/// All ways, in the order of the table.
pub(crate) fn list() -> Vec<Way> {
    let mut command = Command::new(binary("offramp-probe"));
    command.args(["ways", "list"]);
    let said = Running::start(command).finish(LIMIT).success();
    let parse = |line: &str| {
        let [number, name, who, held, row] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("five words: {line}")
        };
        Way {
            number: number.parse().expect("a number"),
            name: name.to_owned(),
            who: who.to_owned(),
            row: row.to_owned(),
            is_held: held == "held",
            is_old: name.ends_with("-connected") && !name.starts_with("udp"),
        }
    };
    said.lines().map(parse).collect()
}

/// What a program said of one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The target, or who spoke for it, saw this address.
    Seen(IpAddr),
    /// It went well, and there is nobody to answer.
    Sent,
    /// No answer.
    Silence,
    /// The error of the kernel.
    Refused(String),
}

pub(crate) type Outcomes = BTreeMap<String, Outcome>;

/// When the programs are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Before all are told to try.
    AtWork,
    /// After that: they try in their first moments.
    AtStart,
}

/// Ways that wait for the word.
pub(crate) struct Batch {
    running: Running,
    input: ChildStdin,
    names: Vec<String>,
}

impl Batch {
    /// Starts `ways` by `command`, which is the probe; `line` is what makes a program of them.
    pub(crate) fn start(mut command: Command, mode: Mode, line: &[String], ways: &[&Way]) -> Self {
        let names: Vec<_> = ways.iter().map(|way| way.name.clone()).collect();
        command.arg("ways").arg(match mode {
            Mode::AtWork => "at-work",
            Mode::AtStart => "at-start",
        });
        command.args(line).env("ONLY", names.join(","));
        let mut running = Running::start({
            command.stdin(Stdio::piped());
            command
        });
        let input = running.input();
        let waiting = |said: &str| {
            let is_ready =
                |name: &&String| !said.lines().any(|line| line == format!("{name} ready"));
            names.iter().filter(is_ready).cloned().collect::<Vec<_>>()
        };
        let end = Instant::now() + LIMIT;
        while !waiting(&running.said()).is_empty() {
            if Instant::now() > end || !running.is_running() {
                let waiting = waiting(&running.said());
                drop(input);
                panic!("not ready: {waiting:?}: {}", running.finish(LIMIT));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            running,
            input,
            names,
        }
    }

    /// Lets them try.
    pub(crate) fn go(self) -> Outcomes {
        go_all(vec![self]).pop().expect("one for each")
    }
}

/// Lets the ways of all batches try at the same time.
pub(crate) fn go_all(mut batches: Vec<Batch>) -> Vec<Outcomes> {
    for batch in &mut batches {
        batch.input.write_all(b"go\n").expect("the probe waits");
    }
    batches.into_iter().map(finish).collect()
}

fn finish(batch: Batch) -> Outcomes {
    let finished = batch.running.finish(LIMIT);
    let text = format!("{finished}");
    let said = finished.success();
    let mut outcomes = Outcomes::new();
    for name in batch.names {
        let mut lines = said.lines().filter_map(|line| line.strip_prefix(&*name));
        let last = lines.rfind(|rest| rest.starts_with(' ') && *rest != " ready");
        let last = last.unwrap_or_else(|| panic!("nothing of {name}: {text}"));
        let outcome = match last.trim().split_once(' ') {
            Some(("seen", peer)) => Outcome::Seen(peer.parse().expect("an address")),
            Some(("refused", why)) => Outcome::Refused(why.to_owned()),
            Some(("failed", how)) if how.contains("SIGALRM") => Outcome::Silence,
            None if last == " sent" => Outcome::Sent,
            None if last == " silence" => Outcome::Silence,
            _ => panic!("{name}{last}: {text}"),
        };
        outcomes.insert(name, outcome);
    }
    outcomes
}
