//! One user asks for more names than a user may have.

use std::path::Path;

use offramp_tests::addresses::DNS;
use offramp_tests::{Daemon, Gateway, Lab, Person, Running};

use super::{LIMIT, under};

/// A quarter of the names that a profile's table has.
const OF_USER: usize = 30_000;

/// Asks for names, some at a time, and says how many had an address and how many failed.
const ASK: &str = r#"
import socket, struct, sys
server, begin, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
def query(n):
    name = b"".join(bytes([len(l)]) + l for l in (b"%s%d" % (begin.encode(), n), b"example", b"com"))
    return struct.pack(">HHHHHH", n & 0xffff, 0x100, 1, 0, 0, 0) + name + b"\0\0\1\0\1"
codes = {}
todo, open = list(range(count)), set()
while todo or open:
    while todo and len(open) < 100:
        n = todo.pop()
        s.sendto(query(n), (server, 53))
        open.add(n)
    try:
        answer = s.recv(2000)
    except TimeoutError:
        todo.extend(open); open.clear(); continue
    n = struct.unpack(">H", answer[:2])[0]
    if n in open:
        open.remove(n)
        codes[answer[3] & 15] = codes.get(answer[3] & 15, 0) + 1
print(codes.get(0, 0), codes.get(2, 0))
"#;

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn names_of_a_user() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let (eve, bob) = (Person::new(&lab, 4242), Person::new(&lab, 4343));
    let ask = |person: &Person<'_>, begin: &str, count: usize| {
        let mut command = under(&daemon, person, Path::new("/usr/bin/python3"));
        command.args(["-c", ASK, &DNS.to_string(), begin, &count.to_string()]);
        Running::start(command).finish(LIMIT).success()
    };
    assert_eq!(ask(&bob, "bob", 10), "10 0\n");
    let more = OF_USER + 500;
    assert_eq!(ask(&eve, "eve", more), format!("{OF_USER} 500\n"));
    let told = eve.offramp(&daemon, &["status"]).stdout;
    assert!(
        told.contains(&format!("names: one user may have {OF_USER}")),
        "{told}"
    );
    assert_eq!(
        ask(&eve, "bob", 10),
        "0 10\n",
        "those that others have asked for are counted too"
    );
    assert_eq!(ask(&bob, "bob", 20), "20 0\n", "others have their own");
    let line = ["dig", "+short", "+tries=1", "new.example.com"];
    let root = daemon.run(&line).success();
    assert!(root.starts_with("198.1"), "{root}");
}
