//! The unit of the daemon, when its program is replaced.

use std::io::Write;
use std::process::Stdio;

use offramp_tests::addresses::ORIGIN;
use offramp_tests::{Gateway, Lab, Running, port, wait_until};

use super::machine::Machine;
use super::{LIMIT, add_probe, with_a_rule};

const DAEMON: &str = "offrampd.service";

/// A flow of the managed program, held open.
struct Flow(Running);

impl Flow {
    fn open(machine: &Machine<'_>) -> Self {
        let mut command = machine.command("named");
        command
            .args(["open", "1", &format!("{ORIGIN}:{}", port::ECHO)])
            .stdin(Stdio::piped());
        let mut running = Running::start(command);
        wait_until("the flow is open", LIMIT, || {
            running.said().contains("open ") || !running.is_running()
        });
        assert!(running.said().contains("open 1 {}"), "{}", running.said());
        Self(running)
    }

    /// Uses it once more, and ends it.
    #[track_caller]
    fn assert_works(mut self) {
        self.0
            .input()
            .write_all(b"go\n")
            .expect("the probe waits for it");
        let said = self.0.finish(LIMIT).success();
        assert!(said.contains("working 1 {}"), "{said}");
    }
}

/// Puts another file in the place of the program, as an upgrade does.
fn replace(machine: &Machine<'_>) {
    let copy = "cd /usr/local/bin; cp offrampd next; mv next offrampd";
    machine.run(&["sh", "-euc", copy]).success();
}

/// The unit has a daemon, and has never been started again.
#[track_caller]
fn main_pid(machine: &Machine<'_>) -> String {
    assert_eq!(machine.property(DAEMON, "ActiveState"), "active");
    assert_eq!(machine.property(DAEMON, "NRestarts"), "0");
    machine.property(DAEMON, "MainPID")
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_unit_follows_the_program_that_takes_over() {
    let lab = Lab::new();
    let gateway = Gateway::start(&lab);
    let (mut machine, _) = with_a_rule(&lab);
    add_probe(&lab, "named");
    machine.enable(DAEMON);
    machine.boot();
    machine
        .run(&["offramp", "status", "--wait", "30"])
        .success();
    let reload = || machine.systemctl(&["reload", DAEMON]);
    let runs = |pid: &str| machine.run(&["kill", "-0", pid]).status.success();

    // The same program: it stays.
    let first = main_pid(&machine);
    reload().success();
    assert_eq!(main_pid(&machine), first);

    // Another: it goes on beside the flows of the one before.
    let flow = Flow::open(&machine);
    replace(&machine);
    let said = machine.run(&["offrampd", "reload"]).failure();
    assert!(said.contains("systemctl reload offrampd"), "{said}");
    assert_eq!(main_pid(&machine), first);
    reload().success();
    let second = main_pid(&machine);
    assert_ne!(second, first);
    assert!(runs(&first));
    let environment = format!("tr '\\0' '\\n' </proc/{second}/environ");
    let environment = machine.run(&["sh", "-c", &environment]).success();
    assert!(
        environment.contains("WATCHDOG_USEC=10000000\n"),
        "{environment}"
    );

    // A third has to wait for the end of the first.
    replace(&machine);
    reload().failure();
    assert_eq!(main_pid(&machine), second);
    flow.assert_works();
    wait_until("the first one ends", LIMIT, || !runs(&first));
    assert_eq!(main_pid(&machine), second);

    // The second one's signs of life are those of the service.
    let sign = || machine.property(DAEMON, "WatchdogTimestampMonotonic");
    for _ in 0..4 {
        let last = sign();
        wait_until("it gives a sign of life", LIMIT, || sign() != last);
    }
    assert_eq!(main_pid(&machine), second);

    // A stop ends both.
    let flow = Flow::open(&machine);
    reload().success();
    let third = main_pid(&machine);
    assert!(third != second && runs(&second));
    machine.systemctl(&["stop", DAEMON]).success();
    assert_eq!(machine.property(DAEMON, "ActiveState"), "inactive");
    assert_eq!(machine.property(DAEMON, "Result"), "success");
    assert!(!runs(&second) && !runs(&third));
    let said = machine.run(&["offrampd", "reload"]).failure();
    assert!(said.contains("no daemon answers"), "{said}");
    drop(flow);

    // One that has taken over and hangs is ended and started again.
    machine.systemctl(&["start", DAEMON]).success();
    machine
        .run(&["offramp", "status", "--wait", "30"])
        .success();
    replace(&machine);
    reload().success();
    let fourth = main_pid(&machine);
    machine.run(&["kill", "-STOP", &fourth]).success();
    wait_until("it is started again", LIMIT, || {
        machine.property(DAEMON, "NRestarts") == "1"
    });
    machine.systemctl(&["stop", DAEMON]).success();
    drop(gateway);
}
