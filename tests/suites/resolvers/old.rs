//! Addresses that programs keep for longer than the daemon lives.

use std::io::Write;
use std::process::{ChildStdin, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use offramp_tests::{Daemon, Gateway, Lab, Running, User, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// Looks a name up once; for each line of its input it visits all addresses that it got then.
const PROGRAM: &str = "import socket, sys
kept = [found[4][:2] for found in socket.getaddrinfo(sys.argv[1], 80, type=socket.SOCK_STREAM)]
print(len(kept), 'addresses', flush=True)
for line in sys.stdin:
    for address in kept:
        try:
            flow = socket.create_connection(address, 20)
            flow.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
            print(flow.makefile().read().split('\\n')[-2], flush=True)
        except OSError as error:
            print('error', error, flush=True)
";

struct Keeper {
    running: Running,
    input: ChildStdin,
    read: usize,
}

impl Keeper {
    fn start(daemon: &Daemon<'_>, name: &str) -> Self {
        let mut command = daemon.command_as(User::Nobody, "/usr/bin/python3");
        command.args(["-c", PROGRAM, name]);
        let mut running = Running::start({
            command.stdin(Stdio::piped());
            command
        });
        wait_until("the name is looked up", LIMIT, || {
            running.said().contains("addresses")
        });
        assert!(running.said().starts_with("2 "), "{}", running.said());
        Self {
            input: running.input(),
            running,
            read: 1,
        }
    }

    /// Visits both addresses and returns what came of it.
    fn visits(&mut self) -> Vec<String> {
        self.input.write_all(b"go\n").expect("the program reads it");
        let end = self.read + 2;
        wait_until("both addresses are visited", LIMIT, || {
            self.running.said().matches('\n').count() >= end
        });
        let said = self.running.said();
        let lines = said.lines().skip(self.read).map(String::from);
        self.read = end;
        lines.collect()
    }
}

fn are_relayed(visits: &[String]) -> bool {
    visits.iter().all(|visit| {
        visit.starts_with("peer=10.90.2.2:") || visit.starts_with("peer=[fd00:90:2::2]:")
    })
}

/// Whether a file of the daemon's state has this name.
fn is_noted(daemon: &Daemon<'_>, name: &str) -> bool {
    let state = daemon.directory().join("state");
    let files = std::fs::read_dir(state).expect("the daemon has made it");
    let mut texts = files.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok());
    texts.any(|text| text.contains(name))
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn an_address_from_before_a_restart() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let capture = lab.capture();
    let mut keeper = Keeper::start(&daemon, "origin.test");
    let visits = keeper.visits();
    assert!(are_relayed(&visits), "at first: {visits:?}");
    daemon.stop();
    let visits = keeper.visits();
    assert!(
        visits.iter().all(|visit| visit.starts_with("error")),
        "{visits:?}"
    );
    daemon.start_again();
    let visits = keeper.visits();
    assert!(are_relayed(&visits), "after a stop: {visits:?}");
    // A name that the daemon has had the time to note, and never a chance to take leave of.
    let mut young = Keeper::start(&daemon, "deep.wild.test");
    wait_until("the name is noted", LIMIT, || {
        is_noted(&daemon, "deep.wild.test")
    });
    daemon.process().signal(Signal::SIGKILL);
    daemon.start_again();
    for keeper in [&mut keeper, &mut young] {
        let visits = keeper.visits();
        assert!(are_relayed(&visits), "after it was killed: {visits:?}");
    }
    let before = daemon.take_over();
    for keeper in [&mut keeper, &mut young] {
        let visits = keeper.visits();
        assert!(are_relayed(&visits), "after a takeover: {visits:?}");
    }
    before.finish(LIMIT).success();
    capture.packets().assert_only_gateway();
}
