//! `offramp run`.

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

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

const LABELLED: &str = r#"{"profile":"work","label":7,"notices":[]}"#;

#[test]
fn a_command_that_cannot_be_started_is_told_as_a_shell_does() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "x").unwrap();
    let plain = plain.to_str().unwrap();
    let inside = format!("{plain}/inside");
    let nowhere = Path::new("/nonexistent/control.sock");
    for (command, status) in [
        ("offramp-no-such-command", 127),
        ("/nonexistent/command", 127),
        (&inside, 127),
        ("", 127),
        (plain, 126),
        (folder.path().to_str().unwrap(), 126),
    ] {
        let output = offramp(nowhere, &["run", "--profile", "work", "--", command]);
        assert_eq!(output.status.code(), Some(status), "{command}: {output:?}");
        assert!(stderr(&output).starts_with("offramp: "), "{output:?}");
    }
}

#[test]
fn without_a_daemon_nothing_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let socket = folder.path().join("control.sock");
    let output = offramp(&socket, &["run", "--", "touch", mark.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(
        stderr(&output).contains(socket.to_str().unwrap()),
        "{output:?}"
    );
    assert!(!mark.exists());
}

#[test]
fn without_a_daemon_no_door_is_tried() {
    let output = offramp(Path::new("/nonexistent/control.sock"), &["leaktest"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert_eq!(stdout(&output), "");
}

#[test]
fn a_refusal_starts_nothing_and_has_its_status() {
    for (answer, status, code) in [
        ("503 Service Unavailable", 69, "unavailable"),
        ("429 Too Many Requests", 69, "limit_reached"),
        ("403 Forbidden", 77, "not_permitted"),
        ("500 Internal Server Error", 69, "code_of_the_future"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let body = format!(r#"{{"error":{{"code":"{code}","message":"no","hint":"later"}}}}"#);
        let fake = Fake::start(vec![(answer.into(), body)]);
        let output = offramp(
            fake.socket(),
            &["run", "--", "touch", mark.to_str().unwrap()],
        );
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert_eq!(stderr(&output), "offramp: no\n  later\n");
        assert!(!mark.exists());
    }
}

#[test]
fn an_answer_that_is_none_starts_nothing() {
    for (status, body) in [("200 OK", "{}"), ("200 OK", "hello"), ("500 Broken", "")] {
        let fake = Fake::start(vec![(status.into(), body.into())]);
        let output = offramp(fake.socket(), &["run", "--", "echo", "started"]);
        assert_eq!(output.status.code(), Some(69), "{output:?}");
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn a_wrong_command_line_is_64() {
    let nowhere = Path::new("/nonexistent/control.sock");
    for arguments in [
        &["run"][..],
        &["run", "--"],
        &[
            "run",
            "--profile",
            "a",
            "--server",
            "https://b",
            "--",
            "true",
        ],
        &["run", "--ca", "x.pem", "--", "true"],
        &["frobnicate"],
        &["explain", "curl"],
        &["leaktest", "extra"],
        &["leaktest", "--target", "https://x.example"],
        &["leaktest", "--target", "x.example:0"],
        &["run", "--keep-capabilities", "net-raw", "--", "true"],
    ] {
        let output = offramp(nowhere, arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {output:?}");
    }
}

#[test]
fn without_a_name_the_profiles_are_listed() {
    let refusal = r#"{"error":{"code":"conflict","message":"there is more than one profile"}}"#;
    let profile = |name| {
        format!(
            r#"{{"identifier":"{name}","layer":"managed","enabled":true,"on":true,"state":"connected"}}"#
        )
    };
    let list = format!("[{},{}]", profile("home"), profile("work"));
    let fake = Fake::start(vec![
        ("409 Conflict".into(), refusal.into()),
        ("200 OK".into(), list),
    ]);
    let output = offramp(fake.socket(), &["run", "--", "true"]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let expected =
        "offramp: there is more than one profile\n  choose one with --profile: home, work\n";
    assert_eq!(stderr(&output), expected);
}

#[test]
fn the_process_that_asked_becomes_the_command() {
    let fake = Fake::start(vec![("200 OK".into(), LABELLED.into())]);
    let script = "echo $$ $0; grep -E '^(SigIgn|SigBlk|Threads)' /proc/self/status; \
                  ls /proc/$$/fd; exit 42";
    let output = offramp(
        fake.socket(),
        &["run", "--profile", "work", "--", "sh", "-c", script],
    );
    assert_eq!(output.status.code(), Some(42), "{output:?}");
    let asked = fake.asked().remove(0);
    let lines: Vec<_> = stdout(&output).split_ascii_whitespace().collect();
    let sigpipe = 1_u64 << (13 - 1);
    assert_eq!(lines[0], asked.pid.to_string(), "exec keeps the process");
    assert_eq!(lines[1], "sh");
    assert_eq!(asked.threads, 1, "one thread when it asks");
    assert_eq!(lines[2..4], ["Threads:", "1"]);
    assert_eq!(lines[4..6], ["SigBlk:", "0000000000000000"]);
    let ignored = u64::from_str_radix(lines[7], 16).unwrap();
    assert_eq!(ignored & sigpipe, 0, "SIGPIPE is not ignored");
    let direct = Command::new("sh")
        .args(["-c", "ls /proc/$$/fd"])
        .output()
        .unwrap();
    let descriptors: Vec<_> = stdout(&direct).split_ascii_whitespace().collect();
    assert_eq!(
        lines[8..],
        descriptors,
        "the descriptors that were there, none of ours"
    );
}

#[test]
fn options_after_the_command_are_the_commands() {
    let fake = Fake::start(vec![("200 OK".into(), LABELLED.into())]);
    let output = offramp(
        fake.socket(),
        &["run", "echo", "--profile", "x", "--", "-q"],
    );
    assert_eq!(stdout(&output), "--profile x -- -q\n", "{output:?}");
    assert!(fake.asked()[0].body.contains(r#""profile":null"#));
}

#[test]
fn notices_are_told_unless_quiet() {
    for (arguments, expected) in [
        (&["run", "--", "true"][..], "offramp: managed by home\n"),
        (&["run", "--quiet", "--", "true"], ""),
    ] {
        let body = r#"{"profile":"home","label":7,"notices":["managed by home"]}"#;
        let fake = Fake::start(vec![("200 OK".into(), body.into())]);
        let output = offramp(fake.socket(), arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(stderr(&output), expected);
    }
}

#[test]
fn certificates_are_read_by_the_client_and_sent() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let pem = "-----BEGIN CERTIFICATE-----\nQQ==\n-----END CERTIFICATE-----\n";
    std::fs::write(&ca, pem).unwrap();
    let fake = Fake::start(vec![("200 OK".into(), LABELLED.into())]);
    let ca = ca.to_str().unwrap();
    let arguments = [
        "run",
        "--server",
        "https://proxy.example",
        "--ca",
        ca,
        "--",
        "true",
    ];
    let output = offramp(fake.socket(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let body: serde_json::Value = serde_json::from_str(&fake.asked()[0].body).unwrap();
    assert_eq!(body["server"]["url"], "https://proxy.example");
    assert_eq!(body["server"]["ca_pem"], pem);
    assert!(body["program"].as_str().unwrap().ends_with("/true"));

    let missing = [
        "run",
        "--server",
        "https://x",
        "--ca",
        "/nonexistent",
        "--",
        "true",
    ];
    assert_eq!(offramp(fake.socket(), &missing).status.code(), Some(66));
}
