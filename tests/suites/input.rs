//! Bad input: each is answered with what is wrong and where, and nothing has changed.

use std::time::{Duration, Instant};

use offramp_tests::addresses::GATEWAY;
use offramp_tests::{
    Authority, Daemon, Finished, Gateway, Lab, PROFILE, Running, User, wait_until,
};
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
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn two_files_with_one_identifier() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    daemon.write("policies/managed/1.json", &Daemon::profile().to_string());
    // The later file is in force; the other one is named as the one that is not.
    wait_until("the status tells of it", LIMIT, || {
        let status = daemon.offramp(&["status"]).to_string();
        status.contains("0.json") && status.contains("1.json") && status.contains(PROFILE)
    });
    let problems = daemon.status()["problems"].clone();
    assert_eq!(problems.as_array().map(Vec::len), Some(1), "{problems}");
    let problem = &problems[0];
    assert_eq!(problem["key"], "Identifier", "{problem}");
    assert!(
        problem["line"].as_u64() == Some(1) && problem["column"].as_u64().is_some(),
        "{problem}"
    );
    let said = daemon
        .run(&["curl", "-sS", "http://203.0.113.11/"])
        .success();
    assert!(said.contains("peer=10.90.2.2:"), "{said}");
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
