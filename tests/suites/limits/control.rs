//! One user does to the control socket what a user can: connections, calls and streams without end,
//! requests that never end, answers that nobody reads.

use std::time::{Duration, Instant};

use offramp_tests::{Daemon, Gateway, Lab, Person, Running, wait_until};

use super::{LIMIT, descriptors};

/// Each part says what came of it; the last keeps all connections that it can get until the end.
const ATTACK: &str = r#"
import collections, socket, sys, threading, time
path, part = sys.argv[1], sys.argv[2]
def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(path)
    return s
def head(line):
    return f"{line} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
def status(answer):
    return answer.split(b" ")[1].decode() if answer.startswith(b"HTTP/1.1 ") else "closed"
def read(s):
    try:
        return s.recv(65536)
    except OSError:
        return b""
if part == "calls":
    s, got = connect(), b""
    count = 1500
    def write():
        for n in range(count):
            s.sendall(head("GET /v1/user/none"))
    t = threading.Thread(target=write); t.start()
    while got.count(b"HTTP/1.1 ") < count:
        piece = s.recv(65536)
        if not piece: break
        got += piece
    t.join()
    late = got.count(b"HTTP/1.1 429")
    print(late > 500, b"retry-after: 1" in got.lower(), b"one user may make 100 in a second" in got)
elif part == "streams":
    all = [connect() for n in range(20)]
    for s in all: s.sendall(head("GET /v1/flows?follow=true"))
    answers = [read(s) for s in all]
    c = collections.Counter(status(a) for a in answers)
    print(c["200"], c["429"], any(b"one user may have 16" in a for a in answers))
elif part == "large":
    s = connect()
    try: s.sendall(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 50000)
    except OSError: pass
    print(status(read(s)))
elif part == "hold":
    held, end = [], time.monotonic() + float(sys.argv[3])
    print("begun", flush=True)
    while time.monotonic() < end:
        try:
            s = socket.socket(socket.AF_UNIX); s.setblocking(False); s.connect(path)
            s.send(b"GET /v1/status HTT")
            held.append(s)
        except OSError:
            time.sleep(0.001)
        if len(held) > 900: held = held[300:]
"#;

struct Eve<'a> {
    person: Person<'a>,
    daemon: &'a Daemon<'a>,
}

impl Eve<'_> {
    fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.person.command("/usr/bin/python3");
        command
            .args(["-c", ATTACK])
            .arg(self.daemon.socket())
            .args(arguments);
        Running::start(command)
    }

    fn does(&self, part: &str) -> String {
        self.start(&[part]).finish(LIMIT).success()
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn one_user_cannot_keep_others_from_the_control_socket() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let id = daemon.process().id();
    let before = descriptors(id);
    let bob = Person::new(&lab, 4343);
    let eve = Eve {
        person: Person::new(&lab, 4242),
        daemon: &daemon,
    };
    assert_eq!(eve.does("calls"), "True True True\n");
    assert_eq!(eve.does("large"), "431\n");
    // As soon as her pace allows so many calls again: each attempt takes what it finds of it.
    wait_until("the limit of streams is what is left", LIMIT, || {
        std::thread::sleep(Duration::from_secs(1));
        eve.does("streams") == "16 4 True\n"
    });
    let mut attack = eve.start(&["hold", "4"]);
    wait_until("she has all that she gets", LIMIT, || {
        descriptors(id) >= before + 60
    });
    let began = Instant::now();
    while attack.is_running() {
        for said in [
            daemon.offramp(&["status"]),
            bob.offramp(&daemon, &["status"]),
        ] {
            assert!(said.status.success(), "{said}");
        }
        assert!(descriptors(id) < before + 400, "{}", descriptors(id));
        assert!(began.elapsed() < LIMIT, "the attack ends");
    }
    wait_until("nothing is left of it", LIMIT, || {
        std::thread::sleep(Duration::from_millis(100));
        descriptors(id) <= before + 4
    });
    assert!(eve.person.offramp(&daemon, &["status"]).status.success());
}
