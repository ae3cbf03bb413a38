//! `offramp demo` as a person starts it, with the daemon and the gateway that lie beside it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_offramp"))
        .arg("demo")
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn the_demo_keeps_what_it_promises() {
    let output = demo(&[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for way in ["relay", "direct", "refused"] {
        assert!(text.contains(&format!("  {way} ")), "{text}");
    }
}
