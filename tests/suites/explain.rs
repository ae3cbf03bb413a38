//! What `offramp explain` and `offramp apps` say, against what happens.

use offramp_tests::addresses::target;
use offramp_tests::{
    Daemon, Finished, Gateway, Lab, PROFILE, Person, Visit, Way, copy_probe, port,
};
use serde_json::{Value, json};

const NOBODY: u32 = 65534;

/// What the daemon has to tell.
struct Told<'lab> {
    lab: &'lab Lab,
    daemon: Daemon<'lab>,
    root: Person<'lab>,
    nobody: Person<'lab>,
}

fn told(lab: &Lab) -> Told<'_> {
    let rules = json!([
        { "SigningIdentifier": "exe:app" },
        { "SigningIdentifier": "exe:nobodys", "User": "nobody" },
        { "SigningIdentifier": "exe:shell", "MatchTools": [{ "SigningIdentifier": "exe:tool" }] }
    ]);
    let mut profile = Daemon::profile();
    profile["Payload"]["AppRules"] = rules;
    Told {
        lab,
        daemon: Daemon::start_with(lab, &[profile]),
        root: Person::new(lab, 0),
        nobody: Person::new(lab, NOBODY),
    }
}

impl Told<'_> {
    fn visit(&self, person: &Person<'_>, name: &str, to: &str) -> Visit {
        let command = person.command(copy_probe(self.lab, name));
        Visit::to(self.lab, &self.daemon, command, to)
    }

    fn ask(&self, person: &Person<'_>, arguments: &[&str]) -> Finished {
        person.offramp(&self.daemon, arguments)
    }

    /// What root is told, as JSON.
    #[track_caller]
    fn explain(&self, arguments: &[&str]) -> Value {
        let said = self.ask(&self.root, &[&["explain", "--json"], arguments].concat());
        let said = said.success();
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    #[track_caller]
    fn apps(&self, person: &Person<'_>) -> Vec<Value> {
        let said = self.ask(person, &["apps", "--json"]).success();
        let apps: Value = serde_json::from_str(&said).expect("JSON was asked for");
        apps.as_array().cloned().expect("a list")
    }

    fn program(&self, name: &str) -> String {
        copy_probe(self.lab, name).display().to_string()
    }
}

fn echo(number: u8) -> String {
    format!("{}:{}", target(number), port::ECHO)
}

/// What happens to the one flow that was asked about.
#[track_caller]
fn way(explanation: &Value) -> &str {
    let decisions = explanation["decisions"].as_array().expect("a list");
    assert_eq!(decisions.len(), 1, "{explanation:#}");
    decisions[0]["way"].as_str().expect("a word")
}

/// The rules that claim the app, and those that do not, each with a sentence.
fn rules(explanation: &Value, matches: bool) -> Vec<&str> {
    let findings = explanation["findings"].as_array().into_iter().flatten();
    let chosen = findings.filter(|finding| finding["matches"] == matches);
    chosen
        .inspect(|finding| assert!(finding["sentence"].as_str().is_some_and(|s| s.len() > 5)))
        .filter_map(|finding| finding["rule"].as_str())
        .collect()
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_process_and_its_flow() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let told = told(&lab);
    let app = told.visit(&told.root, "app", &echo(1));
    assert_eq!(app.way, Way::Relayed(PROFILE.to_owned()));
    let pid = app.running.id().to_string();
    let explanation = told.explain(&[&pid]);
    assert_eq!(way(&explanation), "relay", "{explanation:#}");
    assert_eq!(rules(&explanation, true), ["exe:app"], "{explanation:#}");
    assert!(
        rules(&explanation, false).contains(&"exe:nobodys"),
        "{explanation:#}"
    );
    assert_eq!(explanation["kernel"]["agrees"], true, "{explanation:#}");
    assert!(explanation["kernel"]["class"].is_u64(), "{explanation:#}");
    let excluded = told.explain(&[&pid, "--target", "203.0.113.12:80"]);
    assert_eq!(way(&excluded), "direct", "{excluded:#}");
    let name = told.explain(&[&pid, "--target", "www.excluded.test:443"]);
    assert_eq!(way(&name), "direct", "{name:#}");

    let flows = told.ask(&told.root, &["flows", "--json"]).success();
    let flows: Value = serde_json::from_str(&flows).expect("JSON was asked for");
    let flow = &flows.as_array().expect("a list")[0];
    assert_eq!(flow["app"]["pid"].to_string(), pid, "{flow:#}");
    let text = told.ask(&told.root, &["explain", &pid]).success();
    assert!(text.contains("exe:app") && text.contains(PROFILE), "{text}");

    let plain = told.visit(&told.root, "plain", &echo(1));
    assert_eq!(plain.way, Way::Direct);
    let explanation = told.explain(&[&plain.running.id().to_string()]);
    assert_eq!(way(&explanation), "direct", "{explanation:#}");
    assert!(rules(&explanation, true).is_empty(), "{explanation:#}");
    assert_eq!(
        explanation["kernel"]["class"],
        Value::Null,
        "{explanation:#}"
    );
    assert_eq!(explanation["kernel"]["agrees"], true, "{explanation:#}");
}

/// What is said of a program before it runs is what happens when it does.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_program_that_does_not_run() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let told = told(&lab);
    let targets = [echo(1), echo(12)];
    for name in ["app", "nobodys", "plain", "shell", "tool"] {
        for target in &targets {
            for person in [&told.root, &told.nobody] {
                let program = told.program(name);
                let line = ["explain", "--json", "--exe", &program, "--target", target];
                let said = told.ask(person, &line).success();
                let said: Value = serde_json::from_str(&said).expect("JSON was asked for");
                let expected = match told.visit(person, name, target).way {
                    Way::Direct => "direct",
                    Way::Relayed(_) => "relay",
                    Way::Refused => "refused",
                };
                assert_eq!(
                    way(&said),
                    expected,
                    "{name} to {target} of {}: {said:#}",
                    person.id
                );
            }
        }
    }
    let missing = told.ask(&told.root, &["explain", "--exe", "/nowhere/at/all"]);
    missing.failure();
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_target_alone() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let told = told(&lab);
    for (target, expected) in [
        ("203.0.113.10:443", "relay"),
        ("203.0.113.12:443", "direct"),
        ("origin.test:443", "relay"),
        ("excluded.test:443", "direct"),
        ("[2001:db8::10]:443", "relay"),
    ] {
        let said = told.explain(&["--target", target]);
        assert_eq!(way(&said), expected, "{target}: {said:#}");
        assert_eq!(said["decisions"][0]["profile"], PROFILE, "{said:#}");
    }
    told.ask(&told.root, &["explain", "--target", "no port"])
        .failure();
    told.ask(&told.root, &["explain"]).failure();
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_flow() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let told = told(&lab);
    let app = told.visit(&told.root, "app", &echo(1));
    let flows = told.ask(&told.root, &["flows", "--json"]).success();
    let flows: Value = serde_json::from_str(&flows).expect("JSON was asked for");
    let flow = &flows.as_array().expect("a list")[0];
    assert_eq!(flow["app"]["pid"], app.running.id());
    let explanation = told.explain(&[&format!("flow:{}", flow["id"])]);
    assert_eq!(way(&explanation), "relay", "{explanation:#}");
    assert_eq!(rules(&explanation, true), ["exe:app"], "{explanation:#}");
    told.ask(&told.root, &["explain", "flow:999999"]).failure();
    told.ask(&told.nobody, &["explain", &format!("flow:{}", flow["id"])])
        .failure();
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn running_apps_and_whose_they_are() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let told = told(&lab);
    let of_root = told.visit(&told.root, "app", &echo(1));
    let of_nobody = told.visit(&told.nobody, "nobodys", &echo(1));
    let plain = told.visit(&told.nobody, "plain", &echo(1));
    let pids = |apps: &[Value]| -> Vec<i64> {
        apps.iter().filter_map(|app| app["pid"].as_i64()).collect()
    };
    let (one, other) = (of_root.running.id().into(), of_nobody.running.id().into());
    let all = told.apps(&told.root);
    let seen = pids(&all);
    assert!(seen.contains(&one) && seen.contains(&other), "{all:#?}");
    assert!(!seen.contains(&i64::from(plain.running.id())), "{all:#?}");
    let found = all.iter().find(|app| app["pid"] == one).expect("just seen");
    assert_eq!(found["claims"][0]["rule"], "exe:app", "{found:#}");
    assert_eq!(found["way"], "relay", "{found:#}");
    assert_eq!(found["program"], told.program("app"), "{found:#}");

    let own = told.apps(&told.nobody);
    assert_eq!(pids(&own), [other], "{own:#?}");
    let foreign = told.ask(&told.nobody, &["explain", &one.to_string()]);
    let unknown = told.ask(&told.nobody, &["explain", "4194303"]);
    assert_eq!(foreign.status, unknown.status, "{foreign}\n{unknown}");
    let told_of = |said: Finished| said.failure().replace(|c: char| c.is_ascii_digit(), "");
    assert_eq!(told_of(foreign), told_of(unknown));
    let mine = told
        .ask(&told.nobody, &["explain", &other.to_string()])
        .success();
    assert!(mine.contains("exe:nobodys"), "{mine}");
}
