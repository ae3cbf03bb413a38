//! What people read where a look-up, or what follows it, cannot go well.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use offramp_tests::{Daemon, Gateway, Lab, PROFILE, Running, User, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// Programs (`$1` is the name), with what they say where the name does not exist, where the profile
/// is off or its proxy away, and where the daemon is dead.
const PROGRAMS: [(&str, [&str; 3]); 6] = [
    (
        "curl -sS http://$1/",
        [
            "Connection reset by peer",
            "Couldn't connect to server",
            "Could not resolve host",
        ],
    ),
    (
        "wget -nv -O- --tries=1 http://$1/",
        [
            "Connection reset by peer",
            "Connection refused",
            "unable to resolve host address",
        ],
    ),
    (
        "ssh -F /dev/null $1",
        [
            "Connection reset by peer",
            "Connection refused",
            "Could not resolve hostname",
        ],
    ),
    (
        "git ls-remote http://$1/",
        [
            "Connection reset by peer",
            "Couldn't connect to server",
            "Could not resolve host",
        ],
    ),
    (
        "node -e 'fetch(process.argv[1]).catch((e) => console.log(e.cause.code))' http://$1/",
        ["ECONNRESET", "ECONNREFUSED", "EAI_AGAIN"],
    ),
    ("dig +short $1", ["198.1", "198.1", "connection refused"]),
];

/// A shell under the profile that starts all programs for each name that it is told.
struct Shell {
    running: Running,
    input: std::process::ChildStdin,
    wrong: Vec<String>,
}

impl Shell {
    fn start(daemon: &Daemon<'_>) -> Self {
        let lines = PROGRAMS.map(|(line, _)| format!("{line} 2>&1; echo END;"));
        let script = format!(
            "while read -r name; do set - $name; {} done",
            lines.concat()
        );
        let mut command = daemon.command_as(User::Nobody, "sh");
        command.args(["-c", &script]).stdin(Stdio::piped());
        let mut running = Running::start(command);
        Self {
            input: running.input(),
            running,
            wrong: Vec::new(),
        }
    }

    /// Starts the programs for `name` and holds what they say against column `column`.
    fn check(&mut self, state: &str, name: &str, column: usize) {
        let ends = || self.running.said().matches("END\n").count();
        let before = ends();
        writeln!(self.input, "{name}").expect("the shell reads it");
        wait_until("all programs have ended", LIMIT, || {
            ends() == before + PROGRAMS.len()
        });
        let said = self.running.said();
        for ((line, expected), said) in PROGRAMS.iter().zip(said.split("END\n").skip(before)) {
            if !said.contains(expected[column]) {
                self.wrong.push(format!("{state}, {line}: {said}"));
            }
        }
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn messages_where_there_is_no_way() {
    let lab = Lab::new();
    let mut gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let mut shell = Shell::start(&daemon);
    shell.check("no such name", "nowhere.test", 0);
    daemon.offramp(&["off", "--profile", PROFILE]).success();
    shell.check("off", "origin.test", 1);
    daemon.offramp(&["on", "--profile", PROFILE]).success();
    gateway.stop();
    wait_until("the daemon has noticed", LIMIT, || {
        daemon.offramp(&["status"]).stdout.contains("disconnected")
    });
    shell.check("away", "origin.test", 1);
    daemon.process().signal(Signal::SIGKILL);
    shell.check("dead", "origin.test", 2);
    // A daemon that ends well cleans up.
    gateway.start_again(&lab);
    daemon.start_again();
    assert!(shell.wrong.is_empty(), "{}", shell.wrong.join("\n"));
}
