//! Processes as /proc tells about them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, ResolveFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstatat};
use offramp_intercept::FileId;

use super::Process;
use super::{file::Opened, interpreter::Arguments, mounts};

/// How many threads are looked at for one that still runs.
const THREADS: usize = 64;
/// How much of the arguments is read: more than that is not needed to tell what runs.
const ARGUMENTS: u64 = 128 << 10;

/// A process that was found alive. The folder of a process tells nothing of another one that gets
/// the number later.
pub(super) struct Running {
    pid: u32,
    folder: File,
    /// The thread to ask below the folder: the first one may have ended before the others.
    thread: PathBuf,
}

/// Whose a process is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) parent: u32,
    /// The real user.
    pub(super) uid: u32,
    /// The real group.
    pub(super) gid: u32,
    pub(super) groups: BTreeSet<u32>,
}

impl Running {
    /// None where there is no such process, or it runs no program.
    pub(super) fn open(pid: u32) -> Option<Self> {
        let folder = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(format!("/proc/{pid}"))
            .ok()?;
        let is_running = |thread: &Path| readlinkat(&folder, &thread.join("exe")).is_ok();
        if is_running(Path::new("")) {
            return Some(Self {
                pid,
                folder,
                thread: PathBuf::new(),
            });
        }
        let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let thread = threads
            .take(THREADS)
            .filter_map(|thread| Some(Path::new("task").join(thread.ok()?.file_name())))
            .find(|thread| is_running(thread))?;
        Some(Self {
            pid,
            folder,
            thread,
        })
    }

    /// The file that it executes.
    pub(super) fn executable(&self) -> io::Result<Opened> {
        let opened = Opened::from_handle(self.handle("exe")?)?;
        if opened.is_on_mount_of_host() {
            return Ok(opened);
        }
        // Files of other mounts are told apart with the process's own list of them.
        let id = FileId::of_executable(self.pid).ok();
        let is_alive = readlinkat(&self.folder, &self.thread.join("exe")).is_ok();
        Ok(opened.known_as(id.filter(|_| is_alive)))
    }

    /// What the program was given, as it says now.
    pub(super) fn arguments(&self) -> Arguments {
        let text = self.read("cmdline", ARGUMENTS).unwrap_or_default();
        let are_cut = text.len() as u64 == ARGUMENTS;
        let text = text.strip_suffix(&[0]).unwrap_or(&text);
        let mut list: Vec<_> = text
            .split(|octet| *octet == 0)
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect();
        if are_cut {
            list.pop();
        }
        Arguments { list, are_cut }
    }

    pub(super) fn owner(&self) -> Option<Owner> {
        parse_status(&self.read("status", 16 << 10).ok()?)
    }

    /// Its control group, below the root of the tree.
    pub(super) fn cgroup(&self) -> Option<String> {
        let text = String::from_utf8(self.read("cgroup", 16 << 10).ok()?).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        Some(path.to_owned())
    }

    /// The label that AppArmor has for it.
    pub(super) fn security_label(&self) -> Option<String> {
        let label = self
            .read("attr/apparmor/current", 4096)
            .or_else(|_| self.read("attr/current", 4096));
        let label = String::from_utf8(label.ok()?).ok()?;
        Some(label.trim_end_matches(['\0', '\n']).to_owned())
    }

    /// Its root folder, where that is not the daemon's.
    pub(super) fn other_root(&self) -> Option<File> {
        let root = self.handle("root").ok()?;
        (!is_root_of_host(&root)).then_some(root)
    }

    /// The file that a path leads to for the process.
    pub(super) fn file(&self, path: &Path) -> io::Result<Opened> {
        for (open, own) in [
            ("/proc/self", ""),
            ("/proc/thread-self", ""),
            ("/dev/fd", "fd"),
        ] {
            if let Ok(rest) = path.strip_prefix(open) {
                return Opened::from_handle(self.handle(Path::new(own).join(rest))?);
            }
        }
        let here = ResolveFlag::RESOLVE_NO_MAGICLINKS;
        match (self.other_root(), path.is_absolute()) {
            (None, true) => Opened::named(path),
            (None, false) => Opened::below(self.handle("cwd")?, path, here),
            (Some(root), true) => Opened::below(root, path, ResolveFlag::RESOLVE_IN_ROOT),
            // A link must not lead out into the files of the daemon.
            (Some(_), false) => {
                Opened::below(self.handle("cwd")?, path, ResolveFlag::RESOLVE_BENEATH)
            }
        }
    }

    /// What one of its links leads to.
    pub(super) fn handle(&self, name: impl AsRef<Path>) -> io::Result<File> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        Ok(openat(&self.folder, &self.thread.join(name), flags, Mode::empty())?.into())
    }

    fn network(&self) -> Option<(u64, u64)> {
        self.namespace("net")
    }

    fn namespace(&self, kind: &str) -> Option<(u64, u64)> {
        let name = self.thread.join("ns").join(kind);
        let found = fstatat(&self.folder, &name, AtFlags::empty()).ok()?;
        Some((found.st_dev, found.st_ino))
    }

    fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let file = openat(&self.folder, &self.thread.join(name), flags, Mode::empty())?;
        let mut content = Vec::new();
        File::from(file).take(limit).read_to_end(&mut content)?;
        Ok(content)
    }
}

/// Whether a process has the mounts and the root of the daemon: not where nobody can tell.
pub(super) fn is_among_files_of_host(pid: u32) -> bool {
    Running::open(pid).is_some_and(|process| {
        let ours = Running::open(std::process::id()).and_then(|own| own.namespace("mnt"));
        let root = process.handle("root");
        ours.is_some()
            && process.namespace("mnt") == ours
            && root.is_ok_and(|root| is_root_of_host(&root))
    })
}

fn is_root_of_host(root: &File) -> bool {
    let (Ok(its), Ok(ours)) = (root.metadata(), fs::metadata("/")) else {
        return false;
    };
    (its.dev(), its.ino()) == (ours.dev(), ours.ino()) && mounts::is_of_host(root)
}

/// The network namespace of the process at this folder of /proc.
pub(super) fn network_of(folder: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(folder.join("ns/net")).ok()?;
    Some((found.dev(), found.ino()))
}

/// The process that started this one, or took it over.
pub(super) fn parent_of(pid: u32) -> Option<u32> {
    Some(Running::open(pid)?.owner()?.parent)
}

/// All processes that run a program.
pub(super) fn all(namespace: Option<(u64, u64)>) -> Vec<Process> {
    let Ok(folders) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    folders
        .filter_map(|folder| pid_of(&folder.ok()?.file_name()))
        .filter_map(|pid| {
            let process = Running::open(pid)?;
            let owner = process.owner()?;
            Some(Process {
                pid,
                parent: owner.parent,
                uid: owner.uid,
                is_ours: process.network() == namespace && namespace.is_some(),
            })
        })
        .collect()
}

fn pid_of(name: &OsStr) -> Option<u32> {
    name.to_str()?.parse().ok()
}

/// None where the text is of no living process.
pub(super) fn parse_status(status: &[u8]) -> Option<Owner> {
    // The name of a process may be any octets.
    let status = String::from_utf8_lossy(status);
    let line = |name: &str| {
        let prefix = format!("{name}:\t");
        status
            .lines()
            .find_map(|line| line.strip_prefix(prefix.as_str()).map(str::to_owned))
    };
    let first = |name: &str| line(name)?.split_whitespace().next()?.parse().ok();
    Some(Owner {
        parent: first("PPid")?,
        uid: first("Uid")?,
        gid: first("Gid")?,
        groups: line("Groups")
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|gid| gid.parse().ok())
            .collect(),
    })
}
