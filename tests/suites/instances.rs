//! Programs that run once for each user, under `offramp run` while one runs outside.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use offramp_tests::{Daemon, Gateway, Lab, PROFILE, Person, Running, wait_until};
use serde_json::json;

const NOBODY: u32 = 65534;
const LIMIT: Duration = Duration::from_secs(60);

fn chromium(data: &Path) -> Vec<String> {
    let data = format!("--user-data-dir={}", data.display());
    let line = [
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
    ];
    let line = line.iter().chain(&["--disable-dev-shm-usage"]);
    let line = line.map(ToString::to_string);
    line.chain([data, "about:blank".into()]).collect()
}

/// A command of the person, which has the line behind it.
fn command(person: &Person<'_>, line: &[String]) -> Command {
    let mut command = person.command(&line[0]);
    command.args(&line[1..]);
    command
}

/// What `offramp run` says of a command that is started under the profile.
fn notices(daemon: &Daemon<'_>, person: &Person<'_>, line: &[&str]) -> String {
    let run = ["run", "--profile", PROFILE, "--"];
    let ended = person.offramp(daemon, &[&run[..], line].concat());
    let own = ended.stderr.lines();
    let own = own.filter(|line| line.starts_with("offramp: "));
    own.collect::<Vec<_>>().join("\n")
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_browser_that_runs_outside_is_told_and_one_under_a_rule_is_not() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut profile = Daemon::profile();
    let daemon = Daemon::start_with(&lab, &[profile.clone()]);
    let (nobody, root) = (Person::new(&lab, NOBODY), Person::new(&lab, 0));
    let data = nobody.directory("browser");
    let outside = Running::start(command(&nobody, &chromium(&data)));
    let lock = data.join("SingletonSocket");
    wait_until("the browser runs", LIMIT, || {
        lock.symlink_metadata().is_ok()
    });

    let again = ["chromium", "--version"];
    let said = notices(&daemon, &nobody, &again);
    let expected = format!(
        "offramp: chromium is already running outside (pid {}): it may take over what this \
         command opens; close it first, or cover it by a rule with \"SigningIdentifier\": \
         \"exe:/usr/lib/chromium/chromium\"",
        outside.id()
    );
    assert_eq!(said, expected);
    assert_eq!(notices(&daemon, &root, &again), "", "it is another user's");
    assert_eq!(notices(&daemon, &nobody, &["true"]), "");

    profile["Payload"]["AppRules"] =
        json!([{ "SigningIdentifier": "exe:/usr/lib/chromium/chromium" }]);
    let file = nobody.write("rule.json", &profile.to_string());
    let file = file.display().to_string();
    let config = daemon.config("").display().to_string();
    let install = ["profile", "install", "--config", &config, &file];
    daemon.offramp(&install).success();
    assert_eq!(notices(&daemon, &nobody, &again), "", "the rule covers it");
}
