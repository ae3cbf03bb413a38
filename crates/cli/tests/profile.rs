//! `offramp profile` on files, without a daemon.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const BAD: &str = "{\n  \"Type\": \"x\",\n  \"Nonsense\": 1\n}\n";

fn offramp(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_offramp"))
        .env("OFFRAMP_SOCKET", "/nonexistent/control.sock")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn example() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules/examples");
    std::fs::read_to_string(folder.join("minimal.json")).unwrap()
}

#[test]
fn check_tells_every_problem_with_its_place() {
    let output = offramp(&["profile", "check", "-"], BAD);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("<stdin>:2:"), "{text}");
    assert!(text.contains("<stdin>:3:"), "{text}");

    let output = offramp(
        &["profile", "check", "--json", "-", "/nonexistent.json"],
        &example(),
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report[0]["valid"], true, "{report}");
    assert_eq!(report[1]["valid"], false, "{report}");
    assert_eq!(report[1]["problems"][0]["file"], "/nonexistent.json");
}

#[test]
fn install_and_remove_say_what_they_did() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().to_str().unwrap();
    let install = ["profile", "install", "--config", config, "--json", "-"];
    for (status, outcome) in [(0, "installed"), (3, "unchanged")] {
        let output = offramp(&install, &example());
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["outcome"], outcome);
    }
    let output = offramp(&install, BAD);
    assert_eq!(output.status.code(), Some(1), "{output:?}");

    let policies = folder.path().join("policies/managed");
    let file = std::fs::read_dir(&policies)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let identifier = file.file_stem().unwrap().to_str().unwrap().to_owned();
    let remove = ["profile", "remove", "--config", config, &identifier];
    for status in [0, 3] {
        let output = offramp(&remove, "");
        assert_eq!(output.status.code(), Some(status), "{output:?}");
    }
    assert!(!file.exists());
}
