//! Other BPF programs at control groups.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libbpf_rs::libbpf_sys::{self, bpf_insn};
use offramp_tests::{Daemon, Gateway, Lab, Running};

use super::doctor::check;

const EGRESS: u32 = libbpf_sys::BPF_CGROUP_INET_EGRESS;
const LIMIT: Duration = Duration::from_secs(30);
/// How a program is attached, as the kernel has it: alone, to be replaced by those below, with
/// others.
const MODES: [(&str, u32); 3] = [("alone", 0), ("overridden", 1), ("multi", 2)];

/// A program that lets everything pass.
#[expect(unsafe_code, reason = "libbpf-rs loads objects alone")]
fn neighbour() -> OwnedFd {
    // r0 = 1; exit
    let instruction = |code: u8, value: i32| {
        let mut instruction = bpf_insn {
            code,
            ..bpf_insn::default()
        };
        instruction.imm = value;
        instruction
    };
    let instructions = [instruction(0xb7, 1), instruction(0x95, 0)];
    // SAFETY: the kernel reads two instructions and two strings, and keeps none of them.
    let program = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_CGROUP_SKB,
            c"neighbour".as_ptr(),
            c"GPL".as_ptr(),
            instructions.as_ptr(),
            2,
            std::ptr::null_mut(),
        )
    };
    assert!(program >= 0, "not loaded: {program}");
    // SAFETY: the kernel has just made it and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(program) }
}

/// The program at a control group; dropped, it is there no more.
struct Attached {
    program: OwnedFd,
    cgroup: File,
}

impl Attached {
    #[expect(
        unsafe_code,
        reason = "libbpf-rs attaches by link alone, which is always multi"
    )]
    fn new(cgroup: &Path, mode: u32) -> Self {
        let program = neighbour();
        let cgroup = File::open(cgroup).expect("it exists");
        // SAFETY: two open descriptors and two numbers.
        let error = unsafe {
            libbpf_sys::bpf_prog_attach(program.as_raw_fd(), cgroup.as_raw_fd(), EGRESS, mode)
        };
        assert_eq!(error, 0, "not attached in mode {mode}");
        Self { program, cgroup }
    }
}

impl Drop for Attached {
    #[expect(unsafe_code, reason = "see new")]
    fn drop(&mut self) {
        // SAFETY: two open descriptors and a number.
        unsafe {
            libbpf_sys::bpf_prog_detach2(self.program.as_raw_fd(), self.cgroup.as_raw_fd(), EGRESS);
        }
    }
}

/// A control group of the test's own.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc is there");
        let root = mounts
            .lines()
            .filter(|line| line.contains(" - cgroup2 "))
            .find_map(|line| line.split(' ').nth(4))
            .expect("cgroup2 is mounted");
        let path = Path::new(root).join(format!("offramp-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("root may do this");
        Self(path)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let end = std::time::Instant::now() + LIMIT;
        while std::fs::remove_dir(&self.0).is_err() && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What a managed program in this control group gets.
fn managed(daemon: &Daemon<'_>, group: &Group) -> String {
    let script = format!(
        "echo $$ > {}/cgroup.procs; curl -sS --max-time 5 http://203.0.113.10/",
        group.0.display()
    );
    daemon.run(&["sh", "-c", &script]).stdout
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn programs_at_a_control_group_below() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let group = Group::new("below");
    for (mode, flags) in MODES {
        let before = Attached::new(&group.0, flags);
        let mut daemon = Daemon::start(&lab);
        let said = managed(&daemon, &group);
        assert!(
            said.contains("peer=10.90.2.2:"),
            "{mode}, before us: {said}"
        );
        drop(before);
        let _after = Attached::new(&group.0, flags);
        let said = managed(&daemon, &group);
        assert!(said.contains("peer=10.90.2.2:"), "{mode}, after us: {said}");
        let end = daemon.stop();
        assert!(end.status.success(), "{mode}: {end}");
    }
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_program_with_others_at_the_root() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let group = Group::new("root");
    let root = group.0.parent().expect("it has one");
    let _before = Attached::new(root, 2);
    let daemon = Daemon::start(&lab);
    let said = managed(&daemon, &group);
    assert!(said.contains("peer=10.90.2.2:"), "{said}");
    let (outcome, detail, _) = check(&daemon, "other programs");
    assert_eq!(outcome, "ok", "{detail}");
    assert!(detail.contains("neighbour (id "), "{detail}");
    assert!(detail.contains("cgroup_inet_egress"), "{detail}");
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_program_that_suffers_no_other() {
    let lab = Lab::new();
    let daemon = Daemon::prepare(&lab);
    // In a control group namespace a group is the root, so that no other lab is disturbed.
    let group = Group::new("alone");
    let place = lab.directory().join("cgroup2");
    std::fs::create_dir(&place).expect("the directory is ours");
    let start = || {
        let inner = daemon.command();
        let line: Vec<_> = inner
            .get_args()
            .map(|part| part.to_string_lossy())
            .collect();
        let line = line.join(" ");
        let script = format!(
            "echo $$ > {}/cgroup.procs
             exec nsenter {line}",
            group.0.display()
        );
        let script = script.replace(
            &format!(" {}", offramp_tests::binary("offrampd").display()),
            &format!(
                " unshare --cgroup --mount sh -c 'mount -t cgroup2 none {0}; exec \"$@\"' sh {1}",
                place.display(),
                offramp_tests::binary("offrampd").display()
            ),
        );
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script]);
        Running::start(command).stop_with(nix::sys::signal::Signal::SIGTERM)
    };
    for (mode, flags) in &MODES[..2] {
        let _alone = Attached::new(&group.0, *flags);
        let said = start().finish(LIMIT).failure();
        assert!(said.contains("neighbour (id "), "{mode}: {said}");
        assert!(said.contains("bpftool cgroup detach"), "{mode}: {said}");
        assert!(said.contains("cgroup_inet_egress"), "{mode}: {said}");
    }
    let mut running = start();
    offramp_tests::wait_until("it starts where nobody is alone", LIMIT, || {
        assert!(running.is_running(), "it ended");
        daemon.offramp(&["status"]).status.success()
    });
}
