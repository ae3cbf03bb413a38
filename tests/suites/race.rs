//! Programs that are on the wire in their first instructions: no start is ever too early for a rule.

#[path = "race/kinds.rs"]
mod kinds;

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use offramp_tests::addresses::target;
use offramp_tests::{
    Daemon, Gateway, Lab, PROFILE, Running, Transport, binary, build_first, port, wait_until,
};
use serde_json::{Value, json};

use kinds::{KINDS, Kind, NEIGHBOURS, VARIANTS, WILD};

const LIMIT: Duration = Duration::from_secs(300);
/// Connections of each kind, and as many of unmanaged programs in all.
const STARTS: usize = 10_000;
/// Datagrams of each kind, and as many of unmanaged programs in all.
const DATAGRAMS: usize = 1_000;
/// How often an app starts around a restart of the daemon.
const ROUNDS: usize = 12;
/// What managed programs reach, and nobody else.
const MANAGED: u8 = 1;
/// What unmanaged programs reach.
const UNMANAGED: u8 = 2;

type Ends = BTreeMap<String, usize>;

struct Race<'lab> {
    lab: &'lab Lab,
    daemon: Daemon<'lab>,
    directory: PathBuf,
}

impl<'lab> Race<'lab> {
    fn start(lab: &'lab Lab, transport: Transport, rules: &[&str]) -> Self {
        let directory = lab.directory().join("race");
        std::fs::create_dir_all(directory.join("elsewhere")).expect("the lab's directory is ours");
        let build = |name: &str, number: u8| {
            let to = match transport {
                Transport::Udp => port::ECHO,
                _ => port::BANNER,
            };
            let to = SocketAddrV4::new(target(number), to);
            build_first(&directory.join(name), transport, to);
        };
        for kind in NEIGHBOURS {
            build(kind.program, UNMANAGED);
        }
        for kind in KINDS.iter().chain(&VARIANTS).chain(&WILD) {
            match kind.program {
                "link" => {
                    build("behind", MANAGED);
                    symlink("behind", directory.join("link")).expect("the directory is ours");
                }
                name => build(name, MANAGED),
            }
        }
        std::fs::copy(binary("offramp-probe"), directory.join("parent"))
            .expect("the directory is ours");
        let daemon = Daemon::start_with(lab, &[profile(&directory, rules)]);
        Self {
            lab,
            daemon,
            directory,
        }
    }

    fn spawn(&self, kind: &Kind, count: usize) -> Running {
        let starter = match kind.starter {
            Some(name) => self.directory.join(name),
            None => binary("offramp-probe"),
        };
        let program = self.directory.join(kind.program);
        self.lab.client().spawn(&[
            &starter.display().to_string(),
            "starts",
            kind.way,
            &count.to_string(),
            &program.display().to_string(),
        ])
    }

    /// Starts each of `kinds` `count` times and as many neighbours beside all of them, lets
    /// `meanwhile` happen again and again, and checks the ends: of managed ones, then of unmanaged
    /// ones.
    fn run(
        &mut self,
        kinds: &[Kind],
        count: usize,
        mut meanwhile: impl FnMut(&mut Daemon<'lab>),
        check: impl Fn(&str, &Ends),
        check_neighbour: impl Fn(&str, &Ends),
    ) {
        let wire = self.lab.capture_only(&format!("host {}", target(MANAGED)));
        let beside = count / kinds.len();
        for (number, kind) in kinds.iter().enumerate() {
            let neighbour = &NEIGHBOURS[number % NEIGHBOURS.len()];
            let mut managed = self.spawn(kind, count);
            let mut unmanaged = self.spawn(neighbour, beside);
            while managed.is_running() || unmanaged.is_running() {
                meanwhile(&mut self.daemon);
            }
            check(kind.label, &ends(managed, count));
            check_neighbour(neighbour.label, &ends(unmanaged, beside));
        }
        wire.packets().assert_none_with(target(MANAGED));
    }
}

fn profile(directory: &Path, rules: &[&str]) -> Value {
    let mut profile = Daemon::profile();
    let rules: Vec<_> = rules
        .iter()
        .map(|rule| {
            let identity = rule.replace("$dir", &directory.display().to_string());
            json!({ "SigningIdentifier": identity })
        })
        .collect();
    profile["Payload"]["AppRules"] = rules.into();
    profile
}

const RULES: [&str; 5] = [
    "exe:$dir/known",
    "exe:named",
    "exe:$dir/upgraded",
    "exe:$dir/link",
    "exe:$dir/parent",
];

fn ends(running: Running, count: usize) -> Ends {
    let said = running.finish(LIMIT).success();
    let ends: Ends = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(ends.values().sum::<usize>(), count, "{ends:?}");
    ends
}

/// Each start ended the same way.
#[track_caller]
fn all(label: &str, ends: &Ends, end: &str) {
    assert!(
        ends.keys().eq([end]),
        "{label}: not all of them {end}: {ends:?}"
    );
}

/// Waits a moment where nothing else is to be done.
fn wait(_: &mut Daemon<'_>) {
    std::thread::sleep(Duration::from_millis(20));
}

fn calm(transport: Transport, kinds: &[Kind], rules: &[&str], count: usize) {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut race = Race::start(&lab, transport, rules);
    race.run(
        kinds,
        count,
        wait,
        |label, ends| all(label, ends, "gateway"),
        |label, ends| all(label, ends, "direct"),
    );
}

/// Kills the daemon and starts it again, as long as programs start: managed ones are relayed or
/// refused.
fn stormy(transport: Transport, kinds: &[Kind], count: usize) {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut race = Race::start(&lab, transport, &RULES);
    let mut restarts = 0;
    race.run(
        kinds,
        count,
        |daemon| {
            daemon.process().signal(Signal::SIGKILL);
            wait_until("the daemon is gone", LIMIT, || {
                !daemon.process().is_running()
            });
            daemon.start_again();
            restarts += 1;
            // Some more starts come through before the next time.
            let before = lab.servers().seen().len();
            for _ in 0..100 {
                if lab.servers().seen().len() > before + 200 {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        },
        assert_never_direct,
        assert_undisturbed,
    );
    assert!(restarts > kinds.len(), "only {restarts} restarts");
    race.run(
        kinds,
        kinds.len() * NEIGHBOURS.len(),
        wait,
        |label, ends| all(label, ends, "gateway"),
        |label, ends| all(label, ends, "direct"),
    );
}

#[track_caller]
fn assert_never_direct(label: &str, ends: &Ends) {
    let fine = |end: &str| end == "gateway" || end == "silent" || end.starts_with("error ");
    assert!(ends.keys().all(|end| fine(end)), "{label}: {ends:?}");
}

/// What looks like an app is no app, but may fail while there is nobody to tell.
#[track_caller]
fn assert_undisturbed(label: &str, ends: &Ends) {
    match label {
        "the same name elsewhere" => assert!(!ends.contains_key("gateway"), "{label}: {ends:?}"),
        _ => all(label, ends, "direct"),
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn tcp() {
    calm(Transport::Tcp, &KINDS, &RULES, STARTS);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn udp() {
    calm(Transport::Udp, &KINDS, &RULES, DATAGRAMS);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn links_and_new_children() {
    calm(Transport::Tcp, &VARIANTS, &RULES, STARTS / 5);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn patterns() {
    calm(Transport::Tcp, &WILD, &["exe:wild-*"], STARTS / 5);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn tcp_while_the_daemon_restarts() {
    stormy(Transport::Tcp, &KINDS, STARTS);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn udp_while_the_daemon_restarts() {
    stormy(Transport::Udp, &KINDS, DATAGRAMS);
}

/// An app starts, and starts others, just when the daemon dies and comes back.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn children_while_the_daemon_comes_back() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut race = Race::start(&lab, Transport::Udp, &RULES);
    let wire = lab.capture_only(&format!("host {}", target(MANAGED)));
    let child = KINDS.iter().chain(&VARIANTS);
    let children: Vec<_> = child.filter(|kind| kind.starter.is_some()).collect();
    for round in 0..ROUNDS {
        let kind = children[round % children.len()];
        let early = (round % 3 == 0).then(|| race.spawn(kind, DATAGRAMS / 2));
        race.daemon.process().signal(Signal::SIGKILL);
        wait_until("the daemon is gone", LIMIT, || {
            !race.daemon.process().is_running()
        });
        let late = race.spawn(kind, DATAGRAMS / 2);
        race.daemon.start_again();
        let last = race.spawn(kind, DATAGRAMS / 2);
        for running in early.into_iter().chain([late, last]) {
            assert_never_direct(kind.label, &ends(running, DATAGRAMS / 2));
        }
    }
    wire.packets().assert_none_with(target(MANAGED));
}

/// The same for what `offramp run` starts.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn under_a_wrapper() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let race = Race::start(&lab, Transport::Tcp, &[]);
    let wire = lab.capture_only(&format!("host {}", target(MANAGED)));
    let program = race.directory.join("newborn").display().to_string();
    let probe = binary("offramp-probe").display().to_string();
    let starts = STARTS / 5;
    let count = starts.to_string();
    let managed = race
        .daemon
        .spawn(&[&probe, "starts", "fresh", &count, &program]);
    let unmanaged = race.spawn(&NEIGHBOURS[0], starts);
    all(PROFILE, &ends(managed, starts), "gateway");
    all(NEIGHBOURS[0].label, &ends(unmanaged, starts), "direct");
    wire.packets().assert_none_with(target(MANAGED));
}
