//! The time before the daemon: what rules name is refused from the moment on that `offrampd
//! lockdown` has run, all else is free, and the daemon takes over without a gap.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use offramp_tests::addresses::{CLIENT, CLIENT6, GATEWAY, PROXY, target, target6};
use offramp_tests::{
    Daemon, Finished, Gateway, Lab, Person, Running, binary, copy_probe, port, wait_until,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const NOBODY: u32 = 65534;

/// The lab's profile with these apps.
fn profile(rules: &[Value]) -> Value {
    let mut profile = Daemon::profile();
    profile["Payload"]["AppRules"] = rules.into();
    profile
}

fn rule(identifier: &str) -> Value {
    json!({ "SigningIdentifier": identifier })
}

fn lockdown(daemon: &Daemon<'_>) -> Finished {
    let mut command = daemon.command();
    command.arg("lockdown");
    Running::start(command).finish(LIMIT)
}

/// What a boot finds: no process of ours, nothing in the kernel, an empty `/run`.
fn power_off(daemon: &mut Daemon<'_>) {
    daemon.stop();
    uninstall(daemon);
    std::fs::remove_dir_all(daemon.directory().join("runtime")).expect("the daemon made it");
}

fn uninstall(daemon: &Daemon<'_>) {
    let mut command = daemon.command();
    command.arg("--uninstall");
    let said = Running::start(command).finish(LIMIT);
    assert!(said.status.success(), "{said}");
}

/// Devices, rules, routes, pins and mounts on the client.
fn left(lab: &Lab) -> String {
    lab.client().sh(
        "ip -brief link | cut -d' ' -f1; ip rule; ip -6 rule; ip route show table all
         find /sys/fs/bpf -mindepth 1; findmnt -rno TARGET
         sysctl -a 2>/dev/null | grep -E 'fwmark_reflect|src_valid_mark|rp_filter'",
    )
}

/// The network as it is before it is configured, and afterwards.
fn network_down(lab: &Lab) {
    lab.client()
        .sh("ip link set eth0 down; ip link set lo down");
}

fn network_up(lab: &Lab) {
    lab.client().sh("ip link set lo up; ip link set eth0 up
         ip addr add fd00:90:1::2/64 dev eth0 nodad
         ip route add default via 10.90.1.1; ip route add default via fd00:90:1::1");
    let target = format!("[{}]:{}", target6(20), port::BANNER);
    let probe = binary("offramp-probe").display().to_string();
    wait_until("the network is up", LIMIT, || {
        let said = lab.client().run(&[&probe, "tcp", &target]);
        said.stdout.contains(" ok ")
    });
}

/// A program with a name of its own, and who starts it.
struct App<'lab> {
    name: &'static str,
    person: &'lab Person<'lab>,
    program: PathBuf,
}

impl App<'_> {
    fn command(&self, arguments: &[String]) -> Command {
        let mut command = self.person.command(&self.program);
        command.args(arguments);
        command
    }

    /// TCP over both families, to targets that nobody else asks.
    fn tcp(&self) -> String {
        let arguments = [
            "tcp".to_owned(),
            format!("{}:{}", target(21), port::BANNER),
            format!("[{}]:{}", target6(21), port::BANNER),
        ];
        Running::start(self.command(&arguments))
            .finish(LIMIT)
            .stdout
    }

    /// UDP over both families, connected and not.
    fn udp(&self) -> String {
        self.send_to(&[
            format!("{}:{}", target(9), port::ECHO),
            format!("[{}]:{}", target6(9), port::ECHO),
        ])
    }

    /// What look-ups are sent by; nobody answers.
    fn look_up(&self) -> String {
        self.send_to(&["10.90.4.2:53".to_owned(), "127.0.0.53:53".to_owned()])
    }

    fn send_to(&self, targets: &[String]) -> String {
        let ways = [&["udp"][..], &["udp", "--connect"]];
        let mut said = String::new();
        for way in ways {
            let way = way.iter().map(|word| (*word).to_owned());
            for target in targets {
                let arguments: Vec<_> = way.clone().chain([target.clone()]).collect();
                let ended = Running::start(self.command(&arguments)).finish(LIMIT);
                said += &ended.stdout;
            }
        }
        said
    }
}

/// Every attempt fails, and at once.
#[track_caller]
fn assert_refused(label: &str, said: &str) {
    assert!(!said.is_empty(), "{label}: nothing was tried");
    let is_refused = |line: &str| {
        let kinds = ["ConnectionRefused", "NetworkUnreachable"];
        line.contains(" failed ") && kinds.iter().any(|kind| line.contains(kind))
    };
    assert!(said.lines().all(is_refused), "{label}: {said}");
}

#[track_caller]
fn assert_free(app: &App<'_>) {
    let tcp = app.tcp();
    let seen = |address: &str| tcp.contains(&format!("said=\"{address}"));
    assert!(
        seen(&format!("{CLIENT}:")) && seen(&format!("[{CLIENT6}]:")),
        "{}: {tcp}",
        app.name
    );
    let udp = app.udp();
    assert_eq!(udp.matches(" ok ").count(), 8, "{}: {udp}", app.name);
}

/// An executable file in the lab's directory.
fn script(lab: &Lab, name: &str, text: &str) -> PathBuf {
    let path = lab.directory().join(name);
    std::fs::write(&path, text).expect("the directory is ours");
    let mode = PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, mode).expect("the file is ours");
    path
}

/// Opens a flow and holds it; a line on its standard input has it use the flow again.
fn hold(lab: &Lab, program: &Path, number: u8) -> Running {
    let mut command = lab.client().command(program);
    command.args(["open", "1", &format!("{}:{}", target(number), port::ECHO)]);
    let mut running = Running::start(command_with_input(command));
    wait_until("the flow is open", LIMIT, || {
        running.said().contains("open 1") || !running.is_running()
    });
    running
}

fn command_with_input(mut command: Command) -> Command {
    command.stdin(Stdio::piped());
    command
}

/// Whether a held flow still works.
fn works(mut held: Running) -> bool {
    std::io::Write::write_all(&mut held.input(), b"go\n").expect("the probe waits for it");
    held.finish(LIMIT).success().contains("working 1")
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn apps_are_refused_before_the_network_is_there() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let (root, nobody) = (Person::new(&lab, 0), Person::new(&lab, NOBODY));
    let folder = lab.directory().display().to_string();
    let above = lab.directory().parent().expect("a folder").display();
    let probe = binary("offramp-probe").display().to_string();
    let app = |name, person| App {
        name,
        person,
        program: copy_probe(&lab, name),
    };
    let of_script = |name, person| App {
        name,
        person,
        program: script(&lab, name, &format!("#!/bin/sh\n{probe} \"$@\"\n")),
    };
    let managed = [
        app("by-name", &root),
        app("by-path", &root),
        app("by-pattern", &root),
        app("by-pattern", &nobody),
        app("of-nobody", &nobody),
        app("by-user", &nobody),
        of_script("script.sh", &root),
    ];
    let free = [app("neighbour", &root), app("neighbour", &nobody)];
    let mut daemon = Daemon::start_with(
        &lab,
        &[profile(&[
            rule("exe:by-name"),
            rule(&format!("exe:{folder}/by-path")),
            rule(&format!("exe:{above}/*/by-pattern")),
            rule(&format!("exe:{folder}/script.sh")),
            json!({ "SigningIdentifier": "exe:by-user", "User": "65534" }),
        ])],
    );
    let mut own = profile(&[rule("exe:of-nobody")]);
    own["Identifier"] = "test.own".into();
    own["Payload"]["Servers"][0]["TLS"] = json!({});
    let installed = nobody.install(&daemon, &own);
    assert!(installed.status.success(), "{installed}");
    power_off(&mut daemon);
    let before = left(&lab);

    // What it said when it was last good still holds.
    daemon.write("policies/managed/0.json", "{");
    let running = hold(&lab, &managed[0].program, 22);
    let other = hold(&lab, &free[0].program, 23);
    network_down(&lab);
    let said = lockdown(&daemon);
    assert!(
        said.status.success() && said.stderr.contains("refused"),
        "{said}"
    );
    network_up(&lab);
    let capture = lab.capture();
    for app in &managed {
        assert_refused(&format!("{} by TCP", app.name), &app.tcp());
        assert_refused(&format!("{} by UDP", app.name), &app.udp());
        assert_refused(&format!("{} by name", app.name), &app.look_up());
    }
    capture.packets().assert_only(|_| false);
    for app in &free {
        assert_free(app);
    }
    assert!(works(other), "an unmanaged flow goes on");
    assert!(!works(running), "the flow of an app that ran already");

    // Again, with other rules.
    daemon.write(
        "policies/managed/0.json",
        &profile(&[rule("exe:by-name")]).to_string(),
    );
    let said = lockdown(&daemon);
    assert!(said.status.success(), "{said}");
    assert_refused("by-name", &managed[0].tcp());
    assert_free(&managed[1]);
    uninstall(&daemon);
    assert_eq!(left(&lab), before);
    assert_free(&managed[0]);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn the_daemon_takes_over_without_a_gap() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let root = Person::new(&lab, 0);
    let named = copy_probe(&lab, "named");
    let mut daemon = Daemon::prepare(&lab);
    let rules = [rule("exe:named"), rule("exe:hammer.sh")];
    daemon.write("policies/managed/0.json", &profile(&rules).to_string());
    let said = lockdown(&daemon);
    assert!(said.status.success(), "{said}");

    // One that runs and starts others, and one that is started anew each time.
    let line = format!(
        "tcp {}:{} [{}]:{}",
        target(21),
        port::BANNER,
        target6(21),
        port::BANNER
    );
    let around = |program: &str| format!("#!/bin/sh\nwhile :; do {program} {line}; done\n");
    let within = script(
        &lab,
        "hammer.sh",
        &around(&binary("offramp-probe").display().to_string()),
    );
    let outside = script(&lab, "starter.sh", &around(&named.display().to_string()));
    let capture = lab.capture_only("host 203.0.113.21 or host 2001:db8::15");
    let mut loops = [within, outside].map(|program| Running::start(root.command(program)));
    let refused = |running: &Running| running.said().contains("ConnectionRefused");
    wait_until("both are refused", LIMIT, || loops.iter().all(refused));
    daemon.start_again();
    let relayed = |running: &Running| running.said().contains(&format!("said=\"{PROXY}:"));
    wait_until("both are relayed", LIMIT, || loops.iter().all(relayed));
    capture.packets().assert_only(|_| false);
    for running in &mut loops {
        assert!(running.is_running());
        running.signal(Signal::SIGKILL);
    }

    // A daemon that runs is left alone, and so are its flows.
    let held = hold(&lab, &named, 24);
    let said = lockdown(&daemon);
    assert!(
        said.status.success() && said.stderr.contains("a daemon serves"),
        "{said}"
    );
    assert!(works(held));
    let capture = lab.capture();
    let app = App {
        name: "named",
        person: &root,
        program: named,
    };
    assert!(app.tcp().contains(&format!("said=\"{PROXY}:")));
    capture
        .packets()
        .assert_only(|packet| packet.is_with(GATEWAY));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn what_a_lockdown_needs_and_what_not() {
    let lab = Lab::new();
    let root = Person::new(&lab, 0);
    let app = App {
        name: "by-name",
        person: &root,
        program: copy_probe(&lab, "by-name"),
    };
    let before = left(&lab);
    // No rule: nothing is done.
    let daemon = Daemon::prepare(&lab);
    daemon.write("policies/managed/0.json", &Daemon::profile().to_string());
    let said = lockdown(&daemon);
    assert!(
        said.status.success() && said.stderr.contains("nothing to refuse"),
        "{said}"
    );
    assert_eq!(left(&lab), before);

    // The file system of pins is mounted where it is missing, and nothing has to be written but
    // what is in /run.
    daemon.write(
        "policies/managed/0.json",
        &profile(&[rule("exe:by-name")]).to_string(),
    );
    let state = daemon.directory().join("state").display().to_string();
    lab.client().sh(&format!(
        "mount -t tmpfs tmpfs /sys/fs/bpf; mkdir -p {state}; mount -t tmpfs -o ro tmpfs {state}"
    ));
    let said = lockdown(&daemon);
    assert!(said.status.success(), "{said}");
    assert_refused("by-name", &app.tcp());
    uninstall(&daemon);
    assert_free(&app);
    lab.client().sh(&format!(
        "umount {state}; umount /sys/fs/bpf; umount /sys/fs/bpf"
    ));
    assert_eq!(left(&lab), before);

    // What the kernel lacks is told.
    lab.client().sh("mount -t tmpfs tmpfs /sys/kernel/btf");
    let said = lockdown(&daemon);
    assert!(
        !said.status.success() && said.stderr.contains("btf"),
        "{said}"
    );
    lab.client().sh("umount /sys/kernel/btf");
    assert_eq!(left(&lab), before);
}
