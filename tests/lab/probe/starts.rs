//! The same program started over and over, several at a time.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What becomes of the program's file before each start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nothing.
    Same,
    /// A copy that nobody has seen yet, in a directory of its own, is started instead.
    Fresh,
    /// A copy is renamed over it.
    Replaced,
}

/// How many run at the same time.
const AT_ONCE: usize = 8;
/// No start takes longer than this.
const LIMIT: Duration = Duration::from_secs(30);

/// Starts the program `count` times and prints how often it ended in which way, as JSON.
pub(crate) fn starts(way: &str, count: usize, program: &Path) -> anyhow::Result<()> {
    let way = match way {
        "same" => Way::Same,
        "fresh" => Way::Fresh,
        "replaced" => Way::Replaced,
        _ => bail!("same, fresh or replaced, not {way}"),
    };
    let mut running = Running::new()?;
    for number in 0..count {
        if running.children.len() == AT_ONCE {
            running.reap()?;
        }
        let file = arrange(way, number, program)?;
        let child = spawn(&file).with_context(|| file.display().to_string())?;
        running.children.push(Started {
            child,
            since: Instant::now(),
            copy: (way == Way::Fresh).then_some(file),
        });
    }
    while !running.children.is_empty() {
        running.reap()?;
    }
    println!("{}", serde_json::to_string(&running.ends)?);
    Ok(())
}

/// Starts it. Whoever looks at the descriptors of all processes may keep a file that was just
/// written open for writing a moment longer: then the start is tried again, and told.
fn spawn(file: &Path) -> io::Result<Child> {
    for _ in 0..100 {
        match Command::new(file).spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                eprintln!("{}: {error}", file.display());
            }
            other => return other,
        }
    }
    Command::new(file).spawn()
}

/// Does to the file what `way` says, and returns what to start. Nothing is left open for writing,
/// so that no start fails because of another one.
fn arrange(way: Way, number: usize, program: &Path) -> anyhow::Result<PathBuf> {
    let name = program.file_name().context("the program has no name")?;
    match way {
        Way::Same => Ok(program.to_owned()),
        Way::Fresh => {
            // Others may start the same program at the same time.
            let own = std::process::id();
            let directory = program.with_extension(format!("fresh-{own}-{number}"));
            fs::create_dir_all(&directory)?;
            let file = directory.join(name);
            fs::copy(program, &file)?;
            Ok(file)
        }
        Way::Replaced => {
            let file = program.with_extension("new");
            fs::copy(program, &file)?;
            fs::rename(&file, program)?;
            Ok(program.to_owned())
        }
    }
}

#[derive(Debug)]
struct Started {
    child: Child,
    since: Instant,
    copy: Option<PathBuf>,
}

#[derive(Debug)]
struct Running {
    children: Vec<Started>,
    ends: BTreeMap<String, u32>,
    signals: SignalFd,
}

impl Running {
    fn new() -> anyhow::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        Ok(Self {
            children: Vec::new(),
            ends: BTreeMap::new(),
            signals: SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?,
        })
    }

    /// Waits until at least one has ended, and counts those that have.
    fn reap(&mut self) -> anyhow::Result<()> {
        let before = self.children.len();
        loop {
            let mut left = Vec::with_capacity(before);
            for mut started in self.children.drain(..) {
                let end = match started.child.try_wait()? {
                    Some(status) => meaning(status),
                    None if started.since.elapsed() > LIMIT => {
                        started.child.kill()?;
                        started.child.wait()?;
                        "stuck".to_owned()
                    }
                    None => {
                        left.push(started);
                        continue;
                    }
                };
                *self.ends.entry(end).or_insert(0) += 1;
                if let Some(directory) = started.copy.as_deref().and_then(Path::parent) {
                    fs::remove_dir_all(directory)?;
                }
            }
            self.children = left;
            if self.children.len() < before {
                return Ok(());
            }
            let mut ready = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            poll(&mut ready, PollTimeout::from(1000u16))?;
            self.signals.read_signal()?;
        }
    }
}

/// What the end of a program of `build_first` says.
fn meaning(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(1), _) => "direct".to_owned(),
        (Some(2), _) => "gateway".to_owned(),
        (Some(99), _) => "silent".to_owned(),
        (Some(code), _) if code > 100 => format!("error {}", code - 100),
        (code, signal) => format!("end {code:?} {signal:?}"),
    }
}
