use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::{Cgroup, ProfileId};

/// What is known about a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct App {
    /// The profile of the `offramp run` that started it or one of its ancestors.
    pub wrapper: Option<ProfileId>,
    /// Whose it is: the real user, with the groups.
    pub user: User,
    /// What it executes, the interpreter where it is a script.
    pub executable: Option<Program>,
    /// The script that the interpreter runs, where there is one.
    pub script: Option<Program>,
    /// Where it is in the tree of control groups.
    pub cgroup: Option<Cgroup>,
    /// What it was installed as, as far as the control group does not tell.
    pub bundles: BTreeSet<Bundle>,
}

impl App {
    /// The script, where there is one, and what executes it.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.script.iter().chain(&self.executable)
    }
}

/// The user of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The real user id.
    pub id: u32,
    /// The login name, where there is one.
    pub name: Option<String>,
    /// The ids of the groups, the primary one included.
    pub groups: BTreeSet<u32>,
    /// The names of these groups, where they have any.
    pub group_names: BTreeSet<String>,
}

/// A file that is executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The last part of the name under which it was executed, links resolved.
    pub name: Option<String>,
    /// Where it is, as the host sees it: absolute, links resolved. None where the host does not see
    /// it there, as in a container or in memory alone.
    pub path: Option<PathBuf>,
    /// Those paths that rules name, or that their names are found at, which lead to this very file.
    pub known_as: BTreeSet<PathBuf>,
    /// The user whose file it is.
    pub owner: Option<u32>,
    /// The login name of that user, where there is one.
    pub owner_name: Option<String>,
    /// The SHA-256 of its content, where a rule asks for it.
    pub sha256: Option<[u8; 32]>,
}

impl Program {
    /// Whether `path` leads to this file.
    pub fn is_at(&self, path: &Path) -> bool {
        self.path.as_deref() == Some(path) || self.known_as.contains(path)
    }
}

/// What an app was installed as.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bundle {
    /// A Flatpak, by its id.
    Flatpak(String),
    /// A snap, by its name.
    Snap(String),
    /// A desktop entry, by its id: the name of the file without `.desktop`.
    Desktop(String),
}

impl fmt::Display for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.programs().next() {
            Some(program) => write!(f, "{program}"),
            None => f.write_str("an unknown program"),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.path, &self.name) {
            (Some(path), _) => write!(f, "{}", path.display()),
            (None, Some(name)) => f.write_str(name),
            (None, None) => f.write_str("an unknown program"),
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} ({})", self.id),
            None => write!(f, "{}", self.id),
        }
    }
}

impl fmt::Display for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bundle::Flatpak(id) => write!(f, "flatpak:{id}"),
            Bundle::Snap(name) => write!(f, "snap:{name}"),
            Bundle::Desktop(id) => write!(f, "app:{id}"),
        }
    }
}
