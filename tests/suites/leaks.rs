//! Every way out in every state: what managed programs try is captured, refused, or never on the
//! wire, and what others do goes on as if offramp were not there.
//!
//! What is measured is the table of the README; `scripts/leaks` writes it.

#[path = "leaks/batch.rs"]
mod batch;
#[path = "leaks/table.rs"]
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use offramp_tests::addresses::{CLIENT, DNS, GATEWAY, ROUTER, ROUTER6, target, target6};
use offramp_tests::{
    Daemon, Gateway, Lab, PROFILE, Packet, Packets, Running, Transport, User, binary, port,
    wait_until,
};
use serde_json::{Value, json};

use batch::{Batch, Mode, Outcome, Outcomes, Way};
use table::Column;

const LIMIT: Duration = Duration::from_secs(60);
/// What the rule names.
const APP: &str = "leaky";

fn profile(name: &str, rules: &[&str]) -> Value {
    let mut profile = Daemon::profile();
    let rules = rules
        .iter()
        .map(|rule| json!({ "SigningIdentifier": rule }));
    profile["Payload"]["VisibleName"] = name.into();
    profile["Payload"]["AppRules"] = rules.collect();
    profile
}

/// A lab where everything is there that a way may want.
struct Place {
    ways: Vec<Way>,
    _network: Running,
    environment: BTreeMap<&'static str, String>,
    /// Whether an answer need not be waited for long: there is nobody to give one.
    is_shut: bool,
    before: (Outcomes, BTreeSet<String>),
}

impl Place {
    fn new(lab: &Lab) -> Self {
        lab.client()
            .sh("sysctl -qw net.ipv4.ping_group_range='0 2147483647'
             sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        lab.router().sh("ip addr add fe80::1/64 dev client nodad");
        // What waits until a neighbour is found would be on the wire at no time that is known.
        let mac = lab
            .router()
            .sh("ip -brief link show dev client | awk '{ print $3 }'");
        lab.client().sh(&format!(
            "for peer in fe80::1 {ROUTER} {ROUTER6}; do
                 ip neigh replace $peer lladdr {} dev eth0 nud permanent
             done",
            mac.trim()
        ));
        let copy = |name: &str, mode| {
            let path = lab.directory().join(name);
            std::fs::copy(binary("offramp-probe"), &path).expect("the directory is ours");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&path, mode).expect("the file is ours");
            path.display().to_string()
        };
        copy(APP, 0o755);
        let network = lab.router().spawn(&["sleep", "600"]);
        let environment = BTreeMap::from([
            ("PLAIN", binary("offramp-probe").display().to_string()),
            ("SETUID", copy("setuid-probe", 0o4755)),
            ("OTHER_NETWORK", format!("/proc/{}/ns/net", network.id())),
        ]);
        let mut place = Self {
            ways: batch::list(),
            _network: network,
            environment,
            is_shut: false,
            before: Default::default(),
        };
        place.before = place.unmanaged(lab);
        place
    }

    /// The ways that have something from before their programs are managed, or the others.
    fn held(&self, is_held: bool) -> Vec<&Way> {
        self.ways
            .iter()
            .filter(|way| way.is_held == is_held)
            .collect()
    }

    /// Starts the ways, as this command makes them managed or not.
    fn start(&self, lab: &Lab, mode: Mode, line: &[String], ways: &[&Way]) -> Batch {
        let mut command = lab.client().command(binary("offramp-probe"));
        if self.is_shut {
            command.env("LIMIT", "2");
        }
        self.start_by(command, mode, line, ways)
    }

    fn start_by(&self, mut command: Command, mode: Mode, line: &[String], ways: &[&Way]) -> Batch {
        command.envs(&self.environment);
        Batch::start(command, mode, line, ways)
    }

    fn all(&self) -> Vec<&Way> {
        self.ways.iter().collect()
    }

    /// Whether a managed program that tries this is told an error by now.
    fn refuses(&self, lab: &Lab, name: &str) -> bool {
        let one: Vec<_> = self.ways.iter().filter(|way| way.name == name).collect();
        let batch = self.start(lab, Mode::AtWork, &app(lab), &one);
        matches!(batch.go()[name], Outcome::Refused(_))
    }

    /// What programs that nobody manages get, and which of them are on the wire.
    fn unmanaged(&self, lab: &Lab) -> (Outcomes, BTreeSet<String>) {
        let plain = [binary("offramp-probe").display().to_string()];
        let ways: Vec<_> = self
            .ways
            .iter()
            .filter(|way| way.who != "managed")
            .collect();
        let command = lab.client().command(&plain[0]);
        let batch = self.start_by(command, Mode::AtWork, &plain, &ways);
        let capture = lab.capture();
        let said = batch.go();
        let packets = capture.packets();
        let is_out = |way: &&&Way| packets.0.iter().any(|packet| is_of(way, packet));
        let out = ways.iter().filter(is_out).map(|way| way.name.clone());
        (said, out.collect())
    }

    /// Fails unless others fare as they did without offramp.
    #[track_caller]
    fn assert_unmanaged(&self, lab: &Lab) {
        let (said, out) = self.unmanaged(lab);
        for (name, said) in &said {
            assert_eq!(Some(said), self.before.0.get(name), "unmanaged: {name}");
        }
        let other: Vec<_> = out.symmetric_difference(&self.before.1).collect();
        assert!(other.is_empty(), "unmanaged, on the wire or not: {other:?}");
    }
}

/// Whether a packet can only be of this way.
fn is_of(way: &Way, packet: &Packet) -> bool {
    let own = [target(way.number).into(), target6(way.number.into()).into()];
    let number = 20_000 + u16::from(way.number);
    [packet.source, packet.target].iter().any(|end| {
        own.contains(&end.ip())
            || end.port() == number
            || way.name.starts_with("dns-") && *end == (DNS, 53).into()
    })
}

/// What the kernel says when a sweep has ended a flow that was direct when it was made, and what
/// still comes for it.
fn is_end_of_old(way: &Way, packet: &Packet) -> bool {
    let own = [target(way.number).into(), target6(way.number.into()).into()];
    way.is_old && (packet.is_reset || own.contains(&packet.source.ip()))
}

/// Adds what a batch said to a column; fails for what was on the wire.
#[track_caller]
fn add(column: &mut Column, ways: &[Way], said: &[Outcomes], packets: &Packets) {
    let mut of_ways = Vec::new();
    for way in ways {
        let own = packets.0.iter().filter(|packet| is_of(way, packet));
        let leaked: Vec<_> = own.filter(|packet| !is_end_of_old(way, packet)).collect();
        let said: Vec<_> = said.iter().filter_map(|said| said.get(&way.name)).collect();
        assert!(
            leaked.is_empty() && !said.contains(&&Outcome::Seen(CLIENT.into())),
            "{} leaks: {said:?} {leaked:#?}",
            way.name
        );
        column.add(way, &said);
        of_ways.push(way);
    }
    packets.assert_only(|packet| {
        // The kernel tells the link which groups are joined, as it does for IPv6.
        let is_group = packet.transport == Transport::Other(2);
        is_group || packet.is_with(GATEWAY) || of_ways.iter().any(|way| is_of(way, packet))
    });
}

fn app(lab: &Lab) -> Vec<String> {
    vec![lab.directory().join(APP).display().to_string()]
}

fn by_run(daemon: &Daemon<'_>) -> Vec<String> {
    let probe = binary("offramp-probe");
    let line = [
        binary("offramp").as_os_str(),
        "--socket".as_ref(),
        daemon.socket().as_os_str(),
        "run".as_ref(),
        "--profile".as_ref(),
        PROFILE.as_ref(),
        "--".as_ref(),
        probe.as_os_str(),
    ]
    .map(|part| part.to_string_lossy().into_owned());
    line.to_vec()
}

/// A lab with its daemon, and the ways in it.
fn set_up(lab: &Lab) -> (Place, Gateway, Daemon<'_>) {
    let mut place = Place::new(lab);
    let gateway = Gateway::start(lab);
    let daemon = Daemon::start_with(lab, &[profile("rule", &[&format!("exe:{APP}")])]);
    let inner = daemon.directory().join("runtime/netns");
    place
        .environment
        .insert("INNER_NETWORK", inner.display().to_string());
    (place, gateway, daemon)
}

/// The three sorts of managed programs: known already, not started yet, by `offramp run`.
fn start_all(place: &Place, lab: &Lab, daemon: &Daemon<'_>) -> Vec<Batch> {
    let plain = [binary("offramp-probe").display().to_string()];
    let under_run = daemon.command_as(User::Root, &plain[0]);
    // First what waits for the daemon: it has to look at each of the others.
    vec![
        place.start_by(under_run, Mode::AtWork, &plain, &place.held(false)),
        place.start(lab, Mode::AtWork, &app(lab), &place.all()),
        place.start(lab, Mode::AtStart, &app(lab), &place.all()),
    ]
}

/// Lets them all try, and adds what came of it.
#[track_caller]
fn measure(column: &mut Column, place: &Place, lab: &Lab, batches: Vec<Batch>) {
    let capture = lab.capture();
    let said = batch::go_all(batches);
    add(column, &place.ways, &said, &capture.packets());
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn proxy_up() {
    let lab = Lab::new();
    let (place, _gateway, daemon) = set_up(&lab);
    let mut column = Column::new("proxy up");
    let mut batches = vec![place.start(&lab, Mode::AtWork, &by_run(&daemon), &place.held(true))];
    batches.extend(start_all(&place, &lab, &daemon));
    measure(&mut column, &place, &lab, batches);
    place.assert_unmanaged(&lab);
    column.check();
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn proxy_away() {
    let lab = Lab::new();
    let (place, mut gateway, daemon) = set_up(&lab);
    let mut column = Column::new("proxy away");
    let batches = start_all(&place, &lab, &daemon);
    gateway.stop();
    wait_until("the kernel knows", LIMIT, || place.refuses(&lab, "udp4"));
    measure(&mut column, &place, &lab, batches);
    place.assert_unmanaged(&lab);
    column.check();
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn daemon_killed() {
    let lab = Lab::new();
    let (mut place, _gateway, mut daemon) = set_up(&lab);
    place.is_shut = true;
    let mut column = Column::new("daemon killed");
    let batches = start_all(&place, &lab, &daemon);
    daemon.process().signal(Signal::SIGKILL);
    wait_until("it is gone", LIMIT, || !daemon.process().is_running());
    measure(&mut column, &place, &lab, batches);
    place.assert_unmanaged(&lab);
    column.check();
    daemon.start_again();
}

/// Hung, and nobody knows yet; then it is known.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn daemon_hung() {
    let lab = Lab::new();
    let (mut place, _gateway, mut daemon) = set_up(&lab);
    place.is_shut = true;
    let mut column = Column::new("daemon hung");
    let mut early = Column::new("daemon hung");
    let at_once = vec![place.start(&lab, Mode::AtWork, &app(&lab), &place.all())];
    let later = start_all(&place, &lab, &daemon);
    daemon.process().signal(Signal::SIGSTOP);
    measure(&mut early, &place, &lab, at_once);
    wait_until("the heartbeat is stale", LIMIT, || {
        place.refuses(&lab, "tcp4")
    });
    measure(&mut column, &place, &lab, later);
    place.assert_unmanaged(&lab);
    column.check();
    daemon.process().signal(Signal::SIGCONT);
}

/// Kills and starts the daemon, over and over, until `work` is done.
fn in_restarts<T: Send>(daemon: &mut Daemon<'_>, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let working = scope.spawn(work);
        while !working.is_finished() {
            daemon.process().signal(Signal::SIGKILL);
            wait_until("it is gone", LIMIT, || !daemon.process().is_running());
            daemon.start_again();
        }
        let done = working.join();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn restart_loop() {
    let lab = Lab::new();
    let (mut place, _gateway, mut daemon) = set_up(&lab);
    place.is_shut = true;
    let mut column = Column::new("restart loop");
    let batches = start_all(&place, &lab, &daemon);
    let capture = lab.capture();
    let said = in_restarts(&mut daemon, || batch::go_all(batches));
    add(&mut column, &place.ways, &said, &capture.packets());
    in_restarts(&mut daemon, || place.assert_unmanaged(&lab));
    column.check_unsteady();
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn rule_just_applied() {
    let lab = Lab::new();
    let mut place = Place::new(&lab);
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start_with(&lab, &[profile("before", &[])]);
    let inner = daemon.directory().join("runtime/netns");
    place
        .environment
        .insert("INNER_NETWORK", inner.display().to_string());
    let mut column = Column::new("rule just applied");
    let batches = vec![
        place.start(&lab, Mode::AtWork, &app(&lab), &place.all()),
        place.start(&lab, Mode::AtStart, &app(&lab), &place.all()),
    ];
    let canary = Canary::start(&lab);
    let rule = profile("rule", &[&format!("exe:{APP}")]);
    daemon.write("policies/managed/0.json", &rule.to_string());
    canary.wait(&lab);
    measure(&mut column, &place, &lab, batches);
    place.assert_unmanaged(&lab);
    column.check();
}

/// A program with direct flows that a rule is about to name.
struct Canary(Running);

impl Canary {
    fn start(lab: &Lab) -> Self {
        let mut command = lab.client().command(lab.directory().join(APP));
        command.args([
            "hold".to_owned(),
            format!("{}:{}", target(1), port::BANNER),
            format!("[{}]:{}", target6(1), port::BANNER),
            format!("{}:{}", target(1), port::ECHO),
        ]);
        command.stdin(Stdio::piped());
        let mut running = Running::start(command);
        let mut input = running.input();
        std::io::Write::write_all(&mut input, b"open\n").expect("the probe waits for it");
        // Kept open, so that the program stays.
        std::mem::forget(input);
        let canary = Self(running);
        wait_until("the flows are open", LIMIT, || {
            canary.0.said().contains("udp connected") && !Self::flows(lab).is_empty()
        });
        canary
    }

    fn flows(lab: &Lab) -> String {
        let to = target(1);
        lab.client()
            .sh(&format!("ss -Htun state established dst {to}"))
    }

    /// Returns as soon as its flows have been ended: the rule is in force, for all.
    fn wait(&self, lab: &Lab) {
        wait_until("the flows are closed", LIMIT, || {
            Self::flows(lab).is_empty()
        });
    }
}
