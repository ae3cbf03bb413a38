//! Finds on this machine what rules name.

mod browsers;
mod folders;
mod known;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use offramp_intercept::Interest;

use super::desktop;
use super::file::{Opened, Place, name_of};
use super::interpreter::{Family, Shebang};
use folders::Folder;

pub(crate) use browsers::Browsers;
pub(super) use folders::{in_standard_folders, installed};
pub(super) use known::Known;
pub(super) use wanted::Wanted;

/// Executables that are another program under each of their names: the file alone tells nothing.
pub(super) const MULTI_CALL: [&str; 4] = ["busybox", "toybox", "snap", "coreutils"];

/// How many releases of an interpreter are known by name before they are installed.
const RELEASES: u32 = 30;

/// Where all is that rules want to know of, and what the kernel is to ask about.
pub(super) fn search(wanted: &Wanted) -> (Known, Interest) {
    let mut search = Search {
        interest: Interest {
            executables: wanted.interest.names.clone(),
            cgroup_names: wanted.interest.cgroup_names.clone(),
            every_exec: wanted.interest.every_exec,
            by_user: wanted.interest.by_user,
            files: BTreeSet::new(),
        },
        ..Search::default()
    };
    for path in &wanted.paths {
        search.add(path, Use::Named(None), wanted.interest.paths.contains(path));
    }
    search.add_names(wanted);
    search.add_entries(wanted);
    search.add_loaders();
    search.add_interpreters();
    (search.known, search.interest)
}

#[derive(Default)]
struct Search {
    known: Known,
    interest: Interest,
    families: BTreeSet<Family>,
    folders: BTreeMap<PathBuf, BTreeSet<String>>,
}

/// Why a path is looked at, and whose processes alone it says something about: what is in the
/// home of a user tells nothing of others.
#[derive(Clone, Debug)]
enum Use {
    Named(Option<u32>),
    Entry(String, Option<u32>),
}

impl Search {
    /// Looks where a path leads. `is_asked`: whether the kernel is to ask about it.
    fn add(&mut self, path: &Path, reason: Use, is_asked: bool) {
        self.known.watch(path);
        let opened = Opened::at(path).ok();
        let found = opened.as_ref().map(|opened| (opened, opened.place()));
        self.known.insert(path, reason, found.as_ref());
        if is_asked {
            self.ask(path, found);
        }
    }

    fn ask(&mut self, path: &Path, found: Option<(&Opened, Place)>) {
        let name = name_of(path);
        self.families
            .extend(name.as_deref().and_then(Family::of_script));
        self.interest.executables.extend(name);
        let Some((opened, place)) = found else {
            return;
        };
        if place.name.as_deref().is_some_and(is_multi_call) {
            return;
        }
        self.interest.executables.extend(place.name);
        self.interest.files.extend(opened.id);
        if let Some(line) = Shebang::of(opened) {
            self.families.extend(line.family());
            self.ask_interpreter(&line);
        }
    }

    fn ask_interpreter(&mut self, line: &Shebang) {
        let Some(path) = line.program() else { return };
        self.known.watch(&path);
        self.ask_runner(&path);
    }

    /// Has the kernel ask about what runs scripts.
    fn ask_runner(&mut self, path: &Path) {
        self.interest.executables.extend(name_of(path));
        let Ok(opened) = Opened::at(path) else { return };
        let place = opened.place();
        if let Some(path) = place.path {
            self.known.insert_interpreter(path);
        }
        if place.name.as_deref().is_some_and(is_multi_call) {
            return;
        }
        self.interest.executables.extend(place.name);
        self.interest.files.extend(opened.id);
    }

    fn add_names(&mut self, wanted: &Wanted) {
        if wanted.names.is_empty() {
            return;
        }
        for Folder { path, user } in folders::of_programs() {
            let there = self.list(&path);
            for name in wanted.names.intersection(&there) {
                let is_asked = wanted.interest.names.contains(name);
                self.add(&path.join(name), Use::Named(user), is_asked);
            }
        }
        let asked = wanted.interest.names.iter();
        self.families
            .extend(asked.filter_map(|name| Family::of_script(name)));
    }

    fn add_entries(&mut self, wanted: &Wanted) {
        if wanted.desktop.is_empty() {
            return;
        }
        for Folder { path, user } in folders::of_entries() {
            self.known.watch(&path);
            for id in &wanted.desktop {
                let is_asked = wanted.interest.desktop.contains(id);
                let entry = desktop::files(&path, id).find_map(|file| {
                    let entry = Opened::at(&file).ok()?;
                    Some((file, entry))
                });
                let Some((file, entry)) = entry else { continue };
                self.known.watch(&file);
                for path in programs(&entry) {
                    self.add(&path, Use::Entry(id.clone(), user), is_asked);
                }
            }
        }
    }

    /// What runs any program that it is told to run.
    fn add_loaders(&mut self) {
        if self.interest.executables.is_empty() && self.interest.files.is_empty() {
            return;
        }
        let names = Family::Loader.names().iter();
        self.interest
            .executables
            .extend(names.map(|name| (*name).to_owned()));
        for folder in folders::of_loaders() {
            for name in self.list(&folder) {
                if Family::of_program(&name) == Some(Family::Loader) {
                    self.known.watch(&folder.join(&name));
                    self.ask_runner(&folder.join(&name));
                }
            }
        }
    }

    /// The interpreters that this machine has, for scripts that they are told to run.
    fn add_interpreters(&mut self) {
        if self.families.is_empty() {
            return;
        }
        let families = std::mem::take(&mut self.families);
        let names = families.iter().flat_map(|family| family.names());
        self.interest
            .executables
            .extend(names.map(|name| (*name).to_owned()));
        if families.contains(&Family::Python) {
            let names = ["2", "3"].map(|major| format!("python{major}"));
            let releases = (0..RELEASES).map(|minor| format!("python3.{minor}"));
            self.interest.executables.extend(names);
            self.interest.executables.extend(releases);
        }
        for Folder { path, user } in folders::of_programs() {
            let there = if user.is_none() {
                self.list(&path)
            } else {
                continue;
            };
            for name in there {
                if Family::of_program(&name).is_some_and(|family| families.contains(&family)) {
                    self.known.watch(&path.join(&name));
                    self.ask_runner(&path.join(&name));
                }
            }
        }
    }

    fn list(&mut self, folder: &Path) -> BTreeSet<String> {
        self.known.watch(folder);
        let listed = self.folders.entry(folder.to_owned());
        listed.or_insert_with(|| folders::list(folder)).clone()
    }
}

/// What an entry executes: the script where an interpreter is told to run one.
fn programs(entry: &Opened) -> BTreeSet<PathBuf> {
    let commands = desktop::commands(entry);
    let paths = commands.iter().filter_map(|command| {
        let (program, arguments) = desktop::program(command)?;
        match Family::of_program(program.rsplit('/').next()?) {
            Some(family) => {
                let script = family.script(arguments)?;
                script.starts_with('/').then(|| PathBuf::from(script))
            }
            None => {
                let path = installed(program)?;
                let name = Opened::at(&path).ok()?.place().name?;
                (!is_multi_call(&name)).then_some(path)
            }
        }
    });
    paths.collect()
}

fn is_multi_call(name: &str) -> bool {
    MULTI_CALL.contains(&name)
}
