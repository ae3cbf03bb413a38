//! Where that is which rules name.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::hash::Hash;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use offramp_intercept::FileId;
use offramp_rules::Program;

use super::{Use, is_multi_call};
use crate::facts::file::{Opened, Place, name_of};
use crate::facts::interpreter::Family;

/// How many paths are held against one file.
const TRIED: usize = 256;

/// The paths that rules name or that desktop entries execute, and what they led to.
#[derive(Default)]
pub(in crate::facts) struct Known {
    uses: BTreeMap<PathBuf, Vec<Use>>,
    by_file: HashMap<FileId, BTreeSet<PathBuf>>,
    /// By its own name, and by the name of what it leads to.
    by_name: HashMap<String, BTreeSet<PathBuf>>,
    /// By the path that it leads to.
    by_place: HashMap<PathBuf, BTreeSet<PathBuf>>,
    stamps: BTreeMap<PathBuf, Option<Stamp>>,
    /// What runs scripts that rules name, by its own path.
    interpreters: BTreeSet<PathBuf>,
}

/// Differs when a path leads to another file, or the file or folder has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    changed: (i64, i64),
}

/// What leads to a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::facts) struct Leading {
    /// Paths that rules name, or that their names are found at.
    pub(in crate::facts) paths: BTreeSet<PathBuf>,
    /// Desktop entries that execute it.
    pub(in crate::facts) desktop: BTreeSet<String>,
}

impl Known {
    /// Remembers how a path is before it is looked at.
    pub(super) fn watch(&mut self, path: &Path) {
        if !self.stamps.contains_key(path) {
            self.stamps.insert(path.to_owned(), Stamp::of(path));
        }
    }

    pub(super) fn insert(&mut self, path: &Path, reason: Use, found: Option<&(&Opened, Place)>) {
        self.uses.entry(path.to_owned()).or_default().push(reason);
        let add = |names: &mut HashMap<String, BTreeSet<PathBuf>>, name: Option<String>| {
            if let Some(name) = name {
                names.entry(name).or_default().insert(path.to_owned());
            }
        };
        add(&mut self.by_name, name_of(path));
        let Some((opened, place)) = found else {
            return;
        };
        add(&mut self.by_name, place.name.clone());
        if let Some(id) = opened.id {
            self.by_file.entry(id).or_default().insert(path.to_owned());
        }
        if let Some(place) = &place.path {
            self.by_place
                .entry(place.clone())
                .or_default()
                .insert(path.to_owned());
        }
    }

    /// Whether all paths still lead where they led.
    pub(in crate::facts) fn is_current(&self) -> bool {
        self.stamps
            .iter()
            .all(|(path, stamp)| Stamp::of(path) == *stamp)
    }

    pub(super) fn insert_interpreter(&mut self, path: PathBuf) {
        self.interpreters.insert(path);
    }

    /// Whether a program is another one with other arguments, or under another name.
    pub(in crate::facts) fn runs_others(&self, program: &Program) -> bool {
        let is_known = |name: &str| is_multi_call(name) || Family::of_program(name).is_some();
        let path = program.path.as_ref();
        program.name.as_deref().is_some_and(is_known)
            || path.is_some_and(|path| self.interpreters.contains(path))
    }

    /// A path that led to this file.
    pub(in crate::facts) fn path_of(&self, file: FileId) -> Option<&Path> {
        self.by_file.get(&file)?.first().map(PathBuf::as_path)
    }

    /// What leads to a file by now; `called` is the name under which it was started. A file that
    /// was deleted where it was, as by an upgrade, is still what leads to its place.
    pub(in crate::facts) fn leading_to(
        &self,
        opened: &Opened,
        place: &Place,
        called: Option<&str>,
        uid: u32,
    ) -> Leading {
        let name = place.name.as_deref();
        let of_place = of(&self.by_place, place.path.as_deref());
        let of_name = of(&self.by_name, name);
        let of_call = of(&self.by_name, called);
        let tried = of(&self.by_file, opened.id.as_ref())
            .chain(of_place)
            .chain(of_name)
            .chain(of_call)
            .take(TRIED);
        let is_any_of_many = name.is_some_and(is_multi_call);
        let mut leading = Leading::default();
        for path in tried.collect::<BTreeSet<_>>() {
            let was_there = || {
                let led = of(&self.by_place, place.path.as_deref()).any(|led| led == path);
                place.is_gone && (led || place.path.as_ref() == Some(path))
            };
            let is_called = || path.file_name().and_then(|name| name.to_str()) == called;
            if (is_any_of_many && !is_called()) || !(opened.is_at(path) || was_there()) {
                continue;
            }
            for reason in self.uses.get(path).into_iter().flatten() {
                match reason {
                    Use::Named(user) if user.is_none_or(|user| user == uid) => {
                        leading.paths.insert(path.clone());
                    }
                    Use::Entry(id, user) if user.is_none_or(|user| user == uid) => {
                        leading.desktop.insert(id.clone());
                    }
                    Use::Named(_) | Use::Entry(..) => {}
                }
            }
        }
        leading
    }
}

fn of<'a, K: Hash + Eq + Borrow<Q>, Q: Hash + Eq + ?Sized>(
    paths: &'a HashMap<K, BTreeSet<PathBuf>>,
    key: Option<&Q>,
) -> impl Iterator<Item = &'a PathBuf> {
    key.and_then(|key| paths.get(key)).into_iter().flatten()
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            file: (found.dev(), found.ino()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}
