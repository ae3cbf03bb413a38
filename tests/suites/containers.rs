//! Other network namespaces: what nobody labelled there is left alone, what is labelled is refused
//! everything but its loopback.

#[path = "containers/podman.rs"]
mod podman;

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use offramp_tests::addresses::{CLIENT, PROXY, target};
use offramp_tests::{
    Daemon, Finished, Gateway, Lab, Running, Transport, build_first, port, wait_until,
};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);
const BOX: Ipv4Addr = Ipv4Addr::new(10, 90, 9, 2);

/// Opens a flow on loopback and uses it.
const LOOPBACK: &str = "import socket
one = socket.create_server((\"127.0.0.1\", 0))
two = socket.create_connection(one.getsockname())
two.send(b\"x\")
print(\"loopback works\", one.accept()[0].recv(1))";

struct Containers<'lab> {
    lab: &'lab Lab,
    daemon: Daemon<'lab>,
    /// A program that rules name, by its path and by its name.
    app: String,
    /// The same program, of no rule.
    plain: String,
    /// A shell that rules name.
    shell: String,
}

fn containers(lab: &Lab) -> Containers<'_> {
    let path = |name: &str| lab.directory().join(name).display().to_string();
    let banner = SocketAddrV4::new(target(1), port::BANNER);
    for name in ["app", "plain"] {
        build_first(&lab.directory().join(name), Transport::Tcp, banner);
    }
    std::fs::copy("/bin/bash", lab.directory().join("shell")).expect("the directory is ours");
    let mut profile = Daemon::profile();
    profile["Payload"]["AppRules"] = json!([
        { "SigningIdentifier": format!("exe:{}", path("app")) },
        { "SigningIdentifier": "exe:app" },
        { "SigningIdentifier": "exe:shell" },
        { "SigningIdentifier": "exe:carrier" },
    ]);
    Containers {
        lab,
        daemon: Daemon::start_with(lab, &[profile]),
        app: path("app"),
        plain: path("plain"),
        shell: path("shell"),
    }
}

impl Containers<'_> {
    /// What the origin saw of a command line on the client.
    fn peers(&self, line: &[&str]) -> (Vec<IpAddr>, Finished) {
        self.lab.servers().forget();
        let finished = self.lab.client().run(line);
        (self.seen(), finished)
    }

    fn seen(&self) -> Vec<IpAddr> {
        let seen = self.lab.servers().seen();
        seen.iter().map(|seen| seen.peer.ip()).collect()
    }

    /// A command line's flows all come from `peer`; None: there is none.
    #[track_caller]
    fn assert_seen(&self, what: &str, line: &[&str], peer: Option<Ipv4Addr>) {
        let (peers, finished) = self.peers(line);
        let expected: Vec<IpAddr> = peer.into_iter().map(IpAddr::from).collect();
        assert_eq!(peers, expected, "{what}: {finished}");
    }

    /// The words that put a command under the profile.
    fn run(&self) -> Vec<String> {
        let command = self.daemon.command_as(offramp_tests::User::Root, "");
        let words = command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned());
        let mut words: Vec<_> = words
            .skip_while(|word| !word.ends_with("/offramp"))
            .collect();
        words.truncate(words.len() - 2);
        // Who makes and enters namespaces as root needs more than commands are left with.
        words.extend(["--keep-capabilities", "all", "--"].map(String::from));
        words
    }
}

/// A network namespace beside the client, joined to it by a cable: a container with a bridge.
struct NetworkBox {
    holder: Running,
}

impl NetworkBox {
    fn new(lab: &Lab) -> Self {
        let client = lab.client();
        let mut command = client.command("unshare");
        command.args(["--net", "--", "sh", "-c", "echo in; exec cat"]);
        command.stdin(std::process::Stdio::piped());
        let mut holder = Running::start(command);
        wait_until("the namespace is there", LIMIT, || {
            assert!(holder.is_running(), "no namespace");
            holder.said().contains("in")
        });
        let id = holder.id();
        client.sh(&format!(
            "sysctl -qw net.ipv4.ip_forward=1
             ip link add box0 type veth peer name eth0 netns {id}
             ip addr add 10.90.9.1/24 dev box0; ip link set box0 up
             nsenter --target {id} --net sh -euc 'ip link set lo up; ip addr add {BOX}/24 dev eth0
                 ip link set eth0 up; ip route add default via 10.90.9.1'"
        ));
        lab.router()
            .sh(&format!("ip route add 10.90.9.0/24 via {CLIENT}"));
        Self { holder }
    }

    fn enter(&self) -> String {
        format!("nsenter --target {} --net --", self.holder.id())
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn what_nobody_labelled_elsewhere_is_left_alone() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let containers = containers(&lab);
    let inside = NetworkBox::new(&lab);
    for program in [&containers.plain, &containers.app] {
        let line = format!("{} {program}", inside.enter());
        let line: Vec<_> = line.split(' ').collect();
        for _ in 0..5 {
            containers.assert_seen("in the box", &line, Some(BOX));
        }
    }
    containers.assert_seen("outside", &[&containers.app], Some(PROXY));
    containers.assert_seen("outside, no app", &[&containers.plain], Some(CLIENT));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn an_app_that_goes_elsewhere_has_its_loopback_alone() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let containers = containers(&lab);
    let inside = NetworkBox::new(&lab);
    let wire = lab.capture_only(&format!("host {BOX}"));
    let run = containers.run().join(" ");
    for (what, before) in [
        ("by a rule", format!("{} -c", containers.shell)),
        ("by a command", format!("{run} sh -c")),
    ] {
        for program in [&containers.plain, &containers.app] {
            let script = format!("{} {program}; true", inside.enter());
            let mut line: Vec<_> = before.split(' ').collect();
            line.push(&script);
            containers.assert_seen(what, &line, None);
        }
        for enter in [inside.enter(), "unshare --net --".to_owned()] {
            let script = format!(
                "{enter} sh -euc 'ip link set lo up; exec python3 -c \"$0\"' \"$LOOPBACK\""
            );
            let mut command = lab.client().command("env");
            command.env("LOOPBACK", LOOPBACK);
            command.args(before.split(' ')).arg(&script);
            let said = Running::start(command).finish(LIMIT).success();
            assert!(said.contains("loopback works"), "{what}: {said}");
        }
    }
    wire.packets().assert_only(|_| false);
    containers.assert_seen("at home", &[&containers.app], Some(PROXY));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn bubblewrap() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let containers = containers(&lab);
    let (app, plain) = (containers.app.as_str(), containers.plain.as_str());
    let run = containers.run();
    let run: Vec<_> = run.iter().map(String::as_str).collect();
    let wrap = [
        "bwrap", "--bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
    ];
    let as_user = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    for before in [&[][..], &as_user[..]] {
        let line = |parts: &[&[&'static str]], last: &[&str]| -> Vec<String> {
            let own = before.iter().chain(parts.iter().copied().flatten());
            own.chain(last).map(ToString::to_string).collect()
        };
        let check = |what: &str, line: Vec<String>, peer| {
            let line: Vec<_> = line.iter().map(String::as_str).collect();
            containers.assert_seen(what, &line, peer);
        };
        check("a rule's app", line(&[&wrap], &[app]), Some(PROXY));
        check("no app", line(&[&wrap], &[plain]), Some(CLIENT));
        let moved = [
            "--tmpfs",
            "/tmp",
            "--ro-bind",
            app,
            "/tmp/tool",
            "/tmp/tool",
        ];
        check(
            "an app at another path",
            line(&[&wrap], &moved),
            Some(PROXY),
        );
        let swapped = ["--ro-bind", plain, app, "--", app];
        check(
            "named like an app inside",
            line(&[&wrap], &swapped),
            Some(PROXY),
        );
        let mut under = line(&[], &run);
        under.extend(wrap.iter().map(ToString::to_string));
        under.push(plain.to_owned());
        check("under a command", under.clone(), Some(PROXY));
        let mut alone = line(&[&wrap, &["--unshare-net", "python3", "-c"]], &[LOOPBACK]);
        assert_loopback(&containers, &alone);
        alone = line(&[], &run);
        alone.extend(wrap.iter().map(ToString::to_string));
        alone.extend(["--unshare-net", "python3", "-c", LOOPBACK].map(String::from));
        assert_loopback(&containers, &alone);
        under.insert(under.len() - 1, "--unshare-net".to_owned());
        check("under a command, without a network", under, None);
        check(
            "an app without a network",
            line(&[&wrap, &["--unshare-net"]], &[app]),
            None,
        );
    }
}

#[track_caller]
fn assert_loopback(containers: &Containers<'_>, line: &[String]) {
    let line: Vec<_> = line.iter().map(String::as_str).collect();
    let said = containers.peers(&line).1.success();
    assert!(said.contains("loopback works"), "{said}");
}
