//! A machine that moves: addresses, links, routes and networks come and go under running flows.
//!
//! Flows survive or end with an error, new ones work soon after the network is back, the state is
//! told, and at no moment does anything of a managed app leave by any link.

use std::io::Write;
use std::process::{ChildStdin, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use offramp_tests::addresses::{CLIENT, PROXY, PROXY6};
use offramp_tests::{Daemon, Gateway, Lab, Running, User, port, wait_until};

const LIMIT: Duration = Duration::from_secs(40);
/// How soon new flows work once the network is back, on a busy machine.
const SOON: Duration = Duration::from_secs(8);
/// How soon a flow that is lost ends.
const ENDS: Duration = Duration::from_secs(20);

/// Reads commands: `open NAME TARGET` and `use NAME` keep a flow, `new TARGET` tries one.
const AGENT: &str = r#"
import socket, sys, threading, time
PORT = int(sys.argv[1])
def connect(target):
    s = socket.create_connection((target, PORT), 30)
    return s, s.makefile("rb").readline().split()[0].decode()
def pound(targets):
    n = 0
    while True:
        for target in targets:
            n += 1
            family = socket.AF_INET6 if ":" in target else socket.AF_INET
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                try:
                    s = socket.socket(family, kind)
                    s.settimeout(0.2)
                    s.connect((target, PORT))
                    if kind == socket.SOCK_DGRAM: s.send(b"?")
                    s.close()
                except OSError:
                    pass
            try:
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                s.sendto(b"\0\1\1\0\0\1\0\0\0\0\0\0\6origin\4test\0\0\1\0\1", ("10.90.4.2", 53))
                s.close()
            except OSError:
                pass
        time.sleep(0.02)
held = {}
for line in sys.stdin:
    word, *rest = line.split()
    start = time.monotonic()
    try:
        if word == "pound":
            threading.Thread(target=pound, args=(rest,), daemon=True).start()
            said = "ok"
        elif word == "open":
            held[rest[0]], said = connect(rest[1])
        elif word == "new":
            s, said = connect(rest[0])
            s.close()
        elif word == "use":
            s = held[rest[0]]
            s.settimeout(30)
            s.sendall(b"?")
            said = "works" if s.recv(1) == b"?" else "end"
        elif word == "big":
            s, said = connect(rest[0])
            data, got = b"x" * 3000000, 0
            threading.Thread(target=s.sendall, args=(data,), daemon=True).start()
            while got < len(data):
                got += len(s.recv(65536)) or sys.exit("end")
            said = "works"
    except OSError as error:
        said = "failed: %s" % error
    print(said, "after %d ms" % ((time.monotonic() - start) * 1000), flush=True)
"#;

/// An app that does what it is told.
struct Agent {
    running: Running,
    input: ChildStdin,
    answers: usize,
}

impl Agent {
    fn start(lab: &Lab, daemon: Option<&Daemon<'_>>) -> Self {
        let mut command = match daemon {
            Some(daemon) => daemon.command_as(User::Nobody, "/usr/bin/python3"),
            None => lab.client().command("/usr/bin/python3"),
        };
        command.args(["-c", AGENT, &port::BANNER.to_string()]);
        command.stdin(Stdio::piped());
        let mut running = Running::start(command);
        let input = running.input();
        Self {
            running,
            input,
            answers: 0,
        }
    }

    #[track_caller]
    fn say(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("the agent reads");
    }

    /// What it says to all that it was told.
    #[track_caller]
    fn hear(&mut self) -> String {
        self.answers += 1;
        wait_until("the agent answers", LIMIT, || {
            let answered = self.running.said().lines().count() >= self.answers;
            assert!(answered || self.running.is_running(), "the agent is gone");
            answered
        });
        let said = self.running.said();
        said.lines()
            .nth(self.answers - 1)
            .expect("it has answered")
            .to_owned()
    }

    #[track_caller]
    fn ask(&mut self, command: &str) -> String {
        self.say(command);
        self.hear()
    }

    /// Opens flows to `target` until one comes by the gateway.
    #[track_caller]
    fn reaches(&mut self, what: &str, target: &str) -> Duration {
        let start = Instant::now();
        let mut said = String::new();
        wait_until(what, LIMIT, || {
            said = self.ask(&format!("new {target}"));
            assert!(!said.contains(&CLIENT.to_string()), "{what}: {said}");
            [PROXY.to_string(), PROXY6.to_string()]
                .iter()
                .any(|peer| said.contains(peer))
        });
        start.elapsed()
    }
}

/// What comes from the client on its links, but for its connections to the gateway, what the link
/// itself needs, and the unmanaged target of this suite.
struct Wire<'lab> {
    lab: &'lab Lab,
    dumps: Vec<(&'static str, Running)>,
}

const UNMANAGED: &str = "203.0.113.50";
const LINKS: [(&str, &str, &str); 2] = [
    ("client", "eth0", "10.90.1.1"),
    ("second", "eth1", "10.91.1.1"),
];

impl<'lab> Wire<'lab> {
    fn watch(lab: &'lab Lab) -> Self {
        let filter = format!(
            "not arp and not (icmp6 and ip6[40] >= 130 and ip6[40] <= 143) \
             and not (dst host 10.90.2.2 and tcp dst port 443) and not dst host {UNMANAGED} \
             and not (ip6 and ip6[6] = 0)"
        );
        let dump = |link| {
            let running = lab.router().spawn(&[
                "tcpdump", "-l", "-n", "-i", link, "-Q", "in", "-Z", "root", &filter,
            ]);
            (link, running)
        };
        let wire = Self {
            lab,
            dumps: LINKS.iter().map(|(link, ..)| dump(*link)).collect(),
        };
        wire.mark("start");
        wire
    }

    /// Sends a datagram over each link until it is seen there: all before it is seen then.
    fn mark(&self, what: &str) {
        for (number, (_, running)) in self.dumps.iter().enumerate() {
            let router = LINKS[number].2;
            wait_until(what, LIMIT, || {
                let before = running.said().matches("length 7").count();
                self.lab.client().sh(&format!(
                    "python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\
                     .sendto(b\"{:7}\", (\"{router}\", 9))'",
                    what
                ));
                let until = Instant::now() + Duration::from_secs(2);
                while Instant::now() < until {
                    if running.said().matches("length 7").count() > before {
                        return true;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                false
            });
        }
    }

    /// Fails the test if there was anything else.
    #[track_caller]
    fn assert_quiet(self) {
        self.mark("end");
        for (link, running) in self.dumps {
            running.signal(Signal::SIGTERM);
            let said = running.finish(LIMIT);
            assert!(
                said.stderr.contains("\n0 packets dropped by kernel"),
                "{said}"
            );
            let stray: Vec<_> = said
                .stdout
                .lines()
                .filter(|line| !line.is_empty() && !line.contains(".9: UDP, length 7"))
                .take(20)
                .collect();
            assert!(stray.is_empty(), "by the link {link}: {stray:#?}");
        }
    }
}

const BACK: &str = "ip link set eth0 up
    ip addr replace 10.90.1.2/24 dev eth0; ip addr replace fd00:90:1::2/64 dev eth0 nodad
    ip route replace default via 10.90.1.1; ip -6 route replace default via fd00:90:1::1";

fn state(daemon: &Daemon<'_>) -> (String, String) {
    let status = daemon.status();
    let text = |key: &str| {
        let value = &status["profiles"][0][key];
        value.as_str().unwrap_or_default().to_owned()
    };
    (text("state"), text("reason"))
}

#[track_caller]
fn connected(daemon: &Daemon<'_>, what: &str) {
    let said = daemon.offramp(&["status", "--wait", "30"]);
    assert!(said.status.success(), "{what}: {said}");
}

/// The flow works, or it has ended; it never hangs.
#[track_caller]
fn survives_or_ends(agent: &mut Agent, flow: &str) -> bool {
    let start = Instant::now();
    let said = agent.ask(&format!("use {flow}"));
    assert!(!said.contains("timed out"), "{flow}: {said}");
    assert!(start.elapsed() < ENDS, "{flow}: {said}");
    said.starts_with("works")
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn the_machine_moves() {
    let lab = Lab::new();
    lab.add_cable("second", "eth1", 91);
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let wire = Wire::watch(&lab);
    let client = lab.client();
    let mut app = Agent::start(&lab, Some(&daemon));
    let mut neighbour = Agent::start(&lab, None);
    assert!(app.ask("pound 203.0.113.21 2001:db8::21").starts_with("ok"));
    let target = "203.0.113.20";
    app.reaches("at first", target);
    app.reaches("at first, IPv6", "2001:db8::20");

    // The same address comes back at once, as when a lease is renewed.
    app.ask(&format!("open lease {target}"));
    client.sh(&format!("ip addr del 10.90.1.2/24 dev eth0; {BACK}"));
    assert!(survives_or_ends(&mut app, "lease"), "the same address");
    app.reaches("the same address", target);

    // The link goes for a moment, as by a loose plug.
    client.sh(&format!("ip link set eth0 down; sleep 1; {BACK}"));
    assert!(survives_or_ends(&mut app, "lease"), "a loose plug");

    // Another size of packets.
    client.sh("ip link set eth0 mtu 1280");
    lab.router().sh("ip link set client mtu 1280");
    let said = app.ask(&format!("big {target}"));
    assert!(said.starts_with("works"), "{said}");
    assert!(survives_or_ends(&mut app, "lease"), "another size");
    lab.router().sh("ip link set client mtu 1500");
    client.sh("ip link set eth0 mtu 1500");
    assert_eq!(state(&daemon).0, "connected");

    // Another address: what was opened by the old one is lost, and told so.
    client.sh(&format!(
        "ip addr del 10.90.1.2/24 dev eth0; ip addr del fd00:90:1::2/64 dev eth0
         ip addr add 10.90.1.77/24 dev eth0; ip addr add fd00:90:1::77/64 dev eth0 nodad
         {}",
        BACK.lines().last().expect("the routes")
    ));
    let soon = app.reaches("another address", target);
    assert!(soon < SOON, "another address: {soon:?}");
    assert!(!survives_or_ends(&mut app, "lease"), "another address");
    connected(&daemon, "another address");
    assert!(
        neighbour
            .ask(&format!("new {UNMANAGED}"))
            .contains("10.90.1.77")
    );
    client.sh(&format!(
        "ip addr del 10.90.1.77/24 dev eth0; ip addr del fd00:90:1::77/64 dev eth0; {BACK}"
    ));
    app.reaches("home again", target);

    // No way out, and it is told.
    app.ask(&format!("open way {target}"));
    client.sh("ip route del default; ip -6 route del default");
    wait_until("no network is told", LIMIT, || {
        let (state, reason) = state(&daemon);
        let told = ["reasserting", "disconnected"].contains(&state.as_str());
        told && reason.contains("this machine has no network")
    });
    let start = Instant::now();
    let said = app.ask(&format!("new {target}"));
    assert!(said.contains("failed"), "without a network: {said}");
    assert!(start.elapsed() < ENDS, "without a network: {said}");
    client.sh(BACK);
    let soon = app.reaches("the way is back", target);
    assert!(soon < SOON, "the way is back: {soon:?}");
    survives_or_ends(&mut app, "way");
    connected(&daemon, "the way is back");

    // IPv6 goes and comes.
    client.sh("ip addr del fd00:90:1::2/64 dev eth0; ip addr del fd00:91:1::2/64 dev eth1");
    wait_until("IPv6 is gone", LIMIT, || {
        app.ask("new 2001:db8::20").contains("unreachable")
    });
    app.reaches("IPv4 alone", target);
    client.sh(&format!(
        "{BACK}; ip addr add fd00:91:1::2/64 dev eth1 nodad"
    ));
    app.reaches("IPv6 is back", "2001:db8::20");

    // From the air to the cable: another interface is the way out, then the first one goes.
    app.ask(&format!("open air {target}"));
    client.sh("ip route add default via 10.91.1.1 dev eth1 metric 5
         ip -6 route add default via fd00:91:1::1 dev eth1 metric 5");
    app.reaches("two networks", target);
    client.sh("ip link set eth0 down");
    let soon = app.reaches("by the cable", target);
    assert!(soon < SOON, "by the cable: {soon:?}");
    survives_or_ends(&mut app, "air");
    assert!(
        neighbour
            .ask(&format!("new {UNMANAGED}"))
            .contains("10.91.1.2")
    );
    client.sh(&format!(
        "{BACK}; ip route del default via 10.91.1.1; ip -6 route del default via fd00:91:1::1"
    ));
    let soon = app.reaches("by the air", target);
    assert!(soon < SOON, "by the air: {soon:?}");
    connected(&daemon, "by the air");

    // Asleep: the daemon stands still, the network is gone, and later all is back.
    app.ask(&format!("open sleep {target}"));
    daemon.process().signal(Signal::SIGSTOP);
    client.sh("ip link set eth0 down");
    wait_until("apps are refused", LIMIT, || {
        app.ask(&format!("new {target}")).contains("refused")
    });
    client.sh(BACK);
    assert!(app.ask(&format!("new {target}")).contains("refused"));
    daemon.process().signal(Signal::SIGCONT);
    let soon = app.reaches("awake", target);
    assert!(soon < SOON, "awake: {soon:?}");
    survives_or_ends(&mut app, "sleep");
    connected(&daemon, "awake");

    // No network at the start; it comes later.
    client.sh("ip link set eth0 down");
    drop(daemon.stop());
    daemon.start_unconnected();
    wait_until("no network is told at the start", LIMIT, || {
        state(&daemon).1.contains("this machine has no network")
    });
    assert!(app.ask(&format!("new {target}")).contains("failed"));
    client.sh(BACK);
    let soon = app.reaches("the network comes", target);
    assert!(soon < SOON, "the network comes: {soon:?}");
    connected(&daemon, "the network comes");
    assert!(
        neighbour
            .ask(&format!("new {UNMANAGED}"))
            .contains("10.90.1.2")
    );
    wire.assert_quiet();
}

/// The library that tells a program another time.
fn faketime() -> std::path::PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("there are libraries");
    let found = folders
        .flatten()
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists());
    found.expect("libfaketime is installed: scripts/deps")
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn somebody_sets_the_clock() {
    let lab = Lab::new();
    lab.add_cable("second", "eth1", 91);
    let mut gateway = Gateway::start(&lab);
    let mut daemon = Daemon::prepare(&lab);
    daemon.write("policies/managed/0.json", &Daemon::profile().to_string());
    let clock = lab.directory().join("clock");
    let set = |time: &str| {
        let fresh = lab.directory().join("clock.fresh");
        std::fs::write(&fresh, time).expect("the lab's directory is ours");
        std::fs::rename(&fresh, &clock).expect("the lab's directory is ours");
    };
    set("+0");
    let mut command = lab.client().command("env");
    command.arg(format!("LD_PRELOAD={}", faketime().display()));
    command.arg(format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()));
    command.args(["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"]);
    // The library cleans up at the end of the program that it was loaded into first.
    let line = daemon.command();
    command.args(line.get_args().skip_while(|word| *word != "--").skip(1));
    daemon.start_as(command);
    let wire = Wire::watch(&lab);
    let target = "203.0.113.20";
    let mut app = Agent::start(&lab, Some(&daemon));
    assert!(app.ask("pound 203.0.113.21 2001:db8::21").starts_with("ok"));
    app.ask(&format!("open held {target}"));
    let began_in = |daemon: &Daemon<'_>, years: &std::ops::Range<u64>| {
        let flows = daemon.offramp(&["flows", "--json"]).success();
        let flows: serde_json::Value = serde_json::from_str(&flows).expect("JSON");
        let mut all = flows.as_array().expect("a list").iter();
        all.any(|flow| {
            let started = flow["started"].as_u64().expect("milliseconds");
            years.contains(&(1970 + started / 31_556_952_000))
        })
    };
    for (time, expected) in [("+30y", 2050..2070), ("-55y", 1970..1980)] {
        set(time);
        // Connections that stand, and flows in them, do not depend on it; nor does the heartbeat.
        wait_until("the daemon has another year", LIMIT, || {
            app.reaches(time, target);
            app.ask(&format!("open {time} {target}"));
            began_in(&daemon, &expected)
        });
        assert!(survives_or_ends(&mut app, "held"), "{time}");
        assert_eq!(state(&daemon).0, "connected", "{time}");
    }
    // A new one is refused as long as the certificate is from the future, and told so.
    gateway.start_again(&lab);
    wait_until("the certificate is not valid", LIMIT, || {
        state(&daemon).1.contains("not valid yet")
    });
    let said = app.ask(&format!("new {target}"));
    assert!(said.contains("failed"), "{said}");
    set("+0");
    let soon = app.reaches("the clock is right", target);
    assert!(soon < SOON, "the clock is right: {soon:?}");
    connected(&daemon, "the clock is right");
    wire.assert_quiet();
}
