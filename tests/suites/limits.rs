//! Limits, reached for real: what is too much is refused with a reason, what is open goes on, and
//! others notice nothing.

#[path = "limits/control.rs"]
mod control;
#[path = "limits/flood.rs"]
mod flood;
#[path = "limits/names.rs"]
mod names;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use offramp_tests::addresses::target;
use offramp_tests::{
    Daemon, Gateway, Held, Lab, Person, Running, User, copy_probe, port, wait_until,
};

const LIMIT: Duration = Duration::from_secs(60);
/// With so few descriptors there are 240 TCP flows and 120 targets of UDP: a user may have a quarter,
/// a program half of that, root all that is left.
const DESCRIPTORS: u32 = 1200;
const OF_USER: usize = 60;
const OF_PROGRAM: usize = 30;
const OF_ROOTS_PROGRAM: usize = 240 - OF_USER - 10 - 1;

fn echo() -> String {
    format!("{}:{}", target(1), port::ECHO)
}

/// A daemon with low limits.
fn small(lab: &Lab) -> Daemon<'_> {
    let mut daemon = Daemon::prepare(lab);
    daemon.write("policies/managed/0.json", &Daemon::profile().to_string());
    daemon.limit_descriptors(DESCRIPTORS);
    daemon.start_again();
    daemon
}

/// A program that has tried to open flows, and keeps those that it has.
struct Opener(Running);

impl Opener {
    fn start(mut command: Command, count: usize, target: &str) -> Self {
        command.args(["open", &count.to_string(), target]);
        let mut running = Running::start({
            command.stdin(Stdio::piped());
            command
        });
        wait_until("all flows are open or not", LIMIT, || {
            running.said().contains('\n') || !running.is_running()
        });
        Self(running)
    }

    /// How many it has.
    fn open(&self) -> usize {
        let said = self.0.said();
        let count = said
            .strip_prefix("open ")
            .and_then(|rest| rest.split(' ').next());
        count
            .and_then(|count| count.parse().ok())
            .unwrap_or_else(|| panic!("{said}"))
    }

    /// How many of them still work.
    fn working(mut self) -> usize {
        self.0
            .input()
            .write_all(b"go\n")
            .expect("the probe waits for it");
        let said = self.0.finish(LIMIT).success();
        let line = said
            .lines()
            .nth(1)
            .and_then(|line| line.strip_prefix("working "));
        let count = line.and_then(|line| line.split(' ').next()?.parse().ok());
        count.unwrap_or_else(|| panic!("{said}"))
    }
}

/// A program of a user's under the lab's profile.
fn under(daemon: &Daemon<'_>, person: &Person<'_>, program: &Path) -> Command {
    let mut command = person.command(offramp_tests::binary("offramp"));
    command.arg("--socket").arg(daemon.socket());
    command
        .args(["run", "--profile", offramp_tests::PROFILE, "--"])
        .arg(program);
    command
}

fn descriptors(process: i32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count)
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn flows_of_programs_users_and_descriptors() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = small(&lab);
    let (eve, bob) = (Person::new(&lab, 4242), Person::new(&lab, 4343));
    let programs: Vec<_> = ["one", "two", "three"]
        .map(|name| copy_probe(&lab, name))
        .into();
    let mut follow = lab.client().command(offramp_tests::binary("offramp"));
    follow
        .arg("--socket")
        .arg(daemon.socket())
        .args(["flows", "--follow"]);
    let follow = Running::start(follow);
    let before = Held::open(&daemon, &echo());

    let start = |number: usize| {
        Opener::start(
            under(&daemon, &eve, &programs[number]),
            OF_PROGRAM + 10,
            &echo(),
        )
    };
    let eves = [start(0), start(1), start(2)];
    let open = eves.each_ref().map(Opener::open);
    assert_eq!(
        open,
        [OF_PROGRAM, OF_PROGRAM, 0],
        "of a program, and {OF_USER} of a user"
    );
    // Many more, as fast as she can: they are told of in few lines.
    let mut flood = under(&daemon, &eve, &programs[2]);
    flood.args(["short", "3000", &echo()]);
    let said = Running::start(flood).finish(LIMIT).success();
    assert!(said.starts_with("done 0 "), "{said}");

    let bobs = Opener::start(under(&daemon, &bob, &programs[0]), 10, &echo());
    assert_eq!(bobs.open(), 10, "others have their own");
    let roots = Opener::start(
        daemon.command_as(User::Root, &text(&programs[0])),
        400,
        &echo(),
    );
    assert_eq!(roots.open(), OF_ROOTS_PROGRAM);
    let id = daemon.process().id();
    assert!(
        descriptors(id) < DESCRIPTORS as usize / 2,
        "{}",
        descriptors(id)
    );

    told(&daemon, &eve, &bob);
    wait_until("the limit is told to who follows", LIMIT, || {
        let said = follow.said();
        said.contains("one user may have 60") && said.contains("one program of a user may have 30")
    });
    for (whose, opener, count) in [
        ("eve's first", 0, OF_PROGRAM),
        ("eve's second", 1, OF_PROGRAM),
    ]
    .map(|(whose, number, count)| (whose, number, count))
    {
        assert_eq!(eves[opener].open(), count, "{whose}");
    }
    let [first, second, third] = eves;
    assert_eq!(
        first.working() + second.working(),
        OF_USER,
        "what was open goes on"
    );
    drop(third);
    assert_eq!((bobs.working(), roots.working()), (10, OF_ROOTS_PROGRAM));
    assert!(before.works());
    // What was given back is there again.
    let again = Opener::start(under(&daemon, &eve, &programs[2]), 5, &echo());
    assert_eq!(again.working(), 5);
    drop(follow);
    let log = daemon.stop();
    let lines = log.stdout.lines().chain(log.stderr.lines());
    let reached = lines.filter(|line| line.contains("limit reached")).count();
    assert!((3..20).contains(&reached), "{reached} lines: {log}");
}

/// The user who reached a limit is told so, others are not, root is.
fn told(daemon: &Daemon<'_>, eve: &Person<'_>, bob: &Person<'_>) {
    let status = |said: String| {
        assert!(said.contains("one user may have 60"), "{said}");
        assert!(said.contains("TCP flows"), "{said}");
    };
    status(eve.offramp(daemon, &["status"]).stdout);
    status(daemon.offramp(&["status"]).stdout);
    let doctor = eve.offramp(daemon, &["doctor"]).stdout;
    assert!(
        doctor.contains("limits") && doctor.contains("of user 4242"),
        "{doctor}"
    );
    for said in [
        bob.offramp(daemon, &["status"]),
        bob.offramp(daemon, &["doctor"]),
    ] {
        assert!(!said.stdout.contains("4242"), "{said}");
    }
    let over = daemon.counter("over_budget");
    assert!(over >= 3000, "{over}");
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Sends to one echo, to many other targets, and to the echo again.
const DATAGRAMS: &str = r#"
import socket, sys
echo, other, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20)
def ask():
    s.sendto(b"hello", (echo, 7))
    while True:
        data, peer = s.recvfrom(2000)
        if peer == (echo, 7):
            return data.endswith(b"hello")
first = ask()
for n in range(count):
    s.sendto(b"x", (other, 3000 + n))
print(first, ask())
"#;

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn targets_of_udp_sockets() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = small(&lab);
    let (eve, bob) = (Person::new(&lab, 4242), Person::new(&lab, 4343));
    let ask = |person: &Person<'_>, count: &str| {
        let mut command = under(&daemon, person, Path::new("/usr/bin/python3"));
        let (echo, other) = (target(1).to_string(), target(2).to_string());
        command.args(["-c", DATAGRAMS, &echo, &other, count]);
        Running::start(command).finish(LIMIT).success()
    };
    assert_eq!(ask(&eve, "200"), "True True\n", "the first target goes on");
    let told = eve.offramp(&daemon, &["status"]).stdout;
    assert!(
        told.contains("targets of UDP sockets: one program of a user may have 15"),
        "{told}"
    );
    assert_eq!(ask(&bob, "5"), "True True\n", "others have their own");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn lines_of_the_log() {
    const FLOWS: usize = 5000;
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let program = text(&copy_probe(&lab, "many"));
    let mut command = daemon.command_as(User::Nobody, &program);
    command.args(["short", &FLOWS.to_string(), &echo()]);
    let said = Running::start(command).finish(LIMIT * 2).success();
    assert_eq!(said, format!("done {FLOWS} {{}}\n"));
    // Another user's lines are not left out for that.
    daemon.run(&[&program, "short", "1", &echo()]).success();
    let log = daemon.stop();
    let all = log.stdout.clone() + &log.stderr;
    let own = |line: &&str| line.contains("flow ended") && line.contains("uid=0");
    assert_eq!(all.lines().filter(own).count(), 1, "{all}");
    let ended = all
        .lines()
        .filter(|line| line.contains("flow ended"))
        .count();
    assert!((1000..FLOWS - 500).contains(&ended), "{ended} lines");
}
