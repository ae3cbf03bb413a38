//! Rules that come, go and change while apps have flows: what changes its way is closed, at once,
//! and nothing else is.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{ChildStdin, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use offramp_tests::addresses::{CLIENT, CLIENT6, PROXY, PROXY6, target, target6};
use offramp_tests::{Daemon, Gateway, Lab, Running, binary, port, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// What each flow of a program said: the peer that the target saw, or what went wrong.
type Report = BTreeMap<String, String>;

/// The flows whose failure the kernel tells: TCP to somewhere else.
const TCP: [&str; 6] = ["tcp4", "tcp6", "duplicated", "thread", "child", "inherited"];
const UDP: [&str; 2] = ["udp", "udp connected"];

/// A program that holds flows of every sort, under a name of its own.
struct Holder {
    running: Running,
    input: ChildStdin,
    lines: usize,
}

impl Holder {
    /// Starts it, with all its flows to the `number`th targets.
    fn start(lab: &Lab, name: &str, number: u8) -> Self {
        let program = lab.directory().join(name);
        if !program.exists() {
            std::fs::copy(binary("offramp-probe"), &program).expect("the directory is ours");
        }
        let mut command = lab.client().command(&program);
        command.args([
            "hold".to_owned(),
            format!("{}:{}", target(number), port::BANNER),
            format!("[{}]:{}", target6(number.into()), port::BANNER),
            format!("{}:{}", target(number), port::ECHO),
        ]);
        command.stdin(Stdio::piped());
        let mut running = Running::start(command);
        let input = running.input();
        let lines = 0;
        Self {
            running,
            input,
            lines,
        }
    }

    /// Opens everything anew and says who was seen.
    fn open(&mut self) -> Report {
        self.ask("open")
    }

    /// Uses everything once and says what came of it; a failure stays what it was at first.
    fn used(&mut self) -> Report {
        self.ask("use")
    }

    fn ask(&mut self, what: &str) -> Report {
        writeln!(self.input, "{what}").expect("the holder waits for it");
        self.lines += 1;
        wait_until("the holder answers", LIMIT, || {
            let answered = self.running.said().matches('\n').count() == self.lines;
            assert!(answered || self.running.is_running(), "the holder is gone");
            answered
        });
        let said = self.running.said();
        let last = said.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said}"))
    }
}

/// Whether each flow is seen as coming from this machine, where the flow tells.
#[track_caller]
fn assert_from(report: &Report, four: impl ToString, six: impl ToString) {
    let (four, six) = (four.to_string(), six.to_string());
    for (label, said) in report {
        let expected = match label.as_str() {
            "inherited" | "loopback" => "works",
            "tcp6" => six.as_str(),
            _ => four.as_str(),
        };
        assert_eq!(said, expected, "{label} of {report:?}");
    }
}

#[track_caller]
fn assert_relayed(report: &Report) {
    assert_from(report, PROXY, PROXY6);
}

#[track_caller]
fn assert_direct(report: &Report) {
    assert_from(report, CLIENT, CLIENT6);
}

/// The lab's profile with these apps, and a name that tells when it is in force.
fn profile(name: &str, rules: &[&str]) -> Value {
    let mut profile = Daemon::profile();
    let rules = rules
        .iter()
        .map(|rule| json!({ "SigningIdentifier": rule }));
    profile["Payload"]["AppRules"] = rules.collect();
    profile["Payload"]["VisibleName"] = name.into();
    profile
}

/// Puts another profile into force.
fn change(daemon: &Daemon<'_>, profile: &Value) {
    daemon.write("policies/managed/0.json", &profile.to_string());
    wait_until("the profile is in force", LIMIT, || {
        let status = daemon.status();
        status["profiles"][0]["visible_name"] == profile["Payload"]["VisibleName"]
            && status["profiles"][0]["state"] == "connected"
    });
}

/// Uses the flows until the first one fails, then once more, so that all of it came after that.
fn used_when_closed(holder: &mut Holder) -> Report {
    wait_until("the flows are closed", LIMIT, || {
        TCP.iter().all(|label| {
            let said = &holder.used()[*label];
            !said.contains(['.', ':']) && said != "works"
        })
    });
    holder.used()
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_rule_starts() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start_with(&lab, &[profile("before", &[])]);
    let mut app = Holder::start(&lab, "app", 1);
    let mut neighbour = Holder::start(&lab, "neighbour", 2);
    assert_direct(&app.open());
    assert_direct(&neighbour.open());
    change(&daemon, &profile("after", &["exe:app"]));
    let ended = used_when_closed(&mut app);
    for label in TCP {
        assert_eq!(ended[label], "ConnectionAborted", "{label} of {ended:?}");
    }
    assert_eq!(ended["loopback"], "works", "{ended:?}");
    let wire = lab.capture_only(&format!("host {} or host {}", target(1), target6(1)));
    let used = app.used();
    let client = CLIENT.to_string();
    for label in UDP {
        assert_ne!(used[label], client, "{label} of {used:?}");
    }
    assert_relayed(&app.open());
    assert_relayed(&app.used());
    assert_direct(&neighbour.used());
    // Where a target still waited for an acknowledgement, the kernel tells it that nobody is there.
    wire.packets().assert_only(|packet| {
        packet.is_reset || packet.target.ip() == CLIENT || packet.target.ip() == CLIENT6
    });
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_rule_ends() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start_with(&lab, &[profile("before", &["exe:app", "exe:stays"])]);
    let mut app = Holder::start(&lab, "app", 1);
    let mut stays = Holder::start(&lab, "stays", 2);
    let mut neighbour = Holder::start(&lab, "neighbour", 3);
    assert_relayed(&app.open());
    assert_relayed(&stays.open());
    assert_direct(&neighbour.open());
    change(&daemon, &profile("after", &["exe:stays"]));
    let ended = used_when_closed(&mut app);
    assert_eq!(ended["loopback"], "works", "{ended:?}");
    assert_relayed(&stays.used());
    assert_direct(&neighbour.used());
    assert_direct(&app.open());
    assert_relayed(&stays.open());
    change(&daemon, &profile("again", &["exe:app", "exe:stays"]));
    used_when_closed(&mut app);
    assert_relayed(&app.open());
    assert_relayed(&stays.used());
}

/// The same apps by other rules, and another name: nobody notices.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_rule_changes_in_no_way_that_matters() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start_with(&lab, &[profile("before", &["exe:app"])]);
    let mut app = Holder::start(&lab, "app", 1);
    assert_relayed(&app.open());
    let path = format!("exe:{}", lab.directory().join("app").display());
    let mut rooted = profile("rooted", &["exe:app"]);
    rooted["Payload"]["AppRules"][0]["User"] = "root".into();
    let changes = [
        profile("renamed", &["exe:app"]),
        rooted,
        profile("more", &["exe:other", "exe:app", "exe:third-*"]),
        profile("by path", &[&path]),
    ];
    for changed in changes {
        change(&daemon, &changed);
        for _ in 0..3 {
            assert_relayed(&app.used());
        }
        assert_relayed(&app.open());
    }
}

/// A target is excluded: only the flows to it change their way.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_target_changes_its_way() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start_with(&lab, &[profile("before", &["exe:app"])]);
    let mut stays = Holder::start(&lab, "app", 1);
    let mut moves = Holder::start(&lab, "app", 2);
    assert_relayed(&stays.open());
    assert_relayed(&moves.open());
    let mut excluding = profile("excluding", &["exe:app"]);
    excluding["Payload"]["NetworkRouting"]["ExcludedRoutes"] =
        json!([format!("{}/32", target(2)), format!("{}/128", target6(2))]);
    change(&daemon, &excluding);
    used_when_closed(&mut moves);
    assert_relayed(&stays.used());
    assert_direct(&moves.open());
    change(&daemon, &profile("after", &["exe:app"]));
    used_when_closed(&mut moves);
    assert_relayed(&moves.open());
    assert_relayed(&stays.used());
}

/// Apps that started while the daemon was away are recognised when it is back, with their children.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn what_started_without_the_daemon() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let path = format!("exe:{}", lab.directory().join("app").display());
    let mut daemon = Daemon::start_with(&lab, &[profile("before", &[&path])]);
    std::fs::create_dir(lab.directory().join("elsewhere")).expect("the directory is ours");
    for _ in 0..3 {
        daemon.process().signal(Signal::SIGKILL);
        wait_until("the daemon is gone", LIMIT, || {
            !daemon.process().is_running()
        });
        let mut holders = ["app", "elsewhere/app", "neighbour"].map(|name| {
            let holder = Holder::start(&lab, name, 1);
            let program = lab.directory().join(name);
            let link = format!("/proc/{}/exe", holder.running.id());
            wait_until("the holder runs", LIMIT, || {
                std::fs::read_link(&link).is_ok_and(|found| found == program)
            });
            holder
        });
        daemon.start_again();
        let [app, like_it, neighbour] = &mut holders;
        assert_relayed(&app.open());
        assert_direct(&like_it.open());
        assert_direct(&neighbour.open());
    }
}
