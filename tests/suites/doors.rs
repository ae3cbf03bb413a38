//! Doors of name resolution besides port 53, with the real servers behind them.

use std::time::Duration;

use offramp_tests::{
    ALL_MODULES, Daemon, Gateway, Lab, PROFILE, Resolvers, Running, User, binary, wait_until,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const USERS: [User; 2] = [User::Root, User::Nobody];
const RESOLVED: &str = "DNS=10.90.4.2\nLLMNR=no\nMulticastDNS=no";
/// `ECONNREFUSED`.
const REFUSED: &str = "111";

/// A profile of the lab's that reaches local networks directly.
fn with_local_networks() -> Value {
    let mut profile = Daemon::profile();
    profile["Payload"]["NetworkRouting"] = json!({ "ExcludeLocalNetworks": true });
    profile
}

/// The status of `offramp leaktest`, and its rows.
fn leaktest(lab: &Lab, daemon: &Daemon<'_>, user: User) -> (Option<i32>, Vec<Value>) {
    let mut command = lab.client().command_as(user, binary("offramp"));
    command.arg("--socket").arg(daemon.socket());
    command.args(["leaktest", "--json", "--profile", PROFILE]);
    let said = Running::start(command).finish(LIMIT);
    let report: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said}"));
    let rows = report["rows"].as_array().expect("rows");
    (said.status.code(), rows.clone())
}

fn verdict<'a>(rows: &'a [Value], door: &str) -> &'a str {
    let row = rows.iter().find(|row| row["door"] == door);
    row.and_then(|row| row["verdict"].as_str())
        .expect("a row of this name")
}

/// What each spelling came to, as `knock.py` prints it.
fn outcomes(said: &str) -> Vec<(&str, &str)> {
    said.lines()
        .map(|line| line.rsplit_once(": ").expect("a spelling and an error"))
        .collect()
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_door_is_closed_however_it_is_spelled() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let client = Resolvers::prepare(lab.client(), lab.directory());
    let script = lab.directory().join("knock.py");
    std::fs::write(&script, include_str!("doors/knock.py")).expect("the directory is ours");
    let script = script.display().to_string();
    // Open to both users, for the links that the script makes.
    lab.client().sh("chmod 1777 $HOME");
    let _servers = [
        client.start_resolved(RESOLVED),
        client.start_nscd(),
        client.start_avahi("client", "eth0", false),
    ];
    // One of an app's own, which looks like a door's.
    lab.client().sh(
        "mkdir -p -m 777 /run/own/nscd /run/own/avahi-daemon /run/nscd.d
         chmod 777 /run/own /run/own/* /run/nscd.d",
    );
    let serve = "import os, socket, threading
def serve(door):
    while True:
        door.accept()[0].close()
os.umask(0)
for path in ('/run/own/nscd/socket', '/run/own/avahi-daemon/socket', '/run/nscd/socket.d',
             '/run/nscd.d/socket', '/run/own/system_bus_socket', '\\0/run/nscd/socket'):
    door = socket.socket(socket.AF_UNIX)
    door.bind(path)
    door.listen()
    threading.Thread(target=serve, args=(door,)).start()
print('ready', flush=True)";
    let own = lab.client().spawn(&["/usr/bin/python3", "-c", serve]);
    wait_until("the app's own sockets are there", LIMIT, || {
        own.said().contains("ready")
    });
    let doors = ["systemd/resolve/io.systemd.Resolve", "nscd/socket"];
    let local_doors = ["avahi-daemon/socket"];
    let no_doors = [
        "own/nscd/socket",
        "own/avahi-daemon/socket",
        "own/system_bus_socket",
        "nscd/socket.d",
        "nscd.d/socket",
    ];
    let all = [&doors[..], &local_doors, &no_doors].concat();
    let line = [&["/usr/bin/python3", &script][..], &all].concat();
    for (local, profile) in [(false, Daemon::profile()), (true, with_local_networks())] {
        let daemon = Daemon::start_with(&lab, &[profile]);
        for user in USERS {
            let before = daemon.counter("kernel_closed_doors");
            let said = lab.client().run_as(user, &line).success();
            let unmanaged = outcomes(&said);
            assert!(unmanaged.len() >= 21 * all.len(), "{said}");
            for (spelling, error) in &unmanaged {
                assert_eq!(*error, "0", "unmanaged: {spelling}");
            }
            assert_eq!(daemon.counter("kernel_closed_doors"), before);
            let said = daemon.run_as(user, &line).success();
            let managed = outcomes(&said);
            assert_eq!(managed.len(), unmanaged.len());
            let mut closed = 0;
            for (spelling, error) in &managed {
                let door = spelling.split(": ").next().unwrap_or_default();
                let is_door = doors.contains(&door) || (!local && local_doors.contains(&door));
                closed += u64::from(is_door);
                let expected = if is_door { REFUSED } else { "0" };
                assert_eq!(*error, expected, "{user:?}, local {local}: {spelling}");
            }
            assert_eq!(daemon.counter("kernel_closed_doors") - before, closed);
        }
        // What resolved tells of all questions is root's.
        let monitor = "import socket
socket.socket(socket.AF_UNIX).connect('/run/systemd/resolve/io.systemd.Resolve.Monitor')";
        let hidden = "import socket; socket.socket(socket.AF_UNIX).connect('\\0/run/nscd/socket')";
        for (script, opens) in [(monitor, false), (hidden, true)] {
            let line = ["/usr/bin/python3", "-c", script];
            lab.client().run(&line).success();
            let managed = daemon.run(&line);
            assert_eq!(managed.status.success(), opens, "{managed}");
        }
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn unmanaged_programs_are_answered_by_every_door() {
    let lab = Lab::new();
    let client = Resolvers::prepare(lab.client(), lab.directory());
    let router = Resolvers::prepare(lab.router(), lab.directory());
    let _bus = client.start_bus();
    let resolved = client.start_resolved("DNS=10.90.4.2\nLLMNR=no\nMulticastDNS=no");
    let _avahi = client.start_avahi("client", "eth0", true);
    let _neighbour = router.start_avahi("neighbour", "client", false);
    let tool = |program: &str, arguments: &[&str]| {
        let mut command = client.command(program);
        command.args(arguments);
        Running::start(command).finish(LIMIT).success()
    };
    let getent = |name| lab.client().run(&["getent", "ahosts", name]).success();

    client.set_hosts(ALL_MODULES);
    assert!(getent("origin.test").contains("203.0.113.10"));
    assert!(resolved.complained().contains("\"name\":\"origin.test\""));
    assert!(tool("usr/bin/resolvectl", &["query", "v6.test"]).contains("2001:db8::10"));
    let neighbour = tool("usr/bin/avahi-resolve", &["-4", "-n", "neighbour.local"]);
    assert!(neighbour.contains("10.90.1.1"), "{neighbour}");
    client.set_hosts("files mdns4_minimal [NOTFOUND=return] dns");
    assert!(getent("neighbour.local").contains("10.90.1.1"));
    client.set_hosts("files dns");
    client.set_resolv_conf("nameserver 10.90.4.2\n");
    let nscd = client.start_nscd();
    assert!(getent("v4.test").contains("203.0.113.10"));
    assert!(nscd.complained().contains("GETAI (v4.test)"));
}

/// What glibc does for programs, each with a name of its own; the last one has it built in.
const LOOK_UP: &str = r#"
getent hosts "a$1" || echo "getent hosts: $?"
getent ahosts "b$1" || echo "getent ahosts: $?"
/usr/bin/python3 -c 'import socket, sys; print(*socket.getaddrinfo(sys.argv[1], 80, type=1)[0][4])' "c$1"
curl -sS --max-time 20 "http://d$1/"
"$2" "e$1"
"#;

/// Prints the first address of a name.
const STATIC: &str = r#"
#include <netdb.h>
#include <stdio.h>
int main(int count, char **words)
{
	struct addrinfo *found;
	char text[64];
	if (count < 2 || getaddrinfo(words[1], 0, 0, &found) ||
	    getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof(text), 0, 0, NI_NUMERICHOST))
		return 1;
	puts(text);
	return 0;
}
"#;

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn managed_programs_fall_back_to_port_53() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let client = Resolvers::prepare(lab.client(), lab.directory());
    let resolved = client.start_resolved(RESOLVED);
    client.set_resolv_conf("nameserver 127.0.0.53\noptions edns0 trust-ad\n");
    let daemon = Daemon::start(&lab);
    let hosts = [
        ALL_MODULES,
        // Debian's and Ubuntu's, Fedora's.
        "files mdns4_minimal [NOTFOUND=return] resolve [!UNAVAIL=return] dns myhostname",
        "files myhostname mdns4_minimal [NOTFOUND=return] resolve [!UNAVAIL=return] dns",
    ];
    let (source, program) = (
        lab.directory().join("static.c"),
        lab.directory().join("static"),
    );
    std::fs::write(&source, STATIC).expect("the directory is ours");
    let (source, program) = (source.display().to_string(), program.display().to_string());
    let build = ["gcc", "-static", "-w", "-o", &program, &source];
    lab.client().run(&build).success();
    let look_up = |name: &str, server: &Running, user: User| {
        let told = |label: &str| {
            let said = server.complained() + &server.said();
            ["a", "b", "c", "d", "e"]
                .iter()
                .filter(|kind| said.contains(&format!("{kind}{label}.wild.test")))
                .count()
        };
        let script = |label: &str| ["sh", "-c", LOOK_UP, "sh", label, &program].map(String::from);
        let (ours, theirs) = (format!("{name}-managed"), format!("{name}-unmanaged"));
        let line = script(&format!("{ours}.wild.test"));
        let line: Vec<_> = line.iter().map(String::as_str).collect();
        let capture = lab.capture();
        let said = daemon.run_as(user, &line).success();
        capture.packets().assert_only_gateway();
        assert_eq!(told(&ours), 0, "{name}: asked at the door: {said}");
        let answers: Vec<_> = said.lines().collect();
        let synthetic = |line: &&str| {
            ["198.18.", "198.19.", "fd"]
                .iter()
                .any(|s| line.starts_with(s))
        };
        assert!(
            answers.iter().filter(|line| synthetic(line)).count() >= 4,
            "{name}: {said}"
        );
        assert!(said.contains("peer=10.90.2.2:"), "{name}: {said}");

        let line = script(&format!("{theirs}.wild.test"));
        let line: Vec<_> = line.iter().map(String::as_str).collect();
        let said = lab.client().run_as(user, &line).success();
        assert_eq!(told(&theirs), 5, "{name}: {said}\n{}", server.complained());
        assert!(said.starts_with("203.0.113.13"), "{name}: {said}");
        assert!(said.contains("\n203.0.113.13 80\n"), "{name}: {said}");
        assert!(said.contains("peer=10.90.1.2:"), "{name}: {said}");
    };
    for (number, line) in hosts.into_iter().enumerate() {
        client.set_hosts(line);
        look_up(&format!("r{number}"), &resolved, USERS[number % 2]);
    }
    assert!(!daemon.offramp(&["doctor"]).stdout.contains("has wins"));
    client.set_hosts("files dns wins");
    assert!(daemon.offramp(&["doctor"]).stdout.contains("has wins"));
    // glibc asks nscd first, whatever the line says.
    let nscd = client.start_nscd();
    client.set_hosts(ALL_MODULES);
    look_up("n", &nscd, User::Nobody);
}

/// Multicast as mDNS and LLMNR have it: prints what came of each, an error number or `sent`.
const MULTICAST: &str = r#"
import socket
head = bytes.fromhex("000000000001000000000000") + b"\x09neighbour\x05local\0"
index = socket.if_nametoindex("eth0")
for family, address, port in ((socket.AF_INET, ("224.0.0.251",), 5353), (socket.AF_INET, ("224.0.0.252",), 5355),
                              (socket.AF_INET6, ("ff02::fb",), 5353), (socket.AF_INET6, ("ff02::1:3",), 5355)):
    target = address + (port,) + ((0, index) if family == socket.AF_INET6 else ())
    # avahi tells addresses of the family that it is asked by.
    question = head + (b"\0\x1c" if family == socket.AF_INET6 else b"\0\x01") + b"\0\x01"
    for connected in (False, True):
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.settimeout(10)
        try:
            if connected:
                s.connect(target)
                s.send(question)
            else:
                s.sendto(question, target)
            answer = "sent"
            if port == 5353 and not connected:
                answer = "heard" if s.recv(512)[6:8] != b"\0\0" else "no answer"
        except OSError as error:
            answer = error.errno or "silence"
        print(address[0], connected, answer)
"#;

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn neighbours_are_asked_for_names_where_local_networks_are_direct() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let client = Resolvers::prepare(lab.client(), lab.directory());
    let router = Resolvers::prepare(lab.router(), lab.directory());
    let _bus = client.start_bus();
    let _avahi = client.start_avahi("client", "eth0", true);
    let _neighbour = router.start_avahi("neighbour", "client", false);
    client.set_hosts("files mdns4_minimal [NOTFOUND=return] dns");
    let resolve = |name| {
        let [libraries, program] = client.line("usr/bin/avahi-resolve");
        ["env".to_owned(), libraries, program, "-4n".to_owned(), name]
    };
    let mdns = "udp port 5353 or udp port 5355";
    for (local, profile) in [(false, Daemon::profile()), (true, with_local_networks())] {
        let daemon = Daemon::start_with(&lab, &[profile]);
        let rows = leaktest(&lab, &daemon, User::Nobody).1;
        let told = ["refused", "direct"][usize::from(local)];
        assert_eq!(verdict(&rows, "DNS, avahi's socket"), told, "{rows:#?}");
        for user in USERS {
            let capture = lab.capture_only(mdns);
            let said = daemon
                .run_as(user, &["/usr/bin/python3", "-c", MULTICAST])
                .success();
            let outcomes: Vec<_> = said.lines().map(|line| line.rsplit(' ').next()).collect();
            let expected = match local {
                true => [
                    "heard", "sent", "sent", "sent", "heard", "sent", "sent", "sent",
                ],
                false => ["1"; 8],
            };
            assert_eq!(
                outcomes,
                expected.map(Some),
                "{user:?}, local {local}: {said}"
            );
            // avahi speaks from its own port.
            let sent = capture.packets().0.into_iter().filter(|packet| {
                packet.source.port() != 5353 && [5353, 5355].contains(&packet.target.port())
            });
            assert_eq!(sent.count(), if local { 8 } else { 0 }, "{user:?}");

            let name = format!("neighbour-{user:?}-{local}.local");
            let line = resolve("neighbour.local".into());
            let line: Vec<_> = line.iter().map(String::as_str).collect();
            let asked = daemon.run_as(user, &line);
            let getent = daemon.run_as(user, &["getent", "ahostsv4", "neighbour.local"]);
            if local {
                assert!(asked.stdout.contains("10.90.1.1"), "{asked}");
                assert!(getent.stdout.contains("10.90.1.1"), "{getent}");
                continue;
            }
            assert!(
                asked.stderr.contains("Failed to create client object"),
                "{asked}"
            );
            assert_eq!(getent.status.code(), Some(2), "{getent}");
            // Of a name that nobody knows, avahi would ask the neighbours.
            let capture = lab.capture_only(mdns);
            daemon
                .run_as(user, &["getent", "ahostsv4", &name])
                .failure();
            let line = resolve(name.clone());
            let line: Vec<_> = line.iter().map(String::as_str).collect();
            daemon.run_as(user, &line);
            assert!(!capture.heard(&name), "{user:?}: {name} on the wire");
        }
        if !local {
            // It takes avahi five seconds to give up.
            let capture = lab.capture_only(mdns);
            lab.client().run(&[
                "timeout",
                "1",
                "getent",
                "ahostsv4",
                "neighbour-unmanaged.local",
            ]);
            assert!(
                capture.heard("neighbour-unmanaged.local"),
                "what is looked for is seen"
            );
        }
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_resolver_at_the_ports_of_mdns_and_llmnr_is_any_target() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let echo = "import socket, sys, threading
def serve(s):
    while True:
        data, peer = s.recvfrom(2048)
        s.sendto(('%s %s' % (peer[0], data.decode())).encode(), peer)
for family, address in (socket.AF_INET, '203.0.113.10'), (socket.AF_INET6, '2001:db8::10'):
    for port in 5353, 5355:
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.bind((address, port))
        threading.Thread(target=serve, args=(s,)).start()
print('ready', flush=True)";
    let server = lab.origin().spawn(&["/usr/bin/python3", "-c", echo]);
    wait_until("the servers listen", LIMIT, || {
        server.said().contains("ready")
    });
    let ask = "import socket
for family, address in (socket.AF_INET, '203.0.113.10'), (socket.AF_INET6, '2001:db8::10'):
    for port in 5353, 5355:
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.settimeout(20)
        s.sendto(b'hello', (address, port))
        print(s.recv(2048).decode())";
    let capture = lab.capture();
    for user in USERS {
        let said = daemon
            .run_as(user, &["/usr/bin/python3", "-c", ask])
            .success();
        let expected = "10.90.2.2 hello\n10.90.2.2 hello\nfd00:90:2::2 hello\nfd00:90:2::2 hello\n";
        assert_eq!(said, expected, "{user:?}");
    }
    capture.packets().assert_only_gateway();
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn the_system_bus_stays_open_but_for_those_who_ask_names_there() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let client = Resolvers::prepare(lab.client(), lab.directory());
    let _bus = client.start_bus();
    let resolved = client.start_resolved(RESOLVED);
    let daemon = Daemon::start(&lab);
    let [libraries, resolvectl] = client.line("usr/bin/resolvectl");
    let query = |name: &str| ["env", &libraries, &resolvectl, "query", name].map(String::from);
    for user in USERS {
        let name = format!("managed-{user:?}.wild.test").to_lowercase();
        let line = query(&name);
        let line: Vec<_> = line.iter().map(String::as_str).collect();
        let capture = lab.capture();
        let said = daemon.run_as(user, &line).failure();
        assert!(said.contains("Connection refused"), "{said}");
        capture.packets().assert_only_gateway();
        assert!(!resolved.complained().contains(&name), "{user:?}");
        // Others are who they are there.
        let whoami = [
            "busctl",
            "call",
            "org.freedesktop.DBus",
            "/",
            "org.freedesktop.DBus",
        ];
        let whoami = [
            &whoami[..],
            &["GetConnectionUnixUser", "s", "org.freedesktop.resolve1"],
        ]
        .concat();
        let managed = daemon.run_as(user, &whoami).success();
        assert_eq!(managed, lab.client().run_as(user, &whoami).success());
        let name = format!("unmanaged-{user:?}.wild.test").to_lowercase();
        let line = query(&name);
        let line: Vec<_> = line.iter().map(String::as_str).collect();
        let said = lab.client().run_as(user, &line).success();
        assert!(said.contains("203.0.113.13"), "{said}");
        assert!(resolved.complained().contains(&name), "{user:?}");

        // What no hook can shut is found.
        let (status, rows) = leaktest(&lab, &daemon, user);
        assert_eq!(status, Some(1), "{rows:#?}");
        let leaks: Vec<_> = rows
            .iter()
            .filter(|row| row["verdict"] == "leaked")
            .collect();
        assert_eq!(leaks.len(), 1, "{leaks:#?}");
        assert_eq!(leaks[0]["door"], "DNS, D-Bus");
        let reason = leaks[0]["reason"].as_str().expect("a reason");
        let seen = reason.contains("on the wire of eth0");
        assert_eq!(seen, user == User::Root, "{reason}");
        assert!(
            seen || reason.contains("systemd-resolved takes questions there"),
            "{reason}"
        );
        let varlink = verdict(&rows, "DNS, systemd-resolved's socket");
        assert_eq!(varlink, "refused", "{rows:#?}");
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn doors_are_shut_before_it_is_known_what_a_program_is() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let client = Resolvers::prepare(lab.client(), lab.directory());
    let resolved = client.start_resolved(RESOLVED);
    let nscd = client.start_nscd();
    client.set_hosts(ALL_MODULES);
    client.set_resolv_conf("nameserver 127.0.0.53\n");
    // Every program may be meant; a script makes its interpreter one each time.
    let mut profile = Daemon::profile();
    profile["Payload"]["AppRules"] = json!([
        { "SigningIdentifier": "exe:sync.py" },
        { "SigningIdentifier": "exe:asks-*" }
    ]);
    let _daemon = Daemon::start_with(&lab, &[profile]);
    let capture = lab.capture();
    for number in 0..8 {
        // Of the rule, and new each time.
        let program = lab.directory().join(format!("asks-{number}"));
        std::fs::copy("/usr/bin/getent", &program).expect("the directory is ours");
        let (program, name) = (
            program.display().to_string(),
            format!("m{number}.wild.test"),
        );
        let said = lab.client().run(&[&program, "ahostsv4", &name]).success();
        assert!(said.starts_with("198.1"), "{said}");
        let asked = nscd.complained() + &resolved.complained();
        assert!(!asked.contains(&name), "{name} was asked for at a door");
    }
    capture.packets().assert_only_gateway();
    for number in 0..8 {
        let name = format!("n{number}.wild.test");
        let script = format!("import socket; print(socket.gethostbyname('{name}'))");
        for line in [
            &["/usr/bin/python3", "-c", &script][..],
            &["getent", "ahostsv4", &name],
        ] {
            let said = lab.client().run(line).success();
            assert!(said.starts_with("203.0.113.13"), "{said}");
        }
    }
    // Once it is known what they are, by the door.
    assert!(nscd.complained().contains("GETAI (n7.wild.test)"));
}
