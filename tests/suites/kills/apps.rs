//! Apps that act at a word of the test.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::process::{ChildStdin, Command, Stdio};

use offramp_tests::addresses::{CLIENT, PROXY, target};
use offramp_tests::{Lab, Running, wait_until};

use crate::world::{LET_GO, LIMIT};

/// A program that becomes others at a word, and opens flows at the next.
pub(crate) struct Succession {
    running: Running,
    input: ChildStdin,
}

impl Succession {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped());
        let mut running = Running::start(command);
        wait_until("the shell reads", LIMIT, || {
            running.said().contains("reads")
        });
        let input = running.input();
        Self { running, input }
    }

    /// Returns when it is the last of its programs.
    pub(crate) fn go_on(&mut self) {
        self.input.write_all(b"go\n").expect("the shell waits");
        wait_until("the last program runs", LIMIT, || {
            let line = std::fs::read(format!("/proc/{}/cmdline", self.running.id()));
            let line = line.unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(b"hold")
        });
    }

    /// Has it open flows; returns whom a server sees.
    pub(crate) fn open(&mut self) -> String {
        self.input.write_all(b"open\n").expect("the program waits");
        wait_until("it has tried", LIMIT, || {
            assert!(self.running.is_running(), "{}", self.running.complained());
            self.running.said().contains('}')
        });
        let said = self.running.said();
        let report = said
            .lines()
            .find(|line| line.contains('}'))
            .unwrap_or_default();
        let report: BTreeMap<String, String> =
            serde_json::from_str(report).unwrap_or_else(|error| panic!("{error}: {said}"));
        report["tcp4"].clone()
    }
}

/// How far an app comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Gateway,
    Nowhere,
    Direct,
    /// Not the same for all that it tries.
    Mixed,
}

/// A shell that tries TCP and UDP for each line that it reads.
pub(crate) struct App {
    shell: Running,
    input: ChildStdin,
}

impl App {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped());
        let mut shell = Running::start(command);
        let input = shell.input();
        Self { shell, input }
    }

    /// Lets it try TCP and UDP once.
    pub(crate) fn ask(&mut self, lab: &Lab) -> Reach {
        let said = |shell: &Running| shell.said().matches("done\n").count();
        let before = said(&self.shell);
        lab.servers().forget();
        self.input.write_all(b"?\n").expect("the shell waits");
        wait_until("the app has tried", LIMIT, || {
            assert!(self.shell.is_running(), "the app is gone");
            said(&self.shell) > before
        });
        let seen = lab.servers().seen();
        let of = |peer: IpAddr| {
            let mut ports: Vec<_> = seen
                .iter()
                .filter(|seen| seen.peer.ip() == peer && seen.target.ip() == target(LET_GO))
                .map(|seen| seen.target.port())
                .collect();
            ports.sort_unstable();
            ports.dedup();
            ports.len()
        };
        match (of(CLIENT.into()), of(PROXY.into())) {
            (0, 0) => Reach::Nowhere,
            (0, 2) => Reach::Gateway,
            (2, 0) => Reach::Direct,
            _ => Reach::Mixed,
        }
    }
}
