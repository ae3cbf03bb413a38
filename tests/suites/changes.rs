//! Changes while flows run: other profiles, other servers, off and on.

use std::fs::File;
use std::time::Duration;

use nix::sys::signal::Signal;
use offramp_tests::addresses::{GATEWAY, PROXY};
use offramp_tests::{Daemon, Gateway, Held, Lab, PROFILE, User, wait_until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);
const ECHO: &str = "203.0.113.10:7";
const OTHER_PORT: u16 = 8443;

/// The lab's profile with the other gateway.
fn moved() -> Value {
    let mut profile = Daemon::profile();
    let server = &mut profile["Payload"]["Servers"][0];
    server["Name"] = "moved".into();
    server["URL"] = format!("https://{PROXY}:{OTHER_PORT}").into();
    profile
}

/// A profile as text of one length, whatever is in it.
fn padded(profile: &Value) -> String {
    format!("{:<4000}", profile.to_string())
}

/// The upstreams of the live flows.
fn upstreams(daemon: &Daemon<'_>) -> Vec<String> {
    let flows = daemon.offramp(&["flows", "--json"]).success();
    let flows: Value = serde_json::from_str(&flows).expect("JSON was asked for");
    let mut names: Vec<_> = flows
        .as_array()
        .into_iter()
        .flatten()
        .map(|flow| flow["upstream"].as_str().unwrap_or_default().to_owned())
        .collect();
    names.sort();
    names
}

/// The server that is in use.
fn server(daemon: &Daemon<'_>) -> String {
    let status = daemon.status();
    let profile = &status["profiles"][0];
    match profile["state"].as_str() {
        Some("connected") => profile["server"].as_str().unwrap_or_default().to_owned(),
        _ => String::new(),
    }
}

/// Replaces the profile by one with another server, and sees that the flow that runs stays where
/// it is while new ones take the new server.
fn move_by(change: impl Fn(&mut Daemon<'_>)) {
    let lab = Lab::new();
    let mut gateway = Gateway::start(&lab);
    let _other = gateway.another(&lab, OTHER_PORT);
    let mut daemon = Daemon::prepare(&lab);
    daemon.write("policies/managed/0.json", &padded(&Daemon::profile()));
    daemon.start_again();
    let old = Held::open(&daemon, ECHO);
    change(&mut daemon);
    wait_until("the new server is in use", LIMIT, || {
        server(&daemon) == "moved"
    });
    let capture = lab.capture();
    let new = Held::open(&daemon, ECHO);
    let packets = capture.packets();
    packets.assert_some_with((PROXY, OTHER_PORT).into());
    packets.assert_only(|packet| {
        packet.is_with((PROXY, OTHER_PORT).into()) || packet.is_with(GATEWAY)
    });
    assert_eq!(upstreams(&daemon), ["gateway", "moved"]);
    assert!(old.works(), "the flow from before the change");
    gateway.stop();
    assert!(new.works(), "the flow from after the change");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_changed_file() {
    move_by(|daemon| daemon.write("policies/managed/0.json", &padded(&moved())));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_signal() {
    move_by(|daemon| {
        // Neither length nor time of the file tell of the change: only the signal does.
        let path = daemon.config("policies/managed/0.json");
        let time = std::fs::metadata(&path).and_then(|file| file.modified());
        let fresh = daemon.config("fresh");
        daemon.write("fresh", &padded(&moved()));
        File::options()
            .write(true)
            .open(&fresh)
            .and_then(|file| file.set_modified(time.expect("the file is there")))
            .expect("root may do this");
        std::fs::rename(fresh, path).expect("the directory is ours");
        daemon.process().signal(Signal::SIGHUP);
    });
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn off_and_on() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let curl = ["curl", "-sS", "--max-time", "10", "http://203.0.113.11/"];
    let held = Held::open(&daemon, ECHO);
    let program = offramp_tests::binary("offramp").display().to_string();
    let socket = daemon.socket().display().to_string();
    let nobody = [&program, "--socket", &socket, "off", "--profile", PROFILE];
    lab.client().run_as(User::Nobody, &nobody).failure();
    assert!(daemon.run(&curl).success().contains("peer=10.90.2.2:"));

    let said = daemon.offramp(&["off", "--profile", PROFILE]).success();
    assert!(said.contains(&format!("{PROFILE} is off")), "{said}");
    let capture = lab.capture();
    assert!(!held.works(), "a flow that ran when it was switched off");
    assert_refused(&daemon, &curl);
    let direct = lab.client().run(&curl).success();
    assert!(direct.contains("peer=10.90.1.2:"), "{direct}");
    capture.packets().assert_only(|packet| {
        packet.is_with(GATEWAY) || packet.is_with(([203, 0, 113, 11], 80).into())
    });
    assert_eq!(daemon.status()["profiles"][0]["on"], false);
    let again = daemon.offramp(&["off", "--profile", PROFILE]).success();
    assert!(again.contains("Nothing changed"), "{again}");

    daemon.start_unconnected();
    assert_refused(&daemon, &curl);
    daemon.offramp(&["on"]).success();
    wait_until("it is on again", LIMIT, || {
        daemon.run(&curl).stdout.contains("peer=10.90.2.2:")
    });
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_removed_profile() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let held = Held::open(&daemon, ECHO);
    let config = daemon.config("").display().to_string();
    let remove = ["profile", "remove", "--config", &config, PROFILE];
    daemon.offramp(&remove).success();
    assert!(!held.works(), "a flow of a profile that is gone");
}

#[track_caller]
fn assert_refused(daemon: &Daemon<'_>, curl: &[&str]) {
    let said = daemon.run(curl);
    // 7 is curl's status for a connection that was refused.
    assert_eq!(said.status.code(), Some(7), "{said}");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_switch_that_cannot_be_kept() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let state = daemon.directory().join("state").display().to_string();
    let held = Held::open(&daemon, ECHO);
    lab.client()
        .sh(&format!("mount -t tmpfs -o ro tmpfs {state}"));
    let said = daemon.offramp(&["off", "--profile", PROFILE]);
    assert!(!said.status.success(), "{said}");
    assert!(said.stderr.contains(&state), "{said}");
    assert!(held.works(), "a flow was cut by what did not happen");
    let curl = ["curl", "-sS", "http://203.0.113.11/"];
    assert!(daemon.run(&curl).success().contains("peer=10.90.2.2:"));
    lab.client().sh(&format!("umount {state}"));
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn direct_while_no_server_answers() {
    let lab = Lab::new();
    let mut gateway = Gateway::start(&lab);
    let mut profile = Daemon::profile();
    profile["Payload"]["UnavailableAction"] = "Direct".into();
    let daemon = Daemon::start_with(&lab, &[profile]);
    let peer = |url| {
        let said = daemon.run(&["curl", "-sS", "-4", "--max-time", "10", url]);
        said.stdout
    };
    let urls = ["http://203.0.113.11/", "http://v4.test/"];
    for url in urls {
        assert!(peer(url).contains("peer=10.90.2.2:"), "{url}");
    }
    gateway.stop();
    for url in urls {
        wait_until("it goes out directly", LIMIT, || {
            peer(url).contains("peer=10.90.1.2:")
        });
    }
    gateway.start_again(&lab);
    for url in urls {
        wait_until("it is relayed again", LIMIT, || {
            peer(url).contains("peer=10.90.2.2:")
        });
    }
}
