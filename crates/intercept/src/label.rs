//! What a task carries, and what the kernel asks about a task that starts a program.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;

use crate::class::ClassId;
use crate::programs::skeleton::types;

/// What a process carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// The class is decided.
    Class(ClassId),
    /// It was asked for, and no answer has come.
    Undecided {
        /// The exec that was asked about.
        exec: u32,
        /// The class before that exec.
        from: Option<ClassId>,
    },
}

impl Label {
    /// The class before an exec that no answer has come for, which the answer builds on.
    pub fn before(&self) -> Option<ClassId> {
        match self {
            Self::Undecided { from, .. } => *from,
            Self::Class(_) => None,
        }
    }
}

/// A process that carries a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The process.
    pub pid: u32,
    /// Its real user.
    pub uid: u32,
    /// What it carries.
    pub label: Label,
    /// The exec that it was decided at; 0 where no exec was asked about.
    pub exec: u32,
    /// The label as the kernel has it; see [`crate::Capture::relabel`].
    pub raw: u64,
}

/// A file as the kernel programs know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// The device, in the kernel's own encoding: the major number above 20 bits of the minor one.
    pub device: u32,
    /// The inode.
    pub inode: u64,
    /// Tells the files apart that have one inode number after another; 0 but on ext4, btrfs, xfs
    /// and f2fs.
    pub generation: u32,
}

impl FileId {
    /// The identity of an open file of this mount namespace.
    pub fn of(file: &File) -> io::Result<Self> {
        crate::files::identify(file, &fs::read_to_string("/proc/self/mountinfo")?)
    }

    /// The identity of the executable of a process, in whichever mount namespace that is.
    pub fn of_executable(pid: u32) -> io::Result<Self> {
        let file = File::open(format!("/proc/{pid}/exe"))?;
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
        crate::files::identify(&file, &mounts)
    }
}

/// What of an exec makes it worth asking about; by default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Names of executables, without folders.
    pub executables: BTreeSet<String>,
    /// Executables, whatever their name.
    pub files: BTreeSet<FileId>,
    /// Names of cgroups: a whole component of the path, one up to `-`, `@` or `.`, or a part of one
    /// behind its last `-`.
    pub cgroup_names: BTreeSet<String>,
    /// Every exec in this network namespace.
    pub every_exec: bool,
    /// Whether verdicts depend on the user.
    pub by_user: bool,
}

/// A program that was started and waits for its verdict.
#[derive(Clone, Debug)]
pub struct Exec {
    /// The number of this exec; see [`crate::Capture::settle_number`].
    pub number: u32,
    /// The exec before, where that was still undecided.
    pub before: Option<u32>,
    /// The class of the process before.
    pub from: Option<ClassId>,
    /// The process.
    pub pid: u32,
    /// Its real user.
    pub uid: u32,
    /// Its real group.
    pub gid: u32,
    /// The number of its cgroup, which is the inode of the cgroup's folder.
    pub cgroup: u64,
    /// The executable.
    pub file: FileId,
    /// The path that was given to exec, cut at 255 octets.
    pub filename: String,
    /// What the program was given, as far as 512 octets go.
    pub arguments: Vec<String>,
    pub(crate) key: ExecKey,
}

/// What verdicts are remembered by: the kernel's key and the generation of the interest.
#[derive(Clone, Debug)]
pub(crate) struct ExecKey {
    pub(crate) kind: types::kind,
    pub(crate) generation: u32,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Flows that ended.
    pub ended: u64,
    /// Sockets that were put under a class, or under another.
    pub claimed: u64,
    /// Sockets that were given back.
    pub released: u64,
}
