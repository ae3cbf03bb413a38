//! What others take away from us is put back, and nothing gets past the proxy meanwhile.

use std::time::Duration;

use nix::sys::signal::Signal;
use offramp_tests::addresses::{GATEWAY, ORIGIN, ORIGIN6};
use offramp_tests::{Daemon, Gateway, Held, Lab, User, binary, port, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
const ECHO: &str = "203.0.113.10:7";

/// What somebody does, and the script that does it. `$NETNS` is the private namespace, `$OTHER` a
/// process in another one.
const BREAKAGES: [(&str, &str); 17] = [
    (
        "all rules are flushed",
        "ip rule flush; ip rule add pref 32766 lookup main; ip rule add pref 32767 lookup default
         ip -6 rule flush; ip -6 rule add pref 32766 lookup main",
    ),
    (
        "our rules are flushed",
        "ip rule flush proto 198; ip -6 rule flush proto 198",
    ),
    (
        "one rule goes",
        "ip rule del pref 105; ip -6 rule del pref 106",
    ),
    (
        "our routes are flushed",
        "ip route flush table all proto 198; ip -6 route flush table all proto 198",
    ),
    (
        "a default route is replaced",
        "ip route replace default via 10.90.1.1 table 198180001
         ip -6 route replace default via fd00:90:1::1 metric 1024 table 198180001",
    ),
    ("the device is deleted", "ip link del offramp0"),
    ("the device is down", "ip link set offramp0 down"),
    (
        "the device has another name",
        "ip link set offramp0 name other0",
    ),
    (
        "the device is elsewhere",
        "ip link set offramp0 netns $OTHER",
    ),
    (
        "the device is another",
        "ip link set offramp0 mtu 1400 arp on; ip link set offramp0 address 02:00:00:00:00:01",
    ),
    (
        "somebody makes one of this name",
        "printf '%s\\n' 'link del offramp0' 'link add offramp0 type bridge' |
           ip -force -batch -",
    ),
    (
        "the addresses are flushed",
        "ip addr flush dev offramp0; ip -6 addr flush dev offramp0",
    ),
    (
        "rules inside are flushed",
        "nsenter --net=$NETNS ip rule flush; nsenter --net=$NETNS ip -6 rule flush",
    ),
    (
        "the kernel's own rule is back inside",
        "nsenter --net=$NETNS ip rule add pref 0 lookup local",
    ),
    (
        "routes and addresses inside are flushed",
        "nsenter --net=$NETNS ip route flush table all
         nsenter --net=$NETNS ip addr flush dev app0",
    ),
    (
        "the device inside is down",
        "nsenter --net=$NETNS ip link set app0 down",
    ),
    (
        "the device inside is deleted",
        "nsenter --net=$NETNS ip link del app0",
    ),
];

/// What managed apps can do: TCP and UDP over both families, by name, and to an excluded target.
fn works(daemon: &Daemon<'_>) -> bool {
    let probe = binary("offramp-probe").display().to_string();
    let script = format!(
        "{probe} tcp {ORIGIN}:{0} [{ORIGIN6}]:{0}
         {probe} udp {ORIGIN}:8443; {probe} udp [{ORIGIN6}]:8443
         curl -sS --max-time 5 http://203.0.113.12/; curl -sS --max-time 5 http://v4.test/",
        port::BANNER
    );
    let said = daemon.run(&["sh", "-c", &script]).stdout;
    said.contains("said=\"10.90.2.2:")
        && said.contains("said=\"[fd00:90:2::2]:")
        && said.matches(" ok from=").count() == 4
        && said.contains("peer=10.90.1.2:")
        && said.contains("peer=10.90.2.2:")
}

/// Everything that the daemon has added to routing, here and inside; without the indexes.
fn network(lab: &Lab, netns: &str) -> String {
    let show = |device: &str| {
        format!(
            "(ip rule; ip -6 rule) | grep -v -e 'lookup main' -e 'lookup default'
             ip route show table all proto 198; ip -6 route show table all proto 198
             ip -o addr show dev {device} | sed 's/^[0-9]*: //' | grep -v fe80
             ip -o link show dev {device} | sed 's/^[0-9]*: //; s/@.*: </: </; s/link.ether.*//'"
        )
    };
    let script = format!(
        "({}\n sysctl net.ipv4.fwmark_reflect net.ipv4.conf.offramp0.src_valid_mark\n nsenter --net={netns} sh -c \"$1\") 2>&1 || true",
        show("offramp0")
    );
    let shown = lab
        .client()
        .run(&["sh", "-uc", &script, "sh", &show("app0")]);
    // Rules of one preference come in any order.
    let shown = shown.success();
    let mut lines: Vec<_> = shown.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Fails the test if the network does not become the same again.
#[track_caller]
fn assert_same(what: &str, before: &str, now: impl Fn() -> String) {
    let end = std::time::Instant::now() + LIMIT;
    while std::time::Instant::now() < end {
        if now() == before {
            return;
        }
    }
    panic!("{what}: before\n{before}\nnow\n{}", now());
}

fn netns(daemon: &Daemon<'_>) -> String {
    daemon
        .directory()
        .join("runtime/netns")
        .display()
        .to_string()
}

fn repairs(daemon: &Daemon<'_>) -> u64 {
    daemon.counter("repairs")
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn what_is_taken_away_is_put_back() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let other = lab.router().spawn(&["sleep", "1000"]);
    let (netns, other) = (netns(&daemon), other.id());
    assert!(works(&daemon));
    let before = network(&lab, &netns);
    let capture = lab.capture();
    for (what, script) in BREAKAGES {
        let held = Held::open(&daemon, ECHO);
        let count = repairs(&daemon);
        let script = format!("NETNS={netns} OTHER={other}; {script}");
        // What comes after the first step may find it mended already.
        lab.client().run(&["sh", "-uc", &script]);
        wait_until(what, LIMIT, || repairs(&daemon) > count);
        assert_same(what, &before, || network(&lab, &netns));
        wait_until(what, LIMIT, || works(&daemon));
        assert!(held.works(), "a flow that was open while {what}");
    }
    capture.packets().assert_only(|packet| {
        let direct = packet.is_with("203.0.113.12:80".parse().expect("an address"));
        packet.is_with(GATEWAY) || direct
    });
}

/// A managed shell that is started while all is well and tries at a word from the test.
struct Waiting(offramp_tests::Running);

impl Waiting {
    fn start(daemon: &Daemon<'_>) -> Self {
        let probe = binary("offramp-probe").display().to_string();
        let mut command = daemon.command_as(User::Root, "sh");
        let script = format!(
            "echo ready; read go
             timeout 2 {probe} tcp {ORIGIN}:{0}; timeout 2 {probe} tcp [{ORIGIN6}]:{0}
             timeout 2 {probe} udp {ORIGIN}:8443; timeout 2 {probe} udp [{ORIGIN6}]:8443; true",
            port::BANNER
        );
        command
            .args(["-c", &script])
            .stdin(std::process::Stdio::piped());
        let running = offramp_tests::Running::start(command);
        wait_until("the shell waits", LIMIT, || {
            running.said().contains("ready")
        });
        Self(running)
    }

    fn attempt(mut self) -> String {
        std::io::Write::write_all(&mut self.0.input(), b"go\n").expect("the shell waits");
        self.0.finish(LIMIT).success()
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn the_guard_drops_while_nobody_looks() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    for script in [
        "ip rule flush proto 198; ip -6 rule flush proto 198",
        "ip route flush table all proto 198; ip -6 route flush table all proto 198",
        "ip link del offramp0",
        "ip addr flush dev offramp0; ip link set offramp0 down",
        "ip route add default via 10.90.1.1 table 52; ip rule add pref 2 lookup 52; ip rule del pref 2",
    ] {
        let app = Waiting::start(&daemon);
        let capture = lab.capture();
        let loses = !script.contains("pref 2");
        // The heartbeat is good for some seconds more.
        daemon.process().signal(Signal::SIGSTOP);
        if loses {
            lab.client().sh(script);
        } else {
            lab.client()
                .sh(script.split("; ip rule del").next().unwrap_or(script));
        }
        let said = app.attempt();
        assert!(!said.contains("said="), "{script}: {said}");
        assert!(!said.contains(" ok "), "{script}: {said}");
        capture
            .packets()
            .assert_only(|packet| packet.is_with(GATEWAY));
        if !loses {
            lab.client()
                .sh("ip rule del pref 2; ip route flush table 52");
        }
        daemon.process().signal(Signal::SIGCONT);
        wait_until(script, LIMIT, || works(&daemon));
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn who_takes_away_again_and_again() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let capture = lab.capture();
    let forever = "while :; do ip rule flush proto 198; ip -6 rule flush proto 198; done";
    let taker = lab.client().spawn(&["sh", "-c", forever]);
    let begun = std::time::Instant::now();
    wait_until("it is put back", LIMIT, || repairs(&daemon) > 2);
    let mut refused = 0;
    while refused < 3 {
        assert!(begun.elapsed() < LIMIT, "nothing was refused");
        let said = Waiting::start(&daemon).attempt();
        refused += u32::from(said.contains("ConnectionRefused"));
    }
    let most = 10 * (begun.elapsed().as_secs() + 1);
    assert!(
        repairs(&daemon) < most,
        "{} in {:?}",
        repairs(&daemon),
        begun.elapsed()
    );
    let doctor = daemon.offramp(&["doctor"]).stdout;
    assert!(doctor.contains("IPv4 routing rules"), "{doctor}");
    drop(taker);
    wait_until("all is well", LIMIT, || works(&daemon));
    capture.packets().assert_only(|packet| {
        let direct = packet.is_with("203.0.113.12:80".parse().expect("an address"));
        packet.is_with(GATEWAY) || direct
    });
}
