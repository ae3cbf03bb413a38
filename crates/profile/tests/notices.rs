//! What is right and worth a word: at its place, once, and not for what is usual.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use offramp_profile::{Code, Profile, notices, read};
use offramp_rules::Layer;
use serde_json::{Value, json};

fn profile(rules: &[Value]) -> Profile {
    let text = json!({
        "Type": "org.offramp.configuration.network.vpn",
        "Identifier": "a",
        "Payload": {
            "VisibleName": "x",
            "Servers": [{ "URL": "https://a.example" }],
            "AppRules": rules,
        },
    });
    let text = serde_json::to_string_pretty(&text).unwrap();
    read(&text, None, Layer::Managed).unwrap().remove(0)
}

/// What is told of one rule: the key and the message.
fn of(rule: Value) -> Vec<(String, String)> {
    let found = notices(&profile(&[rule]));
    assert!(found.iter().all(|problem| problem.code == Code::Notice));
    let key = |path: String| path.replace("Payload.AppRules[0].", "");
    found
        .into_iter()
        .map(|problem| (key(problem.key_path), problem.message))
        .collect()
}

fn identity(text: &str) -> Value {
    json!({ "SigningIdentifier": text })
}

#[test]
fn what_is_usual_is_not_told() {
    for text in [
        "exe:firefox",
        "exe:/nonexistent/bin/tool",
        "exe:/opt/*/bin/tool",
        "unit:cups",
        "unit:worker-*.service",
        "user-unit:app.service",
        "cgroup:/system.slice",
        "flatpak:org.mozilla.firefox",
        "snap:firefox",
        "app:firefox",
        "org.mozilla.firefox",
        "wrapper:a",
    ] {
        assert_eq!(of(identity(text)), [], "{text}");
    }
    for user in ["root", "0", "1-9", "@root", "@0", "54321"] {
        assert_eq!(
            of(json!({ "SigningIdentifier": "exe:a", "User": user })),
            []
        );
    }
}

#[test]
fn rules_that_could_be_any_program_are_told() {
    let any = "could be any program: each start of a program that is new is looked at";
    let told = vec![("SigningIdentifier".to_owned(), any.to_owned())];
    for text in [
        "exe:*",
        "exe:python3*",
        "exe:/opt/vendor/*",
        "exe:/opt/**",
        "unit:*",
        "cgroup:/",
    ] {
        assert_eq!(of(identity(text)), told, "{text}");
    }
    let with_path = json!({ "SigningIdentifier": "exe:python3*", "Path": "/usr/bin/python3.13" });
    assert_eq!(of(with_path), []);
}

#[test]
fn names_of_programs_where_a_bundle_is_meant_are_told() {
    let found = notices(&profile(&[identity("firefox")])).remove(0);
    assert_eq!(
        found.to_string(),
        "6:30: Payload.AppRules[0].SigningIdentifier: means what is installed as firefox: a Flatpak, \
         a snap or a desktop entry (write exe:firefox for every program of this name, or else \
         snap:firefox or app:firefox)"
    );
    assert_eq!(
        of(identity("flatpak:firefox"))[0].1,
        "no Flatpak can be called firefox"
    );
}

#[test]
fn scripts_are_told_with_their_interpreter() {
    let message = |rule| of(rule).pop().map(|(_, message)| message);
    let told = |interpreter: &str| {
        Some(format!(
            "names a script: each start of {interpreter} is looked at"
        ))
    };
    assert_eq!(message(identity("exe:backup.py")), told("python"));
    assert_eq!(message(identity("exe:/srv/*/start.sh")), told("the shell"));
    let folder = tempfile::tempdir().unwrap();
    for (first, interpreter) in [
        ("#!/usr/bin/perl -w\n", Some("perl")),
        ("#! /usr/bin/env -S A=b ruby3 x\n", Some("ruby3")),
        ("#!\n", None),
        ("#!/bin/sh", Some("sh")),
        ("\x7fELF", None),
        ("", None),
    ] {
        let path = folder.path().join("tool");
        fs::write(&path, first).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let path = path.display().to_string();
        let expected = interpreter.and_then(told);
        assert_eq!(
            message(identity(&format!("exe:{path}"))),
            expected,
            "{first}"
        );
        let rule = json!({ "SigningIdentifier": "exe:tool", "Path": path });
        assert_eq!(message(rule), expected, "{first}");
    }
}

#[test]
fn users_who_are_not_there_are_told() {
    for user in ["nobody-of-this-name", "@no-group-of-this-name"] {
        let rule = json!({ "SigningIdentifier": "exe:a", "User": user });
        let message = format!("there is no {user} on this machine now");
        assert_eq!(of(rule), [("User".to_owned(), message)]);
    }
}

#[test]
fn tools_are_told_at_their_place_and_a_flood_has_an_end() {
    let tools = json!({
        "SigningIdentifier": "exe:a",
        "MatchTools": [identity("exe:b"), identity("exe:c.py")],
    });
    let found = notices(&profile(&[identity("exe:x"), tools]));
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].key_path,
        "Payload.AppRules[1].MatchTools[1].SigningIdentifier"
    );
    assert_eq!((found[0].line, found[0].column), (14, 34));
    let many: Vec<_> = (0..5000).map(|n| identity(&format!("exe:{n}*"))).collect();
    assert_eq!(notices(&profile(&many)).len(), 20);
}
