//! `offramp explain`, `offramp apps`, `offramp off`.

use std::path::Path;
use std::process::{Command, Output};

use crate::fake::Fake;

fn offramp(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_offramp"))
        .env("OFFRAMP_SOCKET", socket)
        .args(arguments)
        .output()
        .unwrap()
}

const EXPLANATION: &str = r#"{"subject":"process 7","facts":[{"label":"user","value":"root (0)"}],
    "findings":[{"profile":"work","rule":"exe:curl","matches":false,"sentence":"other name"}],
    "decisions":[{"target":"a.example:443","way":"direct","verdict":"direct: no profile claims"}]}"#;

#[test]
fn every_way_to_ask_reaches_the_daemon() {
    for (arguments, expected) in [
        (&["7"][..], r#"{"subject":{"number":7},"target":null}"#),
        (&["pid:7"], r#"{"subject":{"process":7},"target":null}"#),
        (&["flow:7"], r#"{"subject":{"flow":7},"target":null}"#),
        (&["#7"], r#"{"subject":{"flow":7},"target":null}"#),
        (
            &["--target", "a.example:443"],
            r#"{"subject":null,"target":{"address":"a.example:443"}}"#,
        ),
        (
            &["7", "--target", "[::1]:80"],
            r#"{"subject":{"number":7},"target":{"address":"[::1]:80"}}"#,
        ),
        (
            &["--exe", "/bin/true", "--name", "a.example"],
            r#"{"subject":{"executable":"/bin/true"},"target":{"name":"a.example"}}"#,
        ),
    ] {
        let fake = Fake::start(vec![("200 OK".into(), EXPLANATION.into())]);
        let output = offramp(fake.socket(), &[&["explain"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert_eq!(fake.asked()[0].body, expected);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("process 7\n  user  root (0)\n"), "{text}");
        assert!(text.ends_with("=>  direct: no profile claims\n"), "{text}");
    }
}

#[test]
fn a_program_is_found_as_a_shell_finds_it() {
    let fake = Fake::start(vec![("200 OK".into(), EXPLANATION.into())]);
    let output = offramp(fake.socket(), &["explain", "--exe", "true", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let asked: serde_json::Value = serde_json::from_str(&fake.asked()[0].body).unwrap();
    let path = asked["subject"]["executable"].as_str().unwrap();
    assert!(path.starts_with('/') && path.ends_with("/true"), "{path}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["decisions"][0]["way"], "direct");
}

#[test]
fn a_question_that_is_none_is_64() {
    let nowhere = Path::new("/nonexistent/control.sock");
    for arguments in [
        &["explain"][..],
        &["explain", "--json"],
        &["explain", "curl"],
        &["explain", "pid:0"],
        &["explain", "flow:x"],
        &["explain", "7", "--exe", "/bin/true"],
        &["explain", "7", "--target", "a:1", "--name", "a"],
        &["explain", "--exe", "/nonexistent/program"],
    ] {
        let output = offramp(nowhere, arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {output:?}");
    }
    let output = offramp(nowhere, &["explain", "7"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
}

#[test]
fn what_another_user_has_is_not_there() {
    let body = r#"{"error":{"code":"not_found","message":"there is no process 7"}}"#;
    let fake = Fake::start(vec![("404 Not Found".into(), body.into())]);
    let output = offramp(fake.socket(), &["explain", "7"]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert_eq!(output.stderr, b"offramp: there is no process 7\n");
}

#[test]
fn apps_are_a_table_or_json() {
    let app = r#"{"pid":7,"uid":0,"program":"/usr/bin/curl","way":"relay","verdict":"relay through work",
        "claims":[{"profile":"work","rule":"exe:curl","by":"rule"}],"class":2}"#;
    for (body, expected) in [
        (format!("[{app}]"), "/usr/bin/curl  0     7    1          2"),
        ("[]".into(), "No running app is under a profile.\n"),
    ] {
        let fake = Fake::start(vec![("200 OK".into(), body.clone()); 2]);
        let output = offramp(fake.socket(), &["apps"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(expected), "{text}");
        let output = offramp(fake.socket(), &["apps", "--json"]);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
    }
}

#[test]
fn a_profile_is_switched_by_its_name_alone() {
    for arguments in [&["off", "work"][..], &["off", "--profile", "work"]] {
        let answer = r#"{"changed":["work"]}"#;
        let fake = Fake::start(vec![("200 OK".into(), answer.into())]);
        let output = offramp(fake.socket(), arguments);
        assert_eq!(output.stdout, b"work is off.\n", "{output:?}");
        assert_eq!(fake.asked()[0].body, r#"{"profile":"work","on":false}"#);
    }
    let nowhere = Path::new("/nonexistent/control.sock");
    let output = offramp(nowhere, &["on", "work", "--profile", "home"]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}
