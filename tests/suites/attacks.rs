//! What a hostile program or user may try against the machine, its users, and the proxy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use offramp_tests::addresses::{BLACK_HOLE, CLIENT, CLIENT6, GATEWAY, ORIGIN, ROUTER, ROUTER6};
use offramp_tests::{
    Daemon, Finished, Gateway, Lab, PROFILE, Running, User, binary, port, wait_until,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
/// Within this time everything of a command that has ended is gone.
const GONE: Duration = Duration::from_secs(15);
const PYTHON: &str = "/usr/bin/python3";
const NOBODY: u32 = 65534;

/// The two ways to run a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Under root's profile.
    Profile,
    /// With a server of the user's own.
    Server,
}

const WAYS: [Way; 2] = [Way::Profile, Way::Server];

/// `offramp run`, as `user`, of `program`.
fn run(lab: &Lab, daemon: &Daemon<'_>, user: User, way: Way, program: &str) -> Command {
    if way == Way::Profile {
        return daemon.command_as(user, program);
    }
    let mut command = lab.client().command_as(user, binary("offramp"));
    command.args(launch(lab, daemon)).arg(program);
    command
}

/// What `offramp` is told to run a command with a server of the user's own.
fn launch(lab: &Lab, daemon: &Daemon<'_>) -> Vec<String> {
    let ca = lab.directory().join("gateway-authority.pem");
    let mut line = vec!["--socket".to_owned(), daemon.socket().display().to_string()];
    line.extend(["run".to_owned(), format!("--server=https://{GATEWAY}")]);
    line.extend([format!("--ca={}", ca.display()), "--".to_owned()]);
    line
}

fn python(mut command: Command, script: &str) -> Command {
    command.args(["-c", script]).stdin(Stdio::piped());
    command
}

fn finish(command: Command) -> Finished {
    Running::start(command).finish(Duration::from_secs(60))
}

/// What the probe says of one target, run by `command`.
fn probe(mut command: Command, kind: &str, target: &str) -> String {
    command.args([kind, target]);
    finish(command).success()
}

fn probe_path() -> String {
    binary("offramp-probe").display().to_string()
}

fn banner() -> String {
    SocketAddr::from((ORIGIN, port::BANNER)).to_string()
}

fn echo() -> String {
    SocketAddr::from((ORIGIN, port::ECHO)).to_string()
}

/// Another app's flows, TCP and UDP, are relayed, and at once.
#[track_caller]
fn assert_works(lab: &Lab, daemon: &Daemon<'_>, user: User) {
    let start = Instant::now();
    for (kind, target) in [("tcp", banner()), ("udp", echo())] {
        let said = probe(
            run(lab, daemon, user, Way::Profile, &probe_path()),
            kind,
            &target,
        );
        let good = said.contains(" ok ") && !said.contains("failed") && said.contains("10.90.2.2:");
        assert!(good, "{kind} of {user:?}: {said}");
    }
    let after = start.elapsed();
    assert!(
        after < Duration::from_secs(5),
        "only after {after:?} for {user:?}"
    );
}

fn profiles(status: &Value) -> Vec<Value> {
    let profiles = status["profiles"].as_array();
    profiles.cloned().unwrap_or_default()
}

/// The profiles that `offramp run --server` has made and that are still there.
fn runs(daemon: &Daemon<'_>) -> Vec<Value> {
    let mut found = profiles(&daemon.status());
    found.retain(|profile| profile["layer"] == "run");
    found
}

fn apps(daemon: &Daemon<'_>) -> u64 {
    let found = profiles(&daemon.status());
    found.iter().filter_map(|one| one["apps"].as_u64()).sum()
}

/// Nothing of any command is left in the daemon.
#[track_caller]
fn assert_gone(daemon: &Daemon<'_>) {
    let end = Instant::now() + GONE;
    while !runs(daemon).is_empty() || apps(daemon) > 0 {
        assert!(Instant::now() < end, "left: {}", daemon.status());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A directory that `nobody` may write.
fn open_directory(lab: &Lab) -> PathBuf {
    let path = lab.directory().join("nobody");
    std::fs::create_dir_all(&path).expect("the lab's directory is ours");
    chown(&path, Some(NOBODY), Some(NOBODY)).expect("root may do this");
    path
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_setuid_program_never_meets_a_users_own_proxy() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let setuid = lab.directory().join("setuid-probe");
    std::fs::copy(binary("offramp-probe"), &setuid).expect("the lab's directory is ours");
    std::fs::set_permissions(&setuid, PermissionsExt::from_mode(0o4755)).expect("it is ours");
    let setuid = setuid.display().to_string();
    let capture = lab.capture();
    let targets = [
        ("tcp", banner()),
        ("tcp", "[2001:db8::10]:2001".to_owned()),
        ("udp", echo()),
    ];
    for (kind, target) in &targets {
        let plain = run(&lab, &daemon, User::Nobody, Way::Server, &probe_path());
        let said = probe(plain, kind, target);
        assert!(said.contains(" ok "), "its own program: {said}");
        lab.servers().forget();
        let mut command = run(&lab, &daemon, User::Nobody, Way::Server, &setuid);
        command.args([kind, target.as_str()]);
        let said = finish(command).to_string();
        assert!(said.contains("Operation not permitted"), "{kind}: {said}");
        assert!(
            !said.contains(" ok ") && lab.servers().seen().is_empty(),
            "{said}"
        );
        for (user, way) in [(User::Nobody, Way::Profile), (User::Root, Way::Server)] {
            let said = probe(run(&lab, &daemon, user, way, &setuid), kind, target);
            let good = said.contains(" ok ") && !said.contains("failed");
            assert!(good, "{kind} {user:?} {way:?}: {said}");
        }
    }
    capture.packets().assert_only_gateway();
}

/// Takes the sockets that somebody hands it, and tries two of them at each line of its input.
const KEEPER: &str = "import os, socket, sys
path = sys.argv[1]
door = socket.socket(socket.AF_UNIX)
door.bind(path)
door.listen()
other, _ = door.accept()
_, fds, _, _ = socket.recv_fds(other, 1, 8)
kept = [socket.socket(fileno=fd) for fd in fds]
other.sendall(b'k')
for line in sys.stdin:
    said = ''
    try:
        tcp = kept.pop(0)
        tcp.settimeout(2)
        tcp.connect(('203.0.113.10', 2001))
        said += 'tcp ' + tcp.recv(100).decode()
    except OSError as error:
        said += 'tcp failed %s\\n' % error
    try:
        udp = kept.pop(0)
        udp.sendto(b'hello', ('203.0.113.10', 7))
        udp.settimeout(1)
        said += 'udp ' + udp.recv(100).decode() + '\\n'
    except OSError as error:
        said += 'udp failed %s\\n' % error
    with open(path + '.part', 'w') as file:
        file.write(said)
    os.rename(path + '.part', path + '.' + line.strip())
";

const GIVER: &str = "import socket, sys
other = socket.socket(socket.AF_UNIX)
other.connect(sys.argv[1])
made = [socket.socket(socket.AF_INET, kind) for _ in range(3)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
socket.send_fds(other, [b's'], [one.fileno() for one in made])
assert other.recv(1) == b'k'";

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_socket_that_outlives_its_run_is_nobodys() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let path = open_directory(&lab).join("door");
    let keeper = lab.client().command_as(User::Nobody, PYTHON);
    let mut keeper = python(keeper, KEEPER);
    keeper.arg(&path);
    let mut keeper = Running::start(keeper);
    let mut input = keeper.input();
    wait_until("the keeper listens", LIMIT, || path.exists());
    let giver = run(&lab, &daemon, User::Nobody, Way::Server, PYTHON);
    let mut giver = python(giver, GIVER);
    giver.arg(&path);
    finish(giver).success();
    assert_gone(&daemon);
    lab.servers().forget();
    for round in ["same-daemon", "killed", "stopped"] {
        match round {
            "killed" => {
                daemon.process().signal(Signal::SIGKILL);
                wait_until("it is gone", LIMIT, || !daemon.process().is_running());
                daemon.start_again();
            }
            "stopped" => {
                let end = daemon.stop();
                assert!(end.status.success(), "{end}");
                daemon.start_again();
            }
            _ => {}
        }
        // Root's own run may have the number that the other one had.
        let mut roots = run(&lab, &daemon, User::Root, Way::Server, "sleep");
        roots.arg("600");
        let roots = Running::start(roots);
        wait_until("root's run is there", LIMIT, || {
            runs(&daemon)
                .iter()
                .any(|one| one["state"] == "connected" && one["apps"] == 1)
        });
        let capture = lab.capture();
        writeln!(input, "{round}").expect("the keeper reads");
        let file = path.with_file_name(format!("door.{round}"));
        wait_until("the attempt ends", LIMIT, || {
            assert!(keeper.is_running(), "{round}: the keeper is gone");
            file.exists()
        });
        let said = std::fs::read_to_string(file).expect("it exists");
        let failed = said.lines().all(|line| line.contains(" failed "));
        assert!(failed && said.lines().count() == 2, "{round}: {said}");
        let seen = lab.servers().seen();
        assert!(seen.is_empty(), "{round}: {seen:?}");
        capture.packets().assert_only_gateway();
        drop(roots);
    }
}

/// Ends its UDP flows and tells their ports to somebody at once.
const SPEAKER: &str = "import socket, sys
other = socket.socket(socket.AF_UNIX)
other.connect(sys.argv[1])
made = []
for family, address in (socket.AF_INET, '203.0.113.10'), (socket.AF_INET6, '2001:db8::10'):
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.settimeout(10)
    udp.sendto(b'mine', (address, 7))
    udp.recv(100)
    made.append(udp)
ports = '%d %d' % tuple(udp.getsockname()[1] for udp in made)
for udp in made:
    udp.close()
other.sendall(ports.encode())";

/// Takes their place before the daemon can have forgotten them, and tries TCP, too.
const THIEF: &str = "import socket, sys
door = socket.socket(socket.AF_UNIX)
door.bind(sys.argv[1])
door.listen()
other, _ = door.accept()
ways = []
for kind, port in (socket.SOCK_DGRAM, 7), (socket.SOCK_STREAM, 2001), (socket.SOCK_STREAM, 7):
    for number, family, source, address in ((0, socket.AF_INET, '198.18.0.1', '203.0.113.10'),
                                            (1, socket.AF_INET6, '2001:2::1', '2001:db8::10')):
        ways.append((socket.socket(family, kind), number, source, (address, port)))
ports = other.recv(100).split()
for thief, number, source, target in ways:
    try:
        thief.settimeout(0.4)
        if sys.argv[2] == 'device':
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'offramp0')
        thief.bind((source, int(ports[number])))
        thief.connect(target)
        thief.send(b'stolen')
        print('got', thief.recv(100))
    except OSError as error:
        print('failed', error)
    thief.close()";

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_flows_identity_cannot_be_taken_over() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let not_to = |target: SocketAddr| {
        let seen = lab.servers().seen();
        seen.iter().filter(|one| one.target != target).count()
    };
    let path = open_directory(&lab).join("door");
    for (user, way) in [
        (User::Root, "plain"),
        (User::Root, "device"),
        (User::Nobody, "plain"),
    ] {
        lab.servers().forget();
        let capture = lab.capture();
        let mut thief = python(lab.client().command_as(user, PYTHON), THIEF);
        thief.arg(&path).arg(way);
        let thief = Running::start(thief);
        wait_until("the thief waits", LIMIT, || path.exists());
        let app = run(&lab, &daemon, User::Root, Way::Profile, PYTHON);
        let mut app = python(app, SPEAKER);
        app.arg(&path);
        finish(app).success();
        let said = thief.finish(LIMIT).success();
        let failed = said.lines().all(|line| line.starts_with("failed "));
        assert!(failed && said.lines().count() == 6, "{user:?}: {said}");
        std::fs::remove_file(&path).expect("the thief made it");
        // What the thief sent would have come before a later flow; the app itself sent two.
        let plain = run(&lab, &daemon, User::Root, Way::Profile, &probe_path());
        let said = probe(plain, "udp", "203.0.113.11:7");
        assert!(said.contains(" ok "), "{said}");
        let target = "203.0.113.11:7".parse().expect("an address");
        assert_eq!(
            not_to(target),
            2,
            "{user:?}, {way}: {:?}",
            lab.servers().seen()
        );
        capture.packets().assert_only_gateway();
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn datagrams_to_addresses_without_a_name_cost_nobody_else() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let flood = "import socket
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sent = 0
for number in range(40000):
    try:
        udp.sendto(b'x', ('198.18.%d.%d' % (1 + number // 200, 1 + number % 200), 9))
        sent += 1
    except OSError:
        pass
print(sent)";
    for way in WAYS {
        let capture = lab.capture();
        let unknown = daemon.counter("unknown_names");
        let said = finish(python(run(&lab, &daemon, User::Nobody, way, PYTHON), flood)).success();
        assert_works(&lab, &daemon, User::Root);
        assert_works(&lab, &daemon, User::Nobody);
        let unknown = daemon.counter("unknown_names") - unknown;
        assert!(unknown > 1000, "{way:?}: {unknown} arrived of {said}");
        capture.packets().assert_only_gateway();
    }
    assert_gone(&daemon);
}

/// A server of the origin that reads one flow to its end after `begin`, at most `limit` long.
fn read_flow(listener: &TcpListener, begin: impl FnOnce()) -> std::io::Result<Vec<u8>> {
    let (mut flow, _) = listener.accept()?;
    begin();
    flow.set_read_timeout(Some(LIMIT))?;
    let mut bytes = Vec::new();
    flow.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn what_an_app_wrote_before_it_ended_arrives() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let listener = lab
        .origin()
        .enter(|| TcpListener::bind("203.0.113.10:2100"));
    let listener = listener.expect("the port is free");
    let write = "import os, socket, sys
tcp = socket.create_connection(('203.0.113.10', 2100), 10)
tcp.settimeout(None)
tcp.sendall(bytes(number % 251 for number in range(int(sys.argv[1]))))
os._exit(0)";
    // The second is read only after the daemon knows that the app has ended.
    for (size, late) in [(4 << 20, false), (128 << 10, true)] {
        for way in WAYS {
            let mut app = python(run(&lab, &daemon, User::Nobody, way, PYTHON), write);
            app.arg(size.to_string());
            let mut app = Running::start(app);
            let wait = || {
                if late {
                    wait_until("the app has ended", LIMIT, || !app.is_running());
                    wait_until("the daemon knows it", GONE, || apps(&daemon) == 0);
                }
            };
            let read = read_flow(&listener, wait);
            let read = read.unwrap_or_else(|error| panic!("{way:?}, {size}: {error}"));
            assert_eq!(read.len(), size, "{way:?}");
            let whole = (0..size).all(|at| usize::from(read[at]) == at % 251);
            assert!(whole, "{way:?}: other bytes");
            let end = app.finish(LIMIT);
            assert!(end.status.success(), "{end}");
        }
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_download_that_is_cut_never_looks_complete() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let download = "import socket
tcp = socket.create_connection(('203.0.113.10', 19), 10)
tcp.settimeout(30)
tcp.sendall(b'100000000000000\\n')
try:
    while tcp.recv(1 << 16):
        pass
    print('complete')
except OSError as error:
    print('errno', error.errno)";
    for (signal, way) in [
        (Signal::SIGTERM, Way::Profile),
        (Signal::SIGTERM, Way::Server),
        (Signal::SIGKILL, Way::Profile),
        (Signal::SIGKILL, Way::Server),
    ] {
        let app = python(run(&lab, &daemon, User::Nobody, way, PYTHON), download);
        let app = Running::start(app);
        wait_until("bytes come", LIMIT, || {
            let flows = daemon.offramp(&["flows", "--json"]).stdout;
            let flows: Value = serde_json::from_str(&flows).unwrap_or_default();
            flows[0]["received"].as_u64() > Some(1 << 20)
        });
        if signal == Signal::SIGTERM {
            let end = daemon.stop();
            assert!(end.status.success(), "{end}");
        } else {
            daemon.process().signal(signal);
        }
        let said = app.finish(LIMIT).success();
        assert_eq!(said, "errno 104\n", "{signal} {way:?}");
        daemon.start_again();
        assert_works(&lab, &daemon, User::Nobody);
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_user_cannot_keep_the_daemon_from_starting() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let ready = open_directory(&lab).join("ready");
    let squat = "import os, socket, sys
cookie = int.from_bytes(socket.socket().getsockopt(socket.SOL_SOCKET, 71, 8), 'little')
held = []
for name in 'offrampd', 'offramp', 'offramp-%d' % cookie, 'offrampd-%d' % cookie:
    for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
        one = socket.socket(socket.AF_UNIX, kind)
        try:
            one.bind('\\0' + name)
            held.append(one)
        except OSError:
            pass
assert held
for path in '/run/offramp-%d.lock' % cookie, '/run/offramp', '/var/lib/offramp':
    for make in (lambda: open(path, 'w')), (lambda: os.mkdir(path)), (lambda: os.symlink('/', path)):
        try:
            make()
            raise SystemExit('made ' + path)
        except PermissionError:
            pass
        except OSError:
            pass
def lock():
    import fcntl
    fcntl.flock(os.open('/run/offramp-%d.lock' % cookie, os.O_RDONLY), fcntl.LOCK_EX)
open(sys.argv[1], 'w').close()
sys.stdin.readline()
try:
    lock()
    print('locked')
except OSError:
    print('refused')";
    let mut squatter = python(lab.client().command_as(User::Nobody, PYTHON), squat);
    squatter.arg(&ready);
    let mut squatter = Running::start(squatter);
    wait_until("the names are taken", LIMIT, || {
        ready.exists() || !squatter.is_running()
    });
    if !squatter.is_running() {
        panic!("{}", squatter.finish(LIMIT));
    }
    let mut daemon = Daemon::start(&lab);
    assert_works(&lab, &daemon, User::Root);
    squatter.input().write_all(b"go\n").expect("it reads");
    assert_eq!(squatter.finish(LIMIT).success(), "refused\n");
    let end = daemon.stop();
    assert!(end.status.success(), "{end}");
    daemon.start_again();
    assert_works(&lab, &daemon, User::Root);
}

/// Devices, rules, pins and mounts on the client.
fn on_the_machine(lab: &Lab) -> String {
    lab.client().sh(
        "ip -brief link | cut -d' ' -f1; ip rule; ip -6 rule; ip route show table all
         find /sys/fs/bpf -mindepth 1; findmnt -rno TARGET",
    )
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn nested_runs_leave_nothing() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let before = on_the_machine(&lab);
    let mut daemon = Daemon::start(&lab);
    let offramp = binary("offramp").display().to_string();
    let own = format!("{offramp} {}", launch(&lab, &daemon).join(" "));
    let socket = daemon.socket().display().to_string();
    let profile = format!("{offramp} --socket {socket} run --profile {PROFILE} --");
    let inner = [
        format!("{own} true; true"),
        format!("{profile} true; {own} true"),
        format!("exec {own} {own} true"),
        format!("exec {own} {profile} true"),
        format!("{own} sh -c '{own} true; {own} true'; true"),
    ];
    for script in &inner {
        for way in WAYS {
            let mut command = run(&lab, &daemon, User::Root, way, "sh");
            command.args(["-c", script]);
            finish(command).success();
        }
        let mut command = run(&lab, &daemon, User::Nobody, Way::Server, "sh");
        command.args(["-c", script]);
        finish(command).success();
    }
    assert_gone(&daemon);
    assert_works(&lab, &daemon, User::Nobody);
    let end = daemon.stop();
    assert!(end.status.success(), "{end}");
    assert_eq!(on_the_machine(&lab), before);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn many_launches_leave_nothing() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let before = on_the_machine(&lab);
    let mut daemon = Daemon::start(&lab);
    let offramp = binary("offramp").display().to_string();
    let own = format!("{offramp} {}", launch(&lab, &daemon).join(" "));
    let socket = daemon.socket().display().to_string();
    let profile = format!("{offramp} --socket {socket} run --profile {PROFILE} --");
    // Killed at many moments: before the label, with it, and after the exec.
    let script = format!(
        "number=0
         while [ $number -lt 200 ]; do
             number=$((number + 1))
             case $((number % 10)) in
                 0) {own} sleep 600 & sleep 0.0$((number / 20)); kill -9 $! ;;
                 5) {profile} sleep 600 & sleep 0.0$((number / 40)); kill -9 $! ;;
                 3) {own} true || echo own $number: $? ;;
                 *) {profile} true || echo profile $number: $? ;;
             esac
         done"
    );
    let said = lab.client().run_as(User::Nobody, &["sh", "-c", &script]);
    assert_eq!(said.stdout, "", "{said}");
    assert_gone(&daemon);
    assert_works(&lab, &daemon, User::Nobody);
    let end = daemon.stop();
    assert!(end.status.success(), "{end}");
    assert_eq!(on_the_machine(&lab), before);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn an_ended_command_that_its_parent_does_not_wait_for_is_gone() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let before = on_the_machine(&lab);
    let mut daemon = Daemon::start(&lab);
    let parent = "import os, sys, time
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
open(os.environ['READY'], 'w').close()
time.sleep(600)";
    let ready = open_directory(&lab).join("ended");
    let mut parent = python(lab.client().command_as(User::Nobody, PYTHON), parent);
    parent.env("READY", &ready).arg(binary("offramp"));
    parent.args(launch(&lab, &daemon)).arg("true");
    let mut parent = Running::start(parent);
    wait_until("the command has ended", LIMIT, || ready.exists());
    assert_gone(&daemon);
    let end = daemon.stop();
    assert!(end.status.success() && parent.is_running(), "{end}");
    assert_eq!(on_the_machine(&lab), before);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn commands_with_a_server_of_their_own_one_after_another() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let offramp = binary("offramp").display().to_string();
    let own = format!("{offramp} {}", launch(&lab, &daemon).join(" "));
    // More than a user may have at one time, of which each has ended before the next.
    let script = format!("for number in $(seq 100); do {own} true || echo $number: $?; done");
    let said = lab.client().run_as(User::Nobody, &["sh", "-c", &script]);
    assert_eq!(said.stdout, "", "{said}");
    assert_gone(&daemon);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_user_who_takes_all_they_may_stops_nobody_else() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let fill = format!(
        "import socket, sys, time
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(12000):
    try:
        udp.sendto(b'x', ('{BLACK_HOLE}', 1024 + number))
    except OSError:
        pass
    # Slow enough for the daemon to see them all.
    if number % 10 == 0:
        time.sleep(0.005)
sys.stdin.readline()"
    );
    let app = run(&lab, &daemon, User::Nobody, Way::Profile, PYTHON);
    let app = Running::start(python(app, &fill));
    wait_until("the user has no more", LIMIT, || {
        daemon.counter("dropped_datagrams") > 0
    });
    assert_works(&lab, &daemon, User::Root);
    drop(app);
    wait_until("the share is given back", LIMIT, || {
        profiles(&daemon.status())
            .iter()
            .all(|one| one["flows"] == 0)
    });
    assert_works(&lab, &daemon, User::Nobody);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn other_doors_of_name_resolution_are_closed() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    // A folder of the client's own: nothing of it is seen on the machine.
    lab.client()
        .sh("mount -t tmpfs -o mode=755 tmpfs /run; mkdir -p /run/systemd/resolve /run/nscd");
    let daemon = Daemon::start(&lab);
    // Who is let in is sent away: other programs of the client ask nscd, too.
    let serve = "import os, socket, threading
def serve(door):
    while True:
        door.accept()[0].close()
os.umask(0)
for path in '/run/systemd/resolve/io.systemd.Resolve', '/run/nscd/socket', '/run/other':
    door = socket.socket(socket.AF_UNIX)
    door.bind(path)
    door.listen()
    threading.Thread(target=serve, args=(door,)).start()";
    let _server = Running::start(python(lab.client().command(PYTHON), serve));
    wait_until("the doors are open", LIMIT, || {
        !lab.client()
            .sh("ls /run/other 2>/dev/null || true")
            .is_empty()
    });
    let knock = "import socket
for path in ('/run/systemd/resolve/io.systemd.Resolve', '/var/run/systemd/resolve/io.systemd.Resolve',
             '/run/nscd/socket', '/var/run/nscd/socket', '/run/other'):
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print('open')
    except OSError as error:
        print(error.errno)";
    for user in [User::Root, User::Nobody] {
        let closed = daemon.counter("kernel_closed_doors");
        for way in WAYS {
            let said = finish(python(run(&lab, &daemon, user, way, PYTHON), knock));
            assert_eq!(said.success(), "111\n111\n111\n111\nopen\n", "{user:?}");
        }
        assert_eq!(daemon.counter("kernel_closed_doors") - closed, 8);
        let said = finish(python(lab.client().command_as(user, PYTHON), knock));
        assert_eq!(said.success(), "open\n".repeat(5), "{user:?}");
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_resolver_on_an_excluded_network_is_not_asked() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let resolver = [SocketAddr::from((ROUTER, 53)), (ROUTER6, 53).into()].map(|address| {
        let socket = lab.router().enter(|| std::net::UdpSocket::bind(address));
        socket.expect("the port is free")
    });
    let file = lab.directory().join("client-resolv.conf");
    std::fs::write(
        &file,
        format!("nameserver {ROUTER}\nnameserver {ROUTER6}\n"),
    )
    .expect("the lab's directory is ours");
    lab.client()
        .sh(&format!("mount --bind {} /etc/resolv.conf", file.display()));
    let mut profile = Daemon::profile();
    profile["Payload"]["NetworkRouting"] = json!({ "ExcludeLocalNetworks": true });
    let daemon = Daemon::start_with(&lab, &[profile]);
    let capture = lab.capture();
    for user in [User::Root, User::Nobody] {
        let said = daemon.run_as(user, &["curl", "-sS", "http://origin.test/"]);
        let said = said.success();
        assert!(
            said.contains("peer=10.90.2.2:") || said.contains("peer=[fd00:90:2::2]:"),
            "{said}"
        );
        for server in [ROUTER.to_string(), ROUTER6.to_string()] {
            for way in ["+notcp", "+tcp"] {
                let server = format!("@{server}");
                let line = ["dig", way, "+short", "+tries=1", &server, "v4.test", "A"];
                let said = daemon.run_as(user, &line).success();
                assert!(said.starts_with("198.1"), "{server} {way}: {said}");
            }
        }
    }
    capture.packets().assert_only_gateway();
    drop(resolver);
}

/// A server for one IPv4 and one IPv6 connection, and what is heard of it from `host`.
const SERVER: &str = "import socket, threading
def serve(tcp):
    while True:
        flow, _ = tcp.accept()
        flow.sendall(b'managed')
        flow.close()
for family, address in (socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::'):
    tcp = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        tcp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind((address, 7000))
    tcp.listen()
    threading.Thread(target=serve, args=(tcp,)).start()";

fn ask(host: &offramp_tests::Host, server: SocketAddr) -> std::io::Result<String> {
    host.enter(|| {
        let mut flow = TcpStream::connect_timeout(&server, Duration::from_secs(2))?;
        flow.set_read_timeout(Some(LIMIT))?;
        let mut said = String::new();
        flow.read_to_string(&mut said)?;
        Ok(said)
    })
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn outsiders_hear_a_managed_server_only_where_the_profile_says_so() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let servers: [SocketAddr; 2] = [(CLIENT, 7000).into(), (CLIENT6, 7000).into()];
    for allowed in [true, false] {
        let mut profile = Daemon::profile();
        profile["Payload"]["AllowInbound"] = allowed.into();
        let mut daemon = Daemon::start_with(&lab, &[profile]);
        let app = run(&lab, &daemon, User::Nobody, Way::Profile, PYTHON);
        let app = Running::start(python(app, SERVER));
        wait_until("the server listens", LIMIT, || {
            servers.iter().all(|server| {
                let said = ask(lab.client(), *server);
                said.is_ok_and(|said| said == "managed")
            })
        });
        let capture = lab.capture();
        for server in servers {
            let said = ask(lab.router(), server);
            assert_eq!(
                said.is_ok_and(|said| said == "managed"),
                allowed,
                "{server}"
            );
        }
        let packets = capture.packets();
        let answers = packets.0.iter().filter(|one| servers.contains(&one.source));
        assert_eq!(answers.count() > 0, allowed, "answers on the wire");
        drop(app);
        let end = daemon.stop();
        assert!(end.status.success(), "{end}");
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_datagram_arrives_though_its_socket_is_closed_at_once() {
    const COUNT: usize = 50;
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let send = format!(
        "import socket
for number in range({COUNT}):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(b'%d' % number, ('203.0.113.10', 7))"
    );
    for way in WAYS {
        lab.servers().forget();
        finish(python(run(&lab, &daemon, User::Nobody, way, PYTHON), &send)).success();
        let end = Instant::now() + Duration::from_secs(10);
        while lab.servers().seen().len() < COUNT && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let arrived = lab.servers().seen().len();
        eprintln!("{way:?}: {arrived} of {COUNT} arrived");
        assert!(arrived >= COUNT - 2, "{way:?}: {arrived} of {COUNT}");
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_user_who_may_not_remove_a_profile_is_told_so() {
    let lab = Lab::new();
    let daemon = Daemon::prepare(&lab);
    daemon.write("policies/managed/0.json", &Daemon::profile().to_string());
    let config = daemon.config("").display().to_string();
    // As `profile install` leaves it, and as a careful administrator does.
    for mode in [0o644, 0o600] {
        let file = daemon.config("policies/managed/0.json");
        std::fs::set_permissions(file, PermissionsExt::from_mode(mode)).expect("it is ours");
        let mut command = lab.client().command_as(User::Nobody, binary("offramp"));
        command.args(["profile", "remove", "--config", &config, PROFILE]);
        let said = finish(command);
        assert_eq!(said.status.code(), Some(2), "{mode:o}: {said}");
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_user_sees_and_changes_nothing_of_roots() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let mut command = run(&lab, &daemon, User::Root, Way::Server, &probe_path());
    command.args(["open", "3", &echo()]).stdin(Stdio::piped());
    let mut roots = Running::start(command);
    wait_until("root's flows are open", LIMIT, || {
        lab.servers().seen().len() == 3
    });
    assert_eq!(runs(&daemon)[0]["flows"], 3);
    let offramp = |line: &[&str]| {
        let mut command = lab.client().command_as(User::Nobody, binary("offramp"));
        command.arg("--socket").arg(daemon.socket()).args(line);
        finish(command)
    };
    let status: Value =
        serde_json::from_str(&offramp(&["status", "--json"]).stdout).expect("JSON was asked for");
    for profile in profiles(&status) {
        assert_eq!(profile["identifier"], PROFILE, "{status}");
        assert!(profile["flows"] == 0 && profile["apps"] == 0, "{status}");
    }
    assert_eq!(status["counters"], json!({}), "{status}");
    let flows: Value =
        serde_json::from_str(&offramp(&["flows", "--json"]).stdout).expect("JSON was asked for");
    assert_eq!(flows, json!([]));
    let roots_run = runs(&daemon)[0]["identifier"].clone();
    let roots_run = roots_run.as_str().expect("it has a name");
    let file = lab.directory().join("profile.json");
    std::fs::write(&file, Daemon::profile().to_string()).expect("the directory is ours");
    let file = file.display().to_string();
    let config = daemon.config("").display().to_string();
    for (line, statuses) in [
        (&["off", "--profile", PROFILE][..], [2, 77]),
        (&["off", "--profile", roots_run], [2, 77]),
        (&["on", "--profile", PROFILE], [2, 77]),
        (&["profile", "install", "--config", &config, &file], [2, 77]),
    ] {
        let said = offramp(line);
        let code = said.status.code().unwrap_or(-1);
        assert!(statuses.contains(&code), "{line:?}: {said}");
        assert!(!said.to_string().contains("203.0.113"), "{said}");
    }
    // All that a user may switch is nothing.
    assert!(!offramp(&["off"]).stdout.contains(PROFILE));
    let show = offramp(&["profile", "show", roots_run]);
    assert!(!show.status.success(), "{show}");
    for (method, path) in [
        ("POST", "/v1/reload"),
        ("GET", "/v1/metrics"),
        ("POST", "/v1/profiles"),
        ("DELETE", "/v1/profiles/test.lab"),
    ] {
        let mut curl = lab.client().command_as(User::Nobody, "curl");
        curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"]);
        curl.arg("--unix-socket").arg(daemon.socket());
        curl.args(["-X", method, &format!("http://offramp{path}"), "-d", "{}"]);
        assert_eq!(finish(curl).success(), "403", "{method} {path}");
    }
    roots.input().write_all(b"go\n").expect("the probe reads");
    let said = roots.finish(LIMIT).success();
    assert!(said.contains("working 3 {}"), "{said}");
    assert_works(&lab, &daemon, User::Root);
}
