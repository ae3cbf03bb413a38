//! What is known about a process, for the rules to be held against.
//!
//! Files are told by what was opened, never by a name that a process says: a path counts only where
//! the host sees that very file there. Nothing here decides what a fact means.

mod bundle;
mod cgroup;
mod desktop;
mod file;
#[cfg(test)]
mod fuzz;
mod hash;
mod interpreter;
mod mounts;
mod people;
mod process;
mod search;
mod servers;
mod sources;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use offramp_intercept::{Exec, FileId, Interest};
use offramp_rules::{App, Bundle, Profiles, Program, User};

pub(crate) use desktop::program_of;
use file::Opened;
use hash::Hashes;
use people::People;
pub(crate) use search::Browsers;
use search::{Known, Wanted};
pub(crate) use servers::serves_names;
use sources::Source;

/// A process of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    /// Its real user.
    pub(crate) uid: u32,
    /// Whether it is in the network namespace of the daemon.
    pub(crate) is_ours: bool,
}

/// What is known about processes. Every call may block on files.
pub(crate) struct Facts {
    learned: RwLock<Arc<Learned>>,
    hashes: Hashes,
    people: People,
    /// The network namespace of the daemon.
    namespace: Option<(u64, u64)>,
}

/// What the rules in force want to know, and what was found of it.
#[derive(Default)]
struct Learned {
    wanted: Wanted,
    known: Known,
    interest: Interest,
}

/// What is this long was cut by the kernel programs.
const FILENAME: usize = 255;

/// What an exec event says.
struct Start<'a> {
    pid: u32,
    uid: u32,
    gid: u32,
    cgroup: u64,
    file: FileId,
    filename: &'a str,
    arguments: &'a [String],
}

impl Facts {
    pub(crate) fn new() -> Self {
        Self {
            learned: RwLock::default(),
            hashes: Hashes::default(),
            people: People::default(),
            namespace: process::network_of(Path::new("/proc/self")),
        }
    }

    /// Takes the rules in force; what the kernel is to ask about.
    pub(crate) fn learn(&self, rules: &Profiles) -> Interest {
        let wanted = Wanted::by(rules);
        let (known, interest) = search::search(&wanted);
        let learned = Learned {
            wanted,
            known,
            interest: interest.clone(),
        };
        *self.learned.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(learned);
        interest
    }

    /// Looks whether what rules name is elsewhere by now; what the kernel is to ask about then.
    pub(crate) fn refresh(&self) -> Option<Interest> {
        let before = self.learned();
        if before.known.is_current() {
            return None;
        }
        let (known, interest) = search::search(&before.wanted);
        let mut learned = self.learned.write().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&learned, &before) {
            // Other rules were learned meanwhile, and what they want was looked for just now.
            return None;
        }
        *learned = Arc::new(Learned {
            wanted: before.wanted.clone(),
            known,
            interest: interest.clone(),
        });
        (interest != before.interest).then_some(interest)
    }

    /// The process that started a program, as it was then. None where it is gone or has started
    /// another since, and the event alone does not tell the program.
    pub(crate) fn of_exec(&self, exec: &Exec) -> Option<App> {
        self.of_start(&Start {
            pid: exec.pid,
            uid: exec.uid,
            gid: exec.gid,
            cgroup: exec.cgroup,
            file: exec.file,
            filename: &exec.filename,
            arguments: &exec.arguments,
        })
    }

    fn of_start(&self, start: &Start<'_>) -> Option<App> {
        let learned = self.learned();
        let source = sources::started(start).or_else(|| sources::told(start, &learned.known))?;
        Some(self.describe(&learned, source))
    }

    /// A running process. None where there is no such process, or it has no program of its own.
    pub(crate) fn of_process(&self, pid: u32) -> Option<App> {
        let learned = self.learned();
        let source = sources::running(pid)?;
        Some(self.describe(&learned, source))
    }

    /// What would be known of the program at `path`, were this user to start it now.
    pub(crate) fn of_path(&self, path: &Path, uid: u32) -> io::Result<App> {
        let learned = self.learned();
        let mut source = sources::at(path, uid)?;
        (source.gid, source.groups) = self.people.groups_of(uid);
        Ok(self.describe(&learned, source))
    }

    /// Whether the same program is the same app whenever it is started by the same path: the host
    /// sees it there, and it is not another app with other arguments or under another name.
    pub(crate) fn is_by_path(&self, exec: &Exec, app: &App) -> bool {
        // Who has other mounts or another root says nothing about the paths of others.
        self.is_settled_by(&exec.filename, exec.file, app)
            && process::is_among_files_of_host(exec.pid)
    }

    fn is_settled_by(&self, filename: &str, file: FileId, app: &App) -> bool {
        let learned = self.learned();
        filename.starts_with('/')
            && filename.len() < FILENAME
            && !filename.starts_with("/dev/fd/")
            && !filename.starts_with("/proc/")
            && app.script.is_none()
            && app.executable.as_ref().is_some_and(|program| {
                program.path.is_some()
                    && !learned.known.runs_others(program)
                    && is_where_the_host_has_it(Path::new(filename), file, program)
            })
    }

    /// The process that started this one, or took it over.
    pub(crate) fn parent_of(&self, pid: u32) -> Option<u32> {
        process::parent_of(pid)
    }

    /// All processes that run a program.
    pub(crate) fn processes(&self) -> Vec<Process> {
        process::all(self.namespace)
    }

    fn learned(&self) -> Arc<Learned> {
        let learned = self.learned.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&learned)
    }

    fn describe(&self, learned: &Learned, source: Source) -> App {
        let mut bundles = source.bundles;
        let mut files = Vec::new();
        let mut describe = |opened: Opened, hint: Option<&str>| {
            let (program, entries) = self.program(learned, &opened, hint, source.uid);
            bundles.extend(entries.into_iter().map(Bundle::Desktop));
            files.push(opened);
            program
        };
        let executable = source
            .executable
            .map(|opened| describe(opened, source.called.as_deref()));
        let script = source.script.map(|opened| describe(opened, None));
        let path = executable.as_ref().and_then(|found| found.path.as_deref());
        bundles.extend(path.and_then(bundle::snap_by_path));
        let mut app = App {
            wrapper: None,
            user: self.user(learned, source.uid, source.gid, source.groups),
            executable,
            script,
            cgroup: source.cgroup,
            bundles,
        };
        if learned.wanted.asks_for_hash(&app) {
            let programs = app.executable.iter_mut().chain(&mut app.script);
            for (program, opened) in programs.zip(&files) {
                program.sha256 = self.hashes.of(opened);
            }
        }
        app
    }

    /// A file as rules see it, and the desktop entries that execute it.
    fn program(
        &self,
        learned: &Learned,
        opened: &Opened,
        called: Option<&str>,
        uid: u32,
    ) -> (Program, BTreeSet<String>) {
        let place = opened.place();
        let found = learned.known.leading_to(opened, &place, called, uid);
        let owner = opened.owner();
        let program = Program {
            name: place.name,
            path: place.path,
            known_as: found.paths,
            owner,
            owner_name: owner
                .filter(|_| learned.wanted.names_of_people)
                .and_then(|uid| self.people.user(uid)),
            sha256: None,
        };
        (program, found.desktop)
    }

    fn user(&self, learned: &Learned, uid: u32, gid: u32, groups: BTreeSet<u32>) -> User {
        let mut groups = groups;
        groups.insert(gid);
        let (name, group_names) = match learned.wanted.names_of_people {
            true => (
                self.people.user(uid),
                groups
                    .iter()
                    .filter_map(|gid| self.people.group(*gid))
                    .collect(),
            ),
            false => (None, BTreeSet::new()),
        };
        User {
            id: uid,
            name,
            groups,
            group_names,
        }
    }
}

/// Whether a path leads the host to this file, and to the place that was found for the program.
fn is_where_the_host_has_it(path: &Path, file: FileId, program: &Program) -> bool {
    Opened::named(path).is_ok_and(|opened| {
        let place = opened.place();
        opened.id == Some(file) && !place.is_gone && place.path == program.path
    })
}
