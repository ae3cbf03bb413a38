use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::facts::{Facts, Seen};
use crate::pattern::WILDCARDS;
use crate::{App, Bundle, Glob, ProfileId};

/// What makes a process the app that a rule names; its text is a `SigningIdentifier`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// `wrapper:ID`: started by `offramp run --profile ID`, or a descendant of such a process.
    Wrapper(ProfileId),
    /// `exe:NAME`, the name may hold `*`, `?` and `[…]`: an executable or script of this name.
    Name(Glob),
    /// `exe:/PATH`: the executable or script that this path leads to.
    Path(PathBuf),
    /// `exe:/PATTERN`: an executable or script at such a path. `*` does not cross a `/`, `**` does.
    Paths(Glob),
    /// `unit:NAME`: in this service, scope or slice of the system.
    Unit(Glob),
    /// `user-unit:NAME`: in this service, scope or slice of a user's own service manager.
    UserUnit(Glob),
    /// `cgroup:/PATH`: in this control group or below.
    Cgroup(String),
    /// `flatpak:ID`.
    Flatpak(String),
    /// `snap:NAME`.
    Snap(String),
    /// `app:ID`, a desktop entry; the ID may be the name of the file.
    Desktop(String),
    /// `ID`, whatever it was installed as.
    Any(String),
}

impl Identity {
    /// Whether `app` has this identity.
    pub fn matches(&self, app: &App) -> bool {
        self.is_of(&Facts::of(app, None))
    }

    pub(crate) fn is_of(&self, facts: &Facts<'_>) -> bool {
        match self {
            Identity::Wrapper(profile) => facts.wrapper == Some(profile),
            Identity::Name(_) | Identity::Path(_) | Identity::Paths(_) => facts
                .programs
                .iter()
                .any(|program| self.is_program(program)),
            Identity::Unit(name) => facts.system_units.iter().any(|unit| name.matches(unit)),
            Identity::UserUnit(name) => facts.user_units.iter().any(|unit| name.matches(unit)),
            Identity::Cgroup(path) => {
                let cgroup = facts.app.cgroup.as_ref();
                cgroup.is_some_and(|cgroup| cgroup.is_within(path))
            }
            Identity::Flatpak(_) | Identity::Snap(_) | Identity::Desktop(_) | Identity::Any(_) => {
                facts.bundles.iter().any(|bundle| self.is_bundle(bundle))
            }
        }
    }

    /// Whether it is this program that the identity is about; any, where it is not about programs.
    pub(crate) fn is_program(&self, seen: &Seen<'_>) -> bool {
        match self {
            Identity::Name(name) => seen.names.iter().any(|found| name.matches(found)),
            Identity::Path(path) => seen.program.is_at(path),
            Identity::Paths(pattern) => seen.path.as_ref().is_some_and(|at| pattern.matches(at)),
            _ => true,
        }
    }

    fn is_bundle(&self, bundle: &Bundle) -> bool {
        match (self, bundle) {
            (Identity::Flatpak(id) | Identity::Any(id), Bundle::Flatpak(found))
            | (Identity::Snap(id) | Identity::Any(id), Bundle::Snap(found)) => found == id,
            (Identity::Desktop(id) | Identity::Any(id), Bundle::Desktop(found)) => {
                desktop_ids(id).any(|id| id == found)
            }
            _ => false,
        }
    }
}

/// What may be meant by the id of a desktop entry: `org.telegram.desktop` is one, and people write
/// the name of the file `firefox.desktop` for another.
pub(crate) fn desktop_ids(id: &str) -> impl Iterator<Item = &str> {
    let named_by_file = id.strip_suffix(".desktop").filter(|id| !id.is_empty());
    std::iter::once(id).chain(named_by_file)
}

/// Why a text is not an [`Identity`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// Nothing stands behind the colon.
    #[error("nothing is named behind {0}:")]
    Empty(String),
    /// A kind that rules cannot name.
    #[error("apps cannot be named by {0}:")]
    UnknownKind(String),
    /// No text at all.
    #[error("nothing is named")]
    Nothing,
    /// The wildcards make no sense.
    #[error("is no pattern: {0}")]
    Pattern(String),
    /// A path that depends on the directory in which somebody is.
    #[error("the path has to begin with /")]
    Relative,
    /// A path with `.` or `..` in it.
    #[error("the path must not hold . or .. parts")]
    Dots,
    /// A path with two slashes in a row, or one at the end.
    #[error("the path must not hold // or end with /")]
    EmptyPart,
    /// A name with a `/` in it.
    #[error("the name must not hold a /")]
    Slash,
    /// A pattern where one id is meant.
    #[error("the id must not hold *, ? or [")]
    Wildcard,
    /// An id that no unit could be named for.
    #[error("the id must not begin with - or @")]
    Sign,
    /// A blank at either end, or a control character.
    #[error("the name must not begin or end with a blank, nor hold a control character")]
    Blank,
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, named) = match text.split_once(':') {
            Some((kind, "")) => return Err(InvalidIdentity::Empty(kind.to_owned())),
            Some((kind, named)) => (Some(kind), named),
            None if text.is_empty() => return Err(InvalidIdentity::Nothing),
            None => (None, text),
        };
        if named.trim() != named || named.contains(char::is_control) {
            return Err(InvalidIdentity::Blank);
        }
        Ok(match kind {
            None => Identity::Any(id(named)?),
            Some("wrapper") => Identity::Wrapper(ProfileId::new(named)),
            Some("exe") => executable(named)?,
            Some("unit") => Identity::Unit(unit(named)?),
            Some("user-unit") => Identity::UserUnit(unit(named)?),
            Some("cgroup") => Identity::Cgroup(cgroup(named)?),
            Some("flatpak") => Identity::Flatpak(id(named)?),
            Some("snap") => Identity::Snap(id(named)?),
            Some("app") => Identity::Desktop(id(named)?),
            Some(kind) => return Err(InvalidIdentity::UnknownKind(kind.to_owned())),
        })
    }
}

fn executable(named: &str) -> Result<Identity, InvalidIdentity> {
    let pattern: Glob = named.parse()?;
    if !named.contains('/') {
        return Ok(Identity::Name(pattern));
    }
    check_path(named)?;
    Ok(match pattern.is_literal() {
        true => Identity::Path(PathBuf::from(named)),
        false => Identity::Paths(pattern),
    })
}

/// The name of a unit; one without a kind is a service, and a template is all its instances.
fn unit(named: &str) -> Result<Glob, InvalidIdentity> {
    if named.contains('/') {
        return Err(InvalidIdentity::Slash);
    }
    let named = match KINDS.iter().any(|kind| named.ends_with(kind)) || named.ends_with('*') {
        true => named.to_owned(),
        false => format!("{named}.service"),
    };
    match named.split_once("@.") {
        // One that has this twice is no template of anything.
        Some((_, kind)) if kind.contains("@.") => named.parse(),
        Some((template, kind)) => format!("{template}@*.{kind}").parse(),
        None => named.parse(),
    }
}

const KINDS: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

fn cgroup(named: &str) -> Result<String, InvalidIdentity> {
    match named.trim_end_matches('/') {
        "" => Ok("/".to_owned()),
        path if path.trim_end() != path => Err(InvalidIdentity::Blank),
        path => check_path(path).map(|()| path.to_owned()),
    }
}

fn id(text: &str) -> Result<String, InvalidIdentity> {
    match text {
        _ if text.contains('/') => Err(InvalidIdentity::Slash),
        _ if text.contains(WILDCARDS) => Err(InvalidIdentity::Wildcard),
        _ if text.starts_with(['-', '@']) => Err(InvalidIdentity::Sign),
        _ => Ok(text.to_owned()),
    }
}

/// Checks that a path means the same to everybody.
fn check_path(text: &str) -> Result<(), InvalidIdentity> {
    let Some(below) = text.strip_prefix('/') else {
        return Err(InvalidIdentity::Relative);
    };
    let mut parts = below.split('/');
    match parts.clone().any(|part| part == "." || part == "..") {
        true => Err(InvalidIdentity::Dots),
        false if parts.any(str::is_empty) => Err(InvalidIdentity::EmptyPart),
        false => Ok(()),
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Wrapper(profile) => write!(f, "wrapper:{profile}"),
            Identity::Name(name) => write!(f, "exe:{name}"),
            Identity::Path(path) => write!(f, "exe:{}", path.display()),
            Identity::Paths(pattern) => write!(f, "exe:{pattern}"),
            Identity::Unit(name) => write!(f, "unit:{name}"),
            Identity::UserUnit(name) => write!(f, "user-unit:{name}"),
            Identity::Cgroup(path) => write!(f, "cgroup:{path}"),
            Identity::Flatpak(id) => write!(f, "flatpak:{id}"),
            Identity::Snap(name) => write!(f, "snap:{name}"),
            Identity::Desktop(id) => write!(f, "app:{id}"),
            Identity::Any(id) => f.write_str(id),
        }
    }
}
