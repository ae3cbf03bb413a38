//! `offramp profile` for a user's own profiles.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::fake::Fake;

const ANSWER: &str = r#"{"changed":true,"profiles":["com.example.minimal"]}"#;
const SAME: &str = r#"{"changed":false,"profiles":["com.example.minimal"]}"#;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn profile(&self, socket: &Path, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_offramp"))
            .env("OFFRAMP_SOCKET", socket)
            .env("HOME", self.0.path())
            .env_remove("XDG_CONFIG_HOME")
            .arg("profile")
            .args(arguments)
            .output()
            .unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(".config/offramp").join(name)
    }

    fn put(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules/examples/minimal.json")
}

fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8(both).unwrap()
}

#[test]
fn install_writes_the_file_and_sends_the_whole_folder() {
    let home = Home::new();
    home.put("credentials/gateway", "alice:secret", 0o600);
    let answers = [ANSWER, SAME, ANSWER].map(|answer| ("200 OK".into(), answer.into()));
    let fake = Fake::start(answers.into());
    let file = example();
    let install = ["install", "--user", file.to_str().unwrap()];
    for (status, word) in [(0, "Installed as "), (3, "Nothing changed: ")] {
        let output = home.profile(fake.socket(), &install);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(said(&output).starts_with(word), "{output:?}");
        assert!(said(&output).contains("in force: com.example.minimal"));
        let sent: serde_json::Value = serde_json::from_str(&fake.asked()[0].body).unwrap();
        assert_eq!(sent["policies"][0]["name"], "com.example.minimal.json");
        assert_eq!(sent["credentials"][0]["name"], "gateway");
        assert_eq!(sent["credentials"][0]["content"], "YWxpY2U6c2VjcmV0");
    }
    let kept = home.path("policies/com.example.minimal.json");
    assert_eq!(
        std::fs::read(&kept).unwrap(),
        std::fs::read(example()).unwrap()
    );
    let mode = std::fs::metadata(&kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let remove = ["remove", "--user", "com.example.minimal"];
    let output = home.profile(fake.socket(), &remove);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let sent: serde_json::Value = serde_json::from_str(&fake.asked()[0].body).unwrap();
    assert_eq!(sent["policies"], serde_json::json!([]));
    assert!(!kept.exists());
    let output = home.profile(fake.socket(), &remove);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn without_a_daemon_the_file_is_kept_and_the_status_tells() {
    let home = Home::new();
    let nowhere = Path::new("/nonexistent/control.sock");
    let file = example();
    for arguments in [
        &["install", "--user", file.to_str().unwrap()][..],
        &["sync"],
    ] {
        let output = home.profile(nowhere, arguments);
        assert_eq!(output.status.code(), Some(69), "{output:?}");
        assert!(said(&output).contains("offramp profile sync"), "{output:?}");
    }
    assert!(home.path("policies/com.example.minimal.json").exists());
}

#[test]
fn what_others_may_read_or_change_is_not_sent() {
    let home = Home::new();
    home.put("policies/a.json", "{}", 0o666);
    home.put("credentials/gateway", "alice:secret", 0o644);
    let nowhere = Path::new("/nonexistent/control.sock");
    let output = home.profile(nowhere, &["sync"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = said(&output);
    assert!(
        said.contains("a.json: error: others may change it"),
        "{said}"
    );
    assert!(
        said.contains("gateway: error: others may read it (its mode is 644) (chmod 600 it)"),
        "{said}"
    );
}

#[test]
fn every_problem_that_the_daemon_finds_is_told() {
    let home = Home::new();
    home.put("policies/a.json", "{}", 0o600);
    let body = r#"{"error":{"code":"invalid","message":"bad","problems":[
        {"severity":"error","file":"a.json","line":1,"column":1,"key":"Type","message":"is missing"},
        {"severity":"error","file":"a.json","line":1,"column":1,"message":"is sad"}]}}"#;
    let fake = Fake::start(vec![("422 Bad".into(), body.into())]);
    let output = home.profile(fake.socket(), &["sync"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = said(&output);
    assert!(
        said.starts_with("a.json:1:1: error: Type: is missing\n"),
        "{said}"
    );
    assert!(said.contains("a.json:1:1: error: is sad\n"), "{said}");
}

#[test]
fn a_bad_profile_does_not_reach_the_folder() {
    let home = Home::new();
    let bad = home.0.path().join("bad.json");
    std::fs::write(&bad, "{\n  \"Nonsense\": 1\n}\n").unwrap();
    let nowhere = Path::new("/nonexistent/control.sock");
    let output = home.profile(nowhere, &["install", "--user", bad.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said(&output).contains("bad.json:2:"), "{output:?}");
    assert!(!home.path("policies").exists());
}

#[test]
fn a_profile_that_the_daemon_does_not_have_is_listed() {
    let home = Home::new();
    let text = std::fs::read_to_string(example()).unwrap();
    home.put("policies/any-name.json", &text, 0o600);
    home.put(
        "policies/other.json",
        &text.replace("minimal", "other"),
        0o600,
    );
    home.put("policies/broken.json", "{", 0o600);
    let list = format!(
        r#"[{{"identifier":"com.example.minimal~{}","layer":"user","enabled":true,"on":true,
        "state":"connected"}}]"#,
        nix::unistd::geteuid()
    );
    let fake = Fake::start(vec![("200 OK".into(), list)]);
    let output = home.profile(fake.socket(), &["list"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("your profile com.example.other is not in force"),
        "{said}"
    );
    assert!(said.contains("broken.json is not in force"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn an_overlay_is_kept_beside_profiles() {
    let home = Home::new();
    let overlay = home.0.path().join("mine.json");
    let text = r#"{"Type":"org.offramp.overlay","Identifier":"com.example.work",
        "Payload":{"ExcludedDomains":["home.example"]}}"#;
    std::fs::write(&overlay, text).unwrap();
    let refused = r#"{"changed":true,"profiles":[],"problems":[{"severity":"error",
        "code":"Error.ConfigurationIsInvalid","file":"x","message":"cannot be changed by users"}]}"#;
    let answers = [r#"{"changed":true}"#, refused, ANSWER];
    let fake = Fake::start(
        answers
            .map(|answer| ("200 OK".into(), answer.into()))
            .into(),
    );
    let path = overlay.to_str().unwrap();
    let check = home.profile(fake.socket(), &["check", "--user", path]);
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    let output = home.profile(fake.socket(), &["install", "--user", path]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let kept = home.path("policies/com.example.work.overlay.json");
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), text);
    let output = home.profile(fake.socket(), &["install", "--user", path]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said(&output).contains("cannot be changed by users"));
    let output = home.profile(fake.socket(), &["remove", "--user", "com.example.work"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!kept.exists());
}

#[test]
fn check_tells_what_a_person_should_know() {
    let home = Home::new();
    let text = std::fs::read_to_string(example()).unwrap();
    let rules = r#""AppRules": [{ "SigningIdentifier": "exe:*" }], "Servers""#;
    let file = home.0.path().join("any.json");
    std::fs::write(&file, text.replace("\"Servers\"", rules)).unwrap();
    let nowhere = Path::new("/nonexistent/control.sock");
    let output = home.profile(nowhere, &["check", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        said(&output).contains(": ok: com.example.minimal\nwarning: "),
        "{output:?}"
    );
}

#[test]
fn the_two_places_are_not_mixed() {
    let home = Home::new();
    let nowhere = Path::new("/nonexistent/control.sock");
    for arguments in [
        &["install", "--user", "--layer", "managed", "x.json"][..],
        &["install", "--user", "--config", "/tmp", "x.json"],
        &["remove", "--user", "--config", "/tmp", "x"],
    ] {
        let output = home.profile(nowhere, arguments);
        assert_eq!(output.status.code(), Some(64), "{output:?}");
    }
}
