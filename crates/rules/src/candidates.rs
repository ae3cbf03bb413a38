use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::cgroup::escape;
use crate::facts::Facts;
use crate::identity::desktop_ids;
use crate::{App, Glob, Identity, Profiles, Rule};

/// What of a program that is being executed makes it worth asking which rules name it. Everything
/// that [`crate::claims`] finds by itself, not by inheritance, is a candidate; most candidates are
/// in the end no app of any rule.
///
/// Below the app of a rule with tools every program is worth asking, a candidate or not. Names and
/// paths are those of scripts too. Whoever looks at what the kernel executes has to know
/// the interpreters of such scripts besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Names of executables and scripts.
    pub names: BTreeSet<String>,
    /// Paths that lead to executables or scripts.
    pub paths: BTreeSet<PathBuf>,
    /// Desktop entries: what they execute is meant.
    pub desktop: BTreeSet<String>,
    /// Parts of the path of a control group: a whole part, or the beginning of one that ends before
    /// `-`, `@` or `.`, or a piece that begins behind a `-` and ends before `-`, `@` or the end.
    pub cgroup_names: BTreeSet<String>,
    /// Rules that could name any program, as `PROFILE: RULE`.
    pub any: BTreeSet<String>,
    /// Whether it matters whose the process is.
    pub by_user: bool,
}

/// What of all programs `profiles` could name.
pub fn candidates(profiles: &Profiles) -> Candidates {
    let mut found = Candidates::default();
    for profile in profiles.iter().filter(|profile| profile.enabled) {
        found.by_user |= profile.owner.is_some() || !profile.overlays.is_empty();
        for rule in &profile.rules {
            found.add(rule, || format!("{}: {}", profile.id, rule.identifier));
            for tool in &rule.tools {
                // Below a candidate every program is one; which control group it is in has to be
                // seen all the same.
                let mut alone = Candidates::default();
                alone.add(tool, String::new);
                found.cgroup_names.append(&mut alone.cgroup_names);
            }
            let conditions = std::iter::once(rule).chain(&rule.tools);
            found.by_user |= conditions.into_iter().any(|rule| rule.user.is_some());
        }
    }
    found
}

impl Candidates {
    /// Whether `app` is one, by what was known at its start.
    pub fn include(&self, app: &App) -> bool {
        let facts = Facts::of(app, None);
        let by_program = facts.programs.iter().any(|seen| {
            seen.names.iter().any(|name| self.names.contains(&**name))
                || seen
                    .program
                    .known_as
                    .iter()
                    .any(|path| self.paths.contains(path))
                || seen
                    .program
                    .path
                    .iter()
                    .any(|path| self.paths.contains(path))
        });
        let by_group = app.cgroup.as_ref().is_some_and(|cgroup| {
            let path = cgroup.to_string();
            path.split('/').any(|part| self.has_part(part))
        });
        !self.any.is_empty() || by_program || by_group || !app.bundles.is_empty()
    }

    fn has_part(&self, part: &str) -> bool {
        let has = |text: &str| !text.is_empty() && self.cgroup_names.contains(text);
        let ends = part.match_indices(['-', '@', '.']).map(|(at, _)| at);
        has(part)
            || ends.into_iter().any(|end| has(&part[..end]))
            || part.split('-').any(|piece| {
                has(piece) || piece.split_once('@').is_some_and(|(piece, _)| has(piece))
            })
    }

    fn add(&mut self, rule: &Rule, label: impl Fn() -> String) {
        match &rule.identity {
            // Known by its label.
            Identity::Wrapper(_) => {}
            Identity::Name(name) if name.is_literal() => {
                self.names.insert(name.as_str().to_owned());
            }
            Identity::Path(path) => self.add_path(path.clone()),
            Identity::Paths(pattern) => {
                let name = pattern.as_str().rsplit('/').next().unwrap_or_default();
                match name.parse::<Glob>() {
                    Ok(name) if name.is_literal() => {
                        self.names.insert(name.as_str().to_owned());
                    }
                    _ => self.add_any(rule, label),
                }
            }
            Identity::Unit(_) | Identity::UserUnit(_) | Identity::Cgroup(_) => {
                match cgroup_name(&rule.identity) {
                    Some(part) => {
                        self.cgroup_names.insert(part.to_owned());
                    }
                    None => self.add_any(rule, label),
                }
            }
            Identity::Flatpak(id) => self.add_app(id),
            Identity::Snap(name) => {
                self.cgroup_names.insert(format!("snap.{name}"));
            }
            Identity::Desktop(id) => self.add_desktop(id),
            Identity::Any(id) => {
                self.add_desktop(id);
                self.cgroup_names.insert(format!("snap.{id}"));
            }
            Identity::Name(_) => self.add_any(rule, label),
        }
    }

    /// What cannot be told by its name may be told by the condition `Path`.
    fn add_any(&mut self, rule: &Rule, label: impl Fn() -> String) {
        match &rule.path {
            Some(path) => self.add_path(path.clone()),
            None => {
                self.any.insert(label());
            }
        }
    }

    fn add_path(&mut self, path: PathBuf) {
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            self.names.insert(name.to_owned());
        }
        self.paths.insert(path);
    }

    fn add_desktop(&mut self, id: &str) {
        for id in desktop_ids(id) {
            self.add_app(id);
            self.desktop.insert(id.to_owned());
        }
    }

    /// The pieces of the names of scopes and services that desktops make. The id stands behind a
    /// dash there, and is seen up to the next dash or `@`, be that one of its own or what follows.
    fn add_app(&mut self, id: &str) {
        for id in [escape(id), id.to_owned()] {
            match id.split_once(['-', '@']) {
                Some((piece, _)) => {
                    self.cgroup_names.insert(piece.to_owned());
                }
                None => {
                    for kind in ["", ".scope", ".service", ".slice"] {
                        self.cgroup_names.insert(format!("{id}{kind}"));
                    }
                }
            }
        }
    }

    /// How many names, paths and parts these are.
    pub fn len(&self) -> usize {
        self.names.len() + self.paths.len() + self.desktop.len() + self.cgroup_names.len()
    }

    /// Whether no program is meant by a name, a path or a part.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What all control groups of this identity have in their path, as far as that can be told by one
/// part.
pub(crate) fn cgroup_name(identity: &Identity) -> Option<&str> {
    match identity {
        Identity::Unit(name) | Identity::UserUnit(name) if name.is_literal() => Some(name.as_str()),
        Identity::Unit(name) | Identity::UserUnit(name) => {
            let end = name.literal().rfind(['-', '@', '.'])?;
            Some(&name.literal()[..end]).filter(|begin| !begin.is_empty())
        }
        Identity::Cgroup(path) => path.rsplit('/').next().filter(|last| !last.is_empty()),
        _ => None,
    }
}
