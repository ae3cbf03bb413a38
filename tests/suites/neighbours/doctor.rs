//! What `offramp doctor` says, and what flows do.

use offramp_tests::{Daemon, Lab};
use serde_json::Value;

/// One check of `doctor`: its outcome, what was seen, and what to do.
#[track_caller]
pub(crate) fn check(daemon: &Daemon<'_>, name: &str) -> (String, String, String) {
    let said = daemon.offramp(&["doctor", "--json"]).stdout;
    let checks: Value = serde_json::from_str(&said).expect("JSON was asked for");
    let mut found = checks.as_array().expect("a list").iter();
    let check = found
        .find(|check| check["name"] == name)
        .unwrap_or_else(|| panic!("no check {name}: {said}"));
    let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
    (text("outcome"), text("detail"), text("remedy"))
}

/// Fails the test unless the check is well.
#[track_caller]
pub(crate) fn assert_well(daemon: &Daemon<'_>, name: &str, label: &str) {
    let (outcome, detail, _) = check(daemon, name);
    assert_eq!(outcome, "ok", "{label}: {name}: {detail}");
}

/// Fails the test unless the check fails with these words in what was seen, and says what to do.
#[track_caller]
pub(crate) fn assert_told(daemon: &Daemon<'_>, name: &str, words: &str, label: &str) {
    let (outcome, detail, remedy) = check(daemon, name);
    assert_eq!(outcome, "failure", "{label}: {name}: {detail}");
    assert!(detail.contains(words), "{label}: {name}: {detail}");
    assert!(!remedy.is_empty(), "{label}: {name}: {detail}");
}

/// What a managed program gets over IPv4, IPv4 from the machine's own address, by name, and over
/// IPv6: `proxy`, `direct` or nothing.
pub(crate) fn flows(daemon: &Daemon<'_>) -> [&'static str; 4] {
    let get = "curl -sS --max-time 3";
    let script = format!(
        "{get} http://203.0.113.10/; echo; echo --
         {get} --interface 10.90.1.2 http://203.0.113.10/; echo; echo --
         {get} http://v4.test/; echo; echo --
         {get} http://[2001:db8::10]/"
    );
    let said = daemon.run(&["sh", "-c", &script]).stdout;
    let mut answers = said.split("--\n").map(|answer| {
        if answer.contains("peer=10.90.2.2:") || answer.contains("peer=[fd00:90:2::2]:") {
            "proxy"
        } else if answer.contains("peer=") {
            "direct"
        } else {
            ""
        }
    });
    [(); 4].map(|()| answers.next().unwrap_or_default())
}

/// All of [`flows`] by the proxy.
pub(crate) const RELAYED: [&str; 4] = ["proxy"; 4];

/// Whom the origin sees where an unmanaged program asks it.
#[track_caller]
pub(crate) fn unmanaged(lab: &Lab, target: &str) -> String {
    let url = format!("http://{target}/");
    let said = lab
        .client()
        .run(&["curl", "-sS", "--max-time", "5", &url])
        .success();
    let peer = said.split("peer=").nth(1).unwrap_or_default();
    let (address, _) = peer.split_once(' ').unwrap_or((peer, ""));
    address
        .rsplit_once(':')
        .unwrap_or((address, ""))
        .0
        .to_owned()
}
