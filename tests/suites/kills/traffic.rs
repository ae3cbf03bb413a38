//! Programs that exchange something with servers all the time, and what is on the wire meanwhile.

use std::collections::BTreeMap;
use std::process::{ChildStdin, Command, Stdio};

use offramp_tests::addresses::{CLIENT, target};
use offramp_tests::{Capture, Lab, Running, wait_until};

use crate::world::{LIMIT, MANAGED, WILD};

/// Has a program start these, too, over and over.
pub(crate) fn with(mut command: Command, commands: impl IntoIterator<Item = String>) -> Command {
    command.args(commands).stdin(Stdio::piped());
    command
}

/// Programs at work, and what is on the wire meanwhile.
pub(crate) struct Traffic<'lab> {
    wire: Capture<'lab>,
    running: Vec<(&'static str, ChildStdin, Running)>,
}

impl<'lab> Traffic<'lab> {
    pub(crate) fn begin(lab: &'lab Lab, commands: Vec<(&'static str, Command)>) -> Self {
        // Of what is managed, and of what only ever goes between the app and the daemon, nothing
        // is ever on the wire.
        let wire = lab.capture_only(&format!(
            "host {} or host {} or net 198.18.0.0/15 or net 240.0.0.0/4 or ip6 net 2001:2::/48",
            target(MANAGED),
            target(WILD)
        ));
        let running = commands.into_iter().map(|(label, command)| {
            let mut running = Running::start(command);
            // Whoever has to ask the daemon first has done so.
            wait_until("the program is at work", LIMIT, || {
                assert!(
                    running.is_running(),
                    "{label} ended: {}",
                    running.complained()
                );
                let line = std::fs::read(format!("/proc/{}/cmdline", running.id()));
                let line = line.unwrap_or_default();
                line.split(|byte| *byte == 0).nth(1) == Some(b"traffic")
            });
            (label, running.input(), running)
        });
        let running = running.collect();
        Self { wire, running }
    }

    /// Ends the programs and holds what they say, and the wire, to what was promised. Returns the
    /// figures.
    pub(crate) fn end(self, lab: &Lab) -> String {
        let mut figures = Vec::new();
        for (label, input, mut running) in self.running {
            assert!(
                running.is_running(),
                "{label} ended: {}",
                running.complained()
            );
            drop(input);
            let said = running.finish(LIMIT).success();
            let ends: BTreeMap<String, usize> =
                serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
            for (end, count) in &ends {
                assert!(
                    is_promised(label, end),
                    "{label}: {count} times {end}: {ends:?}"
                );
            }
            figures.push(format!("{label}: {ends:?}"));
        }
        self.wire.packets().assert_only(|_| false);
        let queries = lab.names().queries();
        let leaked = |query: &&String| query.contains("managed.") && query.contains("10.90.1.2");
        assert_eq!(queries.iter().find(leaked), None, "a name was on the wire");
        figures.join("; ")
    }
}

/// Whether an exchange may end in this way.
fn is_promised(label: &str, end: &str) -> bool {
    let (direct, started) = (CLIENT.to_string(), end.starts_with("start "));
    let ended = end.rsplit(' ').next().unwrap_or_default();
    match (label, started) {
        ("unmanaged", true) if end.starts_with("start plain ") => ended == "1",
        ("unmanaged", true) if end.starts_with("start offramp ") => ended != direct,
        ("unmanaged", false) => ended == direct,
        // 1: seen directly.
        (_, true) => ended != "1" && ended != "killed",
        _ => ended != direct,
    }
}

/// Prints the number of the network namespace: SO_NETNS_COOKIE of a socket.
const COOKIE: &str =
    "import socket; print(int.from_bytes(socket.socket().getsockopt(1, 71, 8), \"little\"))";

/// What an installation could leave on the machine: devices, rules, routes, pins, mounts, settings,
/// files.
pub(crate) fn left(lab: &Lab) -> String {
    let runtime = lab.directory().display().to_string();
    lab.client().sh(&format!(
        "ip -brief link | cut -d' ' -f1; ip rule; ip -6 rule; ip route show table all proto 198
         ip -6 route show table all proto 198; ip -brief addr show dev lo
         find /sys/fs/bpf -mindepth 1; findmnt -rno TARGET
         ls /run/offramp-$(python3 -c '{COOKIE}').lock 2>/dev/null || true
         find {runtime} -path '*/runtime/*'
         sysctl -a 2>/dev/null | grep -E 'fwmark_reflect|src_valid_mark|rp_filter'"
    ))
}
