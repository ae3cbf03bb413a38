//! One machine of the lab: a network namespace and a mount namespace.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{Finished, Running};

/// Who runs a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// User 0.
    Root,
    /// The user `nobody`, with no group, right or capability.
    Nobody,
}

/// A machine of the lab. Its namespaces live as long as this does.
#[derive(Debug)]
pub struct Host {
    name: &'static str,
    holder: Child,
    home: PathBuf,
}

impl Host {
    /// Makes the namespaces, with `home` as the place for files.
    pub(crate) fn new(name: &'static str, home: &Path) -> Self {
        // The holder ends when the pipe from this process closes, however this process ends.
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("unshare is part of util-linux");
        let ready = holder.stdin.as_mut().expect("piped").write_all(b"ready\n");
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().expect("piped"))
            .read_line(&mut line)
            .expect("a pipe can be read");
        assert!(
            ready.is_ok() && line == "ready\n",
            "no namespaces for {name}: not root?"
        );
        let host = Self {
            name,
            holder,
            home: home.to_owned(),
        };
        host.sh("ip link set lo up");
        host
    }

    /// The name of this machine in the lab.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The process that keeps the namespaces.
    pub(crate) fn holder(&self) -> u32 {
        self.holder.id()
    }

    /// A command that will run here, as root.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        self.command_as(User::Root, program)
    }

    /// A command that will run here as `user`; the program keeps the process id of the child.
    pub fn command_as(&self, user: User, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &self.holder().to_string(),
            "--net",
            "--mount",
            "--",
        ]);
        if user == User::Nobody {
            command.args([
                "setpriv",
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
            ]);
            command.args(["--inh-caps=-all", "--bounding-set=-all", "--"]);
        }
        command.arg(program.as_ref()).stdin(Stdio::null());
        command.env("HOME", &self.home).env("LC_ALL", "C.UTF-8");
        command
    }

    /// Runs `script` in a shell here and returns what it prints; fails the test if it fails.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.run(&["sh", "-euc", script]).success()
    }

    /// Runs a command line here to its end, at most a minute.
    #[track_caller]
    pub fn run(&self, line: &[&str]) -> Finished {
        self.spawn(line).finish(Duration::from_secs(60))
    }

    /// Runs a command line here as `user` to its end, at most a minute.
    #[track_caller]
    pub fn run_as(&self, user: User, line: &[&str]) -> Finished {
        let mut command = self.command_as(user, line[0]);
        command.args(&line[1..]);
        Running::start(command).finish(Duration::from_secs(60))
    }

    /// Starts a command line here.
    #[track_caller]
    pub fn spawn(&self, line: &[&str]) -> Running {
        let mut command = self.command(line[0]);
        command.args(&line[1..]);
        Running::start(command)
    }

    /// Runs `work` in a thread whose sockets belong to this machine.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.join_thread();
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Opens the network namespace, for a thread that wants to [`enter_namespace`] later.
    pub(crate) fn namespace(&self) -> File {
        let path = format!("/proc/{}/ns/net", self.holder());
        File::open(path).expect("the holder is alive")
    }

    fn join_thread(&self) {
        enter_namespace(&self.namespace());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let namespace = namespace_of(&self.holder().to_string());
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let process = process.file_name().to_string_lossy().into_owned();
            let Ok(id) = process.parse::<i32>() else {
                continue;
            };
            let ours = id as u32 != std::process::id() && id as u32 != self.holder();
            if ours && namespace.is_some() && namespace_of(&process) == namespace {
                let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
            }
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Moves the calling thread into a network namespace, for good.
pub(crate) fn enter_namespace(namespace: &File) {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).expect("root may enter namespaces");
}

fn namespace_of(process: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{process}/ns/net")).ok()
}
