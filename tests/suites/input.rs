//! Bad input: each is answered with what is wrong and where, and nothing has changed.

use std::time::{Duration, Instant};

use offramp_tests::addresses::GATEWAY;
use offramp_tests::{Authority, Daemon, Finished, Gateway, Lab, Running, User, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// Writes `text` to a file and asks `offramp profile check` about it.
fn check(lab: &Lab, daemon: &Daemon<'_>, text: &str) -> Finished {
    let file = lab.directory().join("profile.json");
    std::fs::write(&file, text).expect("the lab's directory is ours");
    daemon.offramp(&["profile", "check", &file.display().to_string()])
}

/// The good profile with one value replaced.
fn changed(pointer: &str, value: Value) -> String {
    let mut profile = Daemon::profile();
    *profile
        .pointer_mut(pointer)
        .expect("the good profile has it") = value;
    serde_json::to_string_pretty(&profile).expect("it is JSON")
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn profiles() {
    let lab = Lab::new();
    let gateway = Gateway::start(&lab);
    drop(gateway);
    let daemon = Daemon::prepare(&lab);
    let good = serde_json::to_string_pretty(&Daemon::profile()).expect("it is JSON");
    assert_eq!(check(&lab, &daemon, &good).status.code(), Some(0));
    let broken = good.replacen(',', "", 1);
    let unknown = good.replacen("\"Servers\"", "\"Severs\"", 1);
    let wrong = changed("/Payload/Servers/0/URL", json!(7));
    let cases = [
        (&broken, ":3:"),
        (&unknown, "Severs"),
        (&wrong, "Servers[0].URL"),
    ];
    for (text, expected) in cases {
        let said = check(&lab, &daemon, text);
        assert_eq!(said.status.code(), Some(1), "{said}");
        let said = said.to_string();
        assert!(
            said.contains(expected) && said.contains("profile.json"),
            "{expected}: {said}"
        );
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_bad_profile_never_replaces_a_good_one() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let good = Daemon::profile().to_string();
    for bad in ["{", &good.replacen("\"Servers\"", "\"Severs\"", 1)] {
        daemon.write("policies/managed/0.json", bad);
        daemon.process().signal(nix::sys::signal::Signal::SIGHUP);
        let said = daemon
            .run(&["curl", "-sS", "http://203.0.113.11/"])
            .success();
        assert!(said.contains("peer=10.90.2.2:"), "{said}");
        daemon.write("policies/managed/0.json", &good);
    }
    // A second file with the same identifier.
    daemon.write("policies/managed/1.json", &good);
    daemon.process().signal(nix::sys::signal::Signal::SIGHUP);
    let said = daemon
        .run(&["curl", "-sS", "http://203.0.113.11/"])
        .success();
    assert!(said.contains("peer=10.90.2.2:"), "{said}");
}

/// The daemon refuses to start and says why; afterwards nothing is left of the attempt.
#[track_caller]
fn refuses_to_start(daemon: &Daemon<'_>, expected: &[&str]) {
    let said = Running::start(daemon.command()).finish(LIMIT);
    assert!(!said.status.success(), "{said}");
    let text = said.to_string();
    assert!(
        expected.iter().all(|word| text.contains(word)),
        "{expected:?}: {text}"
    );
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn starts_that_cannot_succeed() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let left = || {
        lab.client().sh(
            "ip -brief link | cut -d' ' -f1; ip rule; ip -6 rule; find /sys/fs/bpf -mindepth 1
             findmnt -rno TARGET",
        )
    };
    let before = left();
    let good = Daemon::profile().to_string();

    let daemon = Daemon::prepare(&lab);
    daemon.write("policies/managed/0.json", &good);
    let mut command = lab
        .client()
        .command_as(User::Nobody, offramp_tests::binary("offrampd"));
    for part in ["config", "state", "runtime"] {
        command
            .arg(format!("--{part}"))
            .arg(daemon.directory().join(part));
    }
    let said = Running::start(command).finish(LIMIT);
    assert!(
        !said.status.success() && said.to_string().contains("root"),
        "no root: {said}"
    );

    lab.client()
        .sh("mount --bind -o ro /sys/kernel /sys/fs/bpf");
    refuses_to_start(&daemon, &["bpf"]);
    lab.client().sh("umount /sys/fs/bpf");

    let state = daemon.directory().join("state").display().to_string();
    lab.client().sh(&format!(
        "mkdir -p {state}; mount -t tmpfs -o ro tmpfs {state}"
    ));
    refuses_to_start(&daemon, &["state"]);
    lab.client().sh(&format!("umount {state}"));

    // A container: root by name, without the rights.
    let mut command = lab.client().command("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]);
    command
        .arg(offramp_tests::binary("offrampd"))
        .args(daemon.command().get_args().skip(6));
    let said = Running::start(command).finish(LIMIT);
    assert!(!said.status.success(), "no rights: {said}");

    lab.client()
        .sh("umount -l $(findmnt -rno TARGET -t cgroup2)");
    refuses_to_start(&daemon, &["cgroup2"]);
    assert_eq!(
        left()
            .lines()
            .filter(|line| !line.contains("cgroup"))
            .count(),
        before
            .lines()
            .filter(|line| !line.contains("cgroup"))
            .count()
    );
}

/// The daemon runs, refuses its apps, and its status says why.
#[track_caller]
fn status_tells(daemon: &mut Daemon<'_>, expected: &[&str]) {
    daemon.start_unconnected();
    let end = Instant::now() + LIMIT;
    loop {
        let said = daemon.run(&["curl", "-sS", "--max-time", "10", "http://203.0.113.11/"]);
        assert!(!said.status.success(), "{said}");
        let status = daemon.offramp(&["status"]).stdout;
        if expected.iter().all(|word| status.contains(word)) {
            break;
        }
        assert!(
            Instant::now() < end,
            "the status does not say {expected:?}: {status}"
        );
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn servers_that_cannot_be_used() {
    let lab = Lab::new();
    let authority = Authority::new(lab.directory(), "gateway-authority");
    let names = ["proxy.test", "10.90.2.2"];
    let expired = authority.sign_expired("expired", &names);
    let other = Authority::new(lab.directory(), "other-authority").sign("other", &names);
    let renamed = authority.sign("renamed", &["elsewhere.test"]);
    let profile = Daemon::profile().to_string();
    let mut daemon = Daemon::prepare(&lab);
    daemon.write("policies/managed/0.json", &profile);
    status_tells(&mut daemon, &["refused"]);
    for (identity, word) in [
        (&expired, "expired"),
        (&other, "certificate"),
        (&renamed, "name"),
    ] {
        let authority = Authority::new(&lab.directory().join("proxy"), word);
        let _gateway = Gateway::start_as(&lab, authority, identity, &[]);
        status_tells(&mut daemon, &[word]);
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn credentials_that_are_missing_or_wrong() {
    let lab = Lab::new();
    let users = lab.directory().join("users");
    let gateway = offramp_tests::binary("offramp-gateway")
        .display()
        .to_string();
    let accept = |password: &str| {
        let hash = lab
            .client()
            .sh(&format!("echo {password} | {gateway} hash"));
        std::fs::write(&users, format!("lab:{hash}")).expect("the lab's directory is ours");
    };
    accept("right");
    let _gateway = Gateway::start_with(&lab, &["--users", &users.display().to_string()]);
    let mut profile = Daemon::profile();
    profile["Payload"]["Servers"][0]["Authentication"] =
        json!({ "Method": "Password", "CredentialsAssetReference": "credential:login" });
    let mut daemon = Daemon::prepare(&lab);
    daemon.write("policies/managed/0.json", &profile.to_string());
    status_tells(&mut daemon, &["login"]);
    daemon.write("credentials/login", "lab:wrong\n");
    status_tells(&mut daemon, &["407"]);
    let works = |daemon: &Daemon<'_>| {
        let said = daemon.run(&["curl", "-sS", "http://203.0.113.11/"]);
        said.stdout.contains("peer=10.90.2.2:")
    };
    // Nobody restarts anything: the gateway learns the password, then the daemon another one.
    accept("wrong");
    wait_until("the gateway accepts it now", LIMIT * 2, || works(&daemon));
    accept("right");
    wait_until("the gateway does not accept it any more", LIMIT, || {
        !works(&daemon) && daemon.offramp(&["status"]).stdout.contains("407")
    });
    daemon.write("credentials/login", "lab:right\n");
    wait_until("the right password works", LIMIT, || works(&daemon));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn gateway_port_in_use() {
    let lab = Lab::new();
    let gateway = Gateway::start(&lab);
    let mut command = lab
        .proxy()
        .command(offramp_tests::binary("offramp-gateway"));
    command.args(["--listen", &GATEWAY.to_string()]);
    command
        .arg("--certificate")
        .arg(lab.directory().join("gateway.crt"));
    command
        .arg("--key")
        .arg(lab.directory().join("gateway.key"));
    let said = Running::start(command).finish(LIMIT);
    assert!(!said.status.success(), "{said}");
    assert!(said.to_string().contains(":443"), "{said}");
    drop(gateway);
}

/// Installs a profile into the daemon's directory.
fn install(daemon: &Daemon<'_>, file: &std::path::Path) -> Finished {
    let config = daemon.config("").display().to_string();
    daemon.offramp(&[
        "profile",
        "install",
        "--config",
        &config,
        &file.display().to_string(),
    ])
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn installing_and_removing() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start_with(&lab, &[]);
    let file = lab.directory().join("profile.json");
    let config = daemon.config("").display().to_string();
    let works = || daemon.run(&["curl", "-sS", "http://203.0.113.11/"]).stdout;
    let list = || daemon.offramp(&["profile", "list"]).success();
    assert!(!list().contains("test.lab"));
    std::fs::write(&file, "{").expect("the lab's directory is ours");
    assert_eq!(install(&daemon, &file).status.code(), Some(1));
    std::fs::write(&file, Daemon::profile().to_string()).expect("the lab's directory is ours");
    let shown = file.display().to_string();
    let line = ["profile", "install", "--config", &config, &shown];
    let program = offramp_tests::binary("offramp").display().to_string();
    let socket = daemon.socket().display().to_string();
    let nobody = [&[program.as_str(), "--socket", &socket], &line[..]].concat();
    assert_eq!(
        lab.client().run_as(User::Nobody, &nobody).status.code(),
        Some(2)
    );
    assert_eq!(install(&daemon, &file).status.code(), Some(0));
    wait_until("the profile is in force", LIMIT, || {
        works().contains("peer=10.90.2.2:")
    });
    assert!(list().contains("test.lab"));
    assert!(
        daemon
            .offramp(&["profile", "show", "test.lab"])
            .success()
            .contains("test.lab")
    );
    assert_eq!(install(&daemon, &file).status.code(), Some(3));
    let remove = daemon.offramp(&["profile", "remove", "--config", &config, "test.lab"]);
    assert_eq!(remove.status.code(), Some(0), "{remove}");
    wait_until("the profile is gone", LIMIT, || {
        !list().contains("test.lab")
    });
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_full_disk() {
    let lab = Lab::new();
    let daemon = Daemon::prepare(&lab);
    let managed = daemon.config("policies/managed").display().to_string();
    lab.client().sh(&format!(
        "mount -t tmpfs -o size=16k tmpfs {managed}
         dd if=/dev/zero of={managed}/.filler bs=1k count=64 2>/dev/null || true"
    ));
    let file = lab.directory().join("profile.json");
    std::fs::write(&file, Daemon::profile().to_string()).expect("the lab's directory is ours");
    let said = install(&daemon, &file);
    assert!(!said.status.success(), "{said}");
    assert!(said.to_string().contains("No space left"), "{said}");
    assert_eq!(
        lab.client().sh(&format!("ls {managed}")),
        "",
        "nothing is left half-written"
    );
}
