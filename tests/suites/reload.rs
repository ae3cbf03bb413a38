//! Many profiles with many rules, changed under load: nothing is lost that should stay.

use std::io::Write;
use std::path::PathBuf;
use std::process::{ChildStdin, Stdio};
use std::time::{Duration, Instant};

use offramp_tests::addresses::target;
use offramp_tests::{
    Daemon, Gateway, Lab, Person, Running, Visit, Way, copy_probe, port, wait_until,
};
use serde_json::{Value, json};

const PROFILES: usize = 200;
const RULES: usize = 25;
/// Flows that are open all the time, managed and unmanaged each.
const HELD: usize = 500;
/// Flows that come and go around each change, managed and unmanaged each.
const SHORT: usize = 3_000;
/// How often a rule is changed.
const CHANGES: usize = 6;
const LIMIT: Duration = Duration::from_secs(300);
/// The profile that is changed, and the one whose apps must not notice.
const CHANGED: usize = 150;
const STAYS: usize = 7;

/// A profile with rules of every kind; its first rule names `app`.
fn profile(number: usize, app: &str, name: &str) -> Value {
    let mut rules = vec![json!({ "SigningIdentifier": format!("exe:{app}") })];
    for rule in 1..RULES {
        let id = format!("{number}-{rule}");
        rules.push(match rule % 6 {
            0 => json!({ "SigningIdentifier": format!("exe:/opt/app-{id}/bin/app-{id}") }),
            1 => {
                json!({ "SigningIdentifier": format!("exe:/opt/*/app-{id}"), "User": "1000-1999" })
            }
            2 => json!({ "SigningIdentifier": format!("unit:app-{id}.service") }),
            3 => json!({ "SigningIdentifier": format!("flatpak:org.app{number}.App{rule}") }),
            4 => json!({ "SigningIdentifier": format!("exe:app-{id}"),
                         "DesignatedRequirement": "owner = \"root\"" }),
            _ => json!({ "SigningIdentifier": format!("exe:app-{id}"),
                         "MatchDomains": [format!("app{number}.test")] }),
        });
    }
    let mut profile = Daemon::profile();
    profile["Identifier"] = format!("test.p{number:03}").into();
    profile["Payload"]["VisibleName"] = name.into();
    profile["Payload"]["AppRules"] = rules.into();
    profile
}

/// Resident memory of a process, in MiB.
fn memory(process: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    kib.expect("a process has memory") / 1024
}

/// Flows of one program: some that stay open, and many that come and go.
struct Load {
    program: PathBuf,
    held: Running,
    input: ChildStdin,
}

/// Every target of the load; no other program reaches them.
fn targets() -> impl Iterator<Item = String> {
    (1..=8).map(|number| format!("{}:{}", target(number), port::ECHO))
}

impl Load {
    fn start(lab: &Lab, name: &str) -> Self {
        let program = copy_probe(lab, name);
        let mut command = lab.client().command(&program);
        command.args(["open", &HELD.to_string()]).args(targets());
        command.stdin(Stdio::piped());
        let mut held = Running::start(command);
        let input = held.input();
        wait_until("the flows are open", LIMIT, || {
            held.said().contains('\n') || !held.is_running()
        });
        assert_eq!(held.said(), format!("open {HELD} {{}}\n"), "{name}");
        Self {
            program,
            held,
            input,
        }
    }

    fn come_and_go(&self, lab: &Lab) -> Running {
        let mut command = lab.client().command(&self.program);
        command.args(["short", &SHORT.to_string()]).args(targets());
        Running::start(command)
    }

    #[track_caller]
    fn assert_unharmed(mut self) {
        self.input
            .write_all(b"go\n")
            .expect("the probe waits for it");
        let held = self.held.finish(LIMIT).success();
        let all = format!("working {HELD} {{}}");
        assert!(held.contains(&all), "{}: {held}", self.program.display());
    }
}

fn status_of(daemon: &Daemon<'_>, number: usize) -> Value {
    let identifier = format!("test.p{number:03}");
    let status = daemon.status();
    let mut profiles = status["profiles"].as_array().into_iter().flatten();
    let found = profiles.find(|profile| profile["identifier"] == identifier);
    found.cloned().unwrap_or_default()
}

fn way(lab: &Lab, daemon: &Daemon<'_>, name: &str) -> Way {
    let command = Person::new(lab, 0).command(copy_probe(lab, name));
    let target = format!("{}:{}", target(9), port::ECHO);
    Visit::to(lab, daemon, command, &target).way
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn one_rule_of_five_thousand() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::prepare(&lab);
    let app = |number: usize| match number {
        STAYS => "stays".to_owned(),
        CHANGED => "one".to_owned(),
        other => format!("app-{other}"),
    };
    for number in 0..PROFILES {
        let text = profile(number, &app(number), "before").to_string();
        daemon.write(&format!("policies/managed/{number:03}.json"), &text);
    }
    let start = Instant::now();
    daemon.start_again();
    let id = daemon.process().id();
    println!(
        "started after {:?} with {} MiB",
        start.elapsed(),
        memory(id)
    );
    wait_until("the profiles are connected", LIMIT, || {
        [STAYS, CHANGED]
            .iter()
            .all(|number| status_of(&daemon, *number)["state"] == "connected")
    });
    let relayed = Way::Relayed(format!("test.p{CHANGED:03}"));
    assert_eq!(way(&lab, &daemon, "one"), relayed);
    assert_eq!(way(&lab, &daemon, "two"), Way::Direct);

    let managed = Load::start(&lab, "stays");
    let unmanaged = Load::start(&lab, "plain");
    let before = memory(id);
    for change in 0..CHANGES {
        let (named, other) = [("two", "one"), ("one", "two")][change % 2];
        let name = format!("change {change}");
        let text = profile(CHANGED, named, &name).to_string();
        let short = [&managed, &unmanaged].map(|load| load.come_and_go(&lab));
        let start = Instant::now();
        daemon.write(&format!("policies/managed/{CHANGED:03}.json"), &text);
        wait_until("the change is in force", LIMIT, || {
            let status = status_of(&daemon, CHANGED);
            status["visible_name"] == *name && status["state"] == "connected"
        });
        println!("{name}: in force after {:?}", start.elapsed());
        for _ in 0..3 {
            assert_eq!(way(&lab, &daemon, named), relayed, "{name}");
            assert_eq!(way(&lab, &daemon, other), Way::Direct, "{name}");
        }
        for short in short {
            let said = short.finish(LIMIT).success();
            assert_eq!(said, format!("done {SHORT} {{}}\n"), "{name}");
        }
    }
    let after = memory(id);
    println!("{before} MiB under load, {after} MiB after {CHANGES} changes");
    managed.assert_unharmed();
    unmanaged.assert_unharmed();
    assert!(after < 1024, "{after} MiB");
}
