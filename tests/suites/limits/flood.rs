//! One user sends datagrams without end.

use std::path::Path;

use offramp_tests::addresses::{DNS, target};
use offramp_tests::{Daemon, Gateway, Lab, Person, Running, User, wait_until};

use super::{LIMIT, under};

/// Sends as fast as four processes can, until it is ended.
const FLOOD: &str = r#"
import os, socket, sys
for n in range(3): 
    if os.fork() == 0: break
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 3000))
sent = 0
data = b"x" * 100
while True:
    try: s.send(data)
    except OSError: pass
    sent += 1
    if sent == 5000: print("flooding", flush=True)
"#;

/// Looks one name up after another, and says how many were answered. The daemon answers by itself:
/// what else is in the way of other datagrams plays no part.
const ASK: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 53))
s.settimeout(3)
answered = 0
for n in range(int(sys.argv[2])):
    query = bytes([n, n]) + b"\1\0\0\1\0\0\0\0\0\0\3www\7example\3com\0\0\1\0\1"
    s.send(query)
    try:
        while s.recv(2000)[:2] != query[:2]: pass
        answered += 1
    except TimeoutError: pass
print(answered)
"#;

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn datagrams_of_one_user_do_not_crowd_out_others() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let (eve, bob) = (Person::new(&lab, 4242), Person::new(&lab, 4343));
    let python = Path::new("/usr/bin/python3");
    let mut flood = under(&daemon, &eve, python);
    flood.args(["-c", FLOOD, &target(1).to_string()]);
    let mut flood = Running::start(flood);
    wait_until("the flood has begun", LIMIT, || {
        flood.said().matches("flooding").count() == 4 || !flood.is_running()
    });
    let ask = |mut command: std::process::Command| {
        command.args(["-c", ASK, &DNS.to_string(), "20"]);
        let said = Running::start(command).finish(LIMIT).success();
        said.trim()
            .parse::<u32>()
            .unwrap_or_else(|_| panic!("{said}"))
    };
    let bobs = ask(under(&daemon, &bob, python));
    let roots = ask(daemon.command_as(User::Root, "/usr/bin/python3"));
    assert!(flood.is_running());
    assert!(
        bobs >= 18 && roots >= 18,
        "{bobs} and {roots} of 20 were answered"
    );
}
