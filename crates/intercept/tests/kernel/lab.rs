//! A capture in a network namespace of its own, and programs to run under it.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, unshare};
use offramp_intercept::{Capture, Class, ClassId, Config, Event, Exec, Label, Sockets};

/// The source of what is captured, and that of what is not.
pub(crate) const CAPTURED: &str = "198.18.0.1";
pub(crate) const DIRECT: &str = "192.0.2.1";

pub(crate) struct Lab {
    _pins: Pins,
    pub(crate) capture: Capture,
    pub(crate) sockets: Sockets,
    pub(crate) class: ClassId,
    pub(crate) config: Config,
    pub(crate) runtime: tempfile::TempDir,
}

/// A namespace with one address and a default route to nowhere, and a capture for it.
pub(crate) async fn lab(instance: &str) -> Lab {
    unshare(CloneFlags::CLONE_NEWNET).expect("root makes a network namespace");
    for arguments in [
        "link set lo up",
        "link add wire0 type veth peer name wire1",
        "addr add 192.0.2.1/24 dev wire0",
        "addr add 2001:db8::1/64 dev wire0 nodad",
        "link set wire0 up",
        "link set wire1 up",
        "route add default via 192.0.2.254",
        "route add default via 2001:db8::254",
    ] {
        let done = Command::new("ip")
            .args(arguments.split(' '))
            .status()
            .expect("ip starts");
        assert!(done.success(), "ip {arguments}");
    }
    // Where anybody may have a ping socket, so that it is ours that refuses one.
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")
        .expect("the setting exists");
    let runtime = tempfile::tempdir().expect("a folder is made");
    let config = Config {
        bpffs: PathBuf::from("/sys/fs/bpf"),
        runtime: runtime.path().to_owned(),
        instance: format!("{instance}-{}", std::process::id()),
        patience: Duration::from_secs(60),
    };
    let (capture, sockets) = Capture::start(&config).await.expect("capture starts");
    let class = ClassId::new(1).expect("1 is a class");
    for class in [class, ClassId::UNDECIDED] {
        let shape = Class {
            open: true,
            udp: true,
            ..Class::default()
        };
        capture
            .set_class(class, shape)
            .await
            .expect("the class is defined");
    }
    Lab {
        config: config.clone(),
        _pins: Pins(config.bpffs.join("offramp").join(&config.instance)),
        capture,
        sockets,
        class,
        runtime,
    }
}

impl Lab {
    /// Starts a Python program that waits for the label before it does anything.
    pub(crate) fn start(&self, program: &str) -> Child {
        let child = Command::new("python3")
            .args([
                "-c",
                &format!("import sys,socket\nsys.stdin.readline()\n{program}"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let pidfd = pidfd(child.id());
        self.capture
            .label(pidfd.as_fd(), self.class)
            .expect("the child is labelled");
        child
    }

    /// What another daemon finds when this one has been killed.
    pub(crate) async fn restart(self) -> Self {
        let Lab {
            capture,
            sockets,
            class,
            config,
            _pins,
            runtime,
        } = self;
        drop((capture, sockets));
        let (capture, sockets) = Capture::start(&config).await.expect("capture starts");
        Lab {
            capture,
            sockets,
            class,
            config,
            _pins,
            runtime,
        }
    }

    /// The next exec that is asked about.
    pub(crate) async fn next_exec(&self) -> Exec {
        loop {
            let event = tokio::time::timeout(Duration::from_secs(20), self.capture.event());
            match event.await.expect("an exec is told in time") {
                Some(Event::Exec { number, .. }) => {
                    return self.capture.question(number).expect("it is open");
                }
                Some(_) => {}
                None => panic!("the events have ended"),
            }
        }
    }

    /// What a process carries.
    pub(crate) fn label_of(&self, pid: u32) -> Option<Label> {
        self.capture
            .label_of(pidfd(pid).as_fd())
            .expect("labels are read")
    }

    /// A folder that goes with the lab.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let folder = self.runtime.path().join(name);
        std::fs::create_dir_all(&folder).expect("a folder is made");
        folder
    }
}

/// Removes what a test that failed would leave attached.
pub(crate) struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A Python program that does what it is asked, one line at a time.
pub(crate) struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

const PROGRAM: &str = "
import sys, os, socket, errno, threading, ctypes, time, struct, array
def put(**values):
    globals().update(values)
    return 'put'
def source(address='203.0.113.5'):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.connect((address, 9))
    return s.getsockname()[0]
def mark(s):
    return s.getsockopt(socket.SOL_SOCKET, 36) & 0xffffffff
for line in sys.stdin:
    try:
        print(eval(line), flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
    except Exception as error:
        print(repr(error), flush=True)
";

impl Program {
    /// Python under whichever path.
    pub(crate) fn start(python: impl AsRef<Path>) -> Self {
        Self::python(&mut Command::new(python.as_ref()))
    }

    /// A command that ends in Python.
    pub(crate) fn python(command: &mut Command) -> Self {
        let mut program = Self::spawn(command.args(["-c", PROGRAM]));
        // The one who spawns goes on before the exec is at its end.
        assert_eq!(program.ask("'ready'"), "ready");
        program
    }

    /// A copy of Python by another name.
    pub(crate) fn start_as(folder: &Path, name: &str) -> Self {
        let path = folder.join(name);
        let python = std::fs::canonicalize("/usr/bin/python3").expect("python3 is there");
        if !path.exists() || std::fs::metadata(&path).is_ok_and(|found| found.len() < 1 << 20) {
            std::fs::copy(python, &path).expect("it is copied");
        }
        Self::start(path)
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Self {
            child,
            input,
            output,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the expression comes to.
    pub(crate) fn ask(&mut self, expression: &str) -> String {
        self.tell(expression);
        self.answer()
    }

    /// Does not wait for the answer.
    pub(crate) fn tell(&mut self, expression: &str) {
        writeln!(self.input, "{expression}").expect("the program listens");
    }

    /// Whether as much as 400 lines wait to be read: each has eleven octets.
    pub(crate) fn has_spoken_to_the_end(&mut self) -> bool {
        let mut waiting = 0;
        #[expect(unsafe_code, reason = "asks how much is in a pipe")]
        // SAFETY: the kernel writes one int.
        let asked = unsafe {
            libc::ioctl(
                self.output.get_ref().as_raw_fd(),
                libc::FIONREAD,
                &raw mut waiting,
            )
        };
        asked == 0 && waiting >= 400 * 11
    }

    /// The next line of the program.
    pub(crate) fn answer(&mut self) -> String {
        self.answer_within(5_000)
    }

    /// The same where it takes longer, in milliseconds.
    pub(crate) fn answer_within(&mut self, limit: u16) -> String {
        let mut line = String::new();
        if self.output.buffer().is_empty() {
            let output = self.output.get_ref().as_fd();
            let mut waiting = [PollFd::new(output, PollFlags::POLLIN)];
            let ready = poll(&mut waiting, limit).expect("a pipe can be waited for");
            assert_eq!(ready, 1, "the program says nothing");
        }
        self.output.read_line(&mut line).expect("it prints text");
        line.trim().to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Prints the source address that its flows have, as the first thing it does: connects a UDP
/// socket. With an argument it waits for a line afterwards.
const PROBE: &str = r#"
#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>
int main(int argc, char **argv)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(9) };
	socklen_t size = sizeof(a);
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	inet_pton(AF_INET, "203.0.113.5", &a.sin_addr);
	if (connect(s, (struct sockaddr *)&a, sizeof(a)))
		perror("connect");
	getsockname(s, (struct sockaddr *)&a, &size);
	puts(inet_ntoa(a.sin_addr));
	fflush(stdout);
	if (argc > 1)
		getchar();
	return 0;
}
"#;

/// Builds the probe as `path`.
pub(crate) fn build_probe(path: &Path, arguments: &[&str]) {
    let source = path.with_extension("c");
    std::fs::write(&source, PROBE).expect("a file is written");
    let done = Command::new("cc")
        .args(arguments)
        .arg("-o")
        .args([path, &source])
        .status()
        .expect("cc starts");
    assert!(done.success());
}

/// Runs a command to its end; what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let done = command.output().expect("it starts");
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

#[expect(unsafe_code, reason = "opens a pidfd")]
pub(crate) fn pidfd(pid: u32) -> OwnedFd {
    // SAFETY: the call takes no pointers, and its result is checked.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd as i32)
    }
}

pub(crate) fn go(child: &mut Child) {
    child
        .stdin
        .take()
        .expect("it is piped")
        .write_all(b"go\n")
        .expect("the child waits");
}

pub(crate) fn output(child: Child) -> String {
    let output = child.wait_with_output().expect("the child ends");
    String::from_utf8(output.stdout)
        .expect("it prints text")
        .trim()
        .to_owned()
}
