use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use glob::{MatchOptions, Pattern};

use crate::{App, Bundle, ProfileId};

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
    /// `app:ID`, a desktop entry.
    Desktop(String),
    /// `ID`, whatever it was installed as.
    Any(String),
}

impl Identity {
    /// Whether `app` has this identity.
    pub fn matches(&self, app: &App) -> bool {
        let cgroup = app.cgroup.as_ref();
        match self {
            Identity::Wrapper(profile) => app.wrapper.as_ref() == Some(profile),
            Identity::Name(name) => app
                .programs()
                .any(|program| program.is_named(|found| name.matches(found))),
            Identity::Path(path) => app.programs().any(|program| program.is_at(path)),
            Identity::Paths(pattern) => app
                .programs()
                .filter_map(|program| program.path.as_deref())
                .any(|path| pattern.matches_path(path)),
            Identity::Unit(name) => {
                cgroup.is_some_and(|cgroup| cgroup.system_units().any(|unit| name.matches(unit)))
            }
            Identity::UserUnit(name) => {
                cgroup.is_some_and(|cgroup| cgroup.user_units().any(|unit| name.matches(unit)))
            }
            Identity::Cgroup(path) => cgroup.is_some_and(|cgroup| cgroup.is_within(path)),
            Identity::Flatpak(id) => is_flatpak(app, id),
            Identity::Snap(name) => is_snap(app, name),
            Identity::Desktop(id) => is_desktop(app, id),
            Identity::Any(id) => is_flatpak(app, id) || is_snap(app, id) || is_desktop(app, id),
        }
    }
}

fn is_flatpak(app: &App, id: &str) -> bool {
    app.bundles.contains(&Bundle::Flatpak(id.to_owned()))
        || app
            .cgroup
            .as_ref()
            .is_some_and(|cgroup| cgroup.is_flatpak(id))
}

fn is_snap(app: &App, name: &str) -> bool {
    app.bundles.contains(&Bundle::Snap(name.to_owned()))
        || app
            .cgroup
            .as_ref()
            .is_some_and(|cgroup| cgroup.is_snap(name))
}

fn is_desktop(app: &App, id: &str) -> bool {
    app.bundles.contains(&Bundle::Desktop(id.to_owned()))
        || app
            .cgroup
            .as_ref()
            .is_some_and(|cgroup| cgroup.is_desktop(id))
}

/// A pattern of `*`, `?` and `[…]`; without any of them, the text itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Glob(Pattern);

impl Glob {
    const OPTIONS: MatchOptions = MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: false,
    };

    /// Whether `text` is like this.
    pub fn matches(&self, text: &str) -> bool {
        self.0.matches_with(text, Self::OPTIONS)
    }

    /// Whether `path` is like this.
    pub fn matches_path(&self, path: &Path) -> bool {
        self.0.matches_path_with(path, Self::OPTIONS)
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The text up to the first wildcard.
    pub fn literal(&self) -> &str {
        let text = self.as_str();
        &text[..text.find(WILDCARDS).unwrap_or(text.len())]
    }

    /// Whether it has no wildcard.
    pub fn is_literal(&self) -> bool {
        !self.as_str().contains(WILDCARDS)
    }
}

const WILDCARDS: [char; 3] = ['*', '?', '['];

impl FromStr for Glob {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pattern = Pattern::new(text).map_err(|e| InvalidIdentity::Pattern(e.msg.to_owned()))?;
        Ok(Self(pattern))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
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
    /// A name with a `/` in it.
    #[error("the name must not hold a /")]
    Slash,
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((kind, named)) = text.split_once(':') else {
            return match text {
                "" => Err(InvalidIdentity::Nothing),
                id => Ok(Identity::Any(name(id)?)),
            };
        };
        if named.is_empty() {
            return Err(InvalidIdentity::Empty(kind.to_owned()));
        }
        Ok(match kind {
            "wrapper" => Identity::Wrapper(ProfileId::new(named)),
            "exe" => executable(named)?,
            "unit" => Identity::Unit(unit(named)?),
            "user-unit" => Identity::UserUnit(unit(named)?),
            "cgroup" => {
                path(named)?;
                Identity::Cgroup(format!("/{}", named.trim_matches('/')))
            }
            "flatpak" => Identity::Flatpak(name(named)?),
            "snap" => Identity::Snap(name(named)?),
            "app" => {
                let id = named.strip_suffix(".desktop").unwrap_or(named);
                Identity::Desktop(name(id)?)
            }
            _ => return Err(InvalidIdentity::UnknownKind(kind.to_owned())),
        })
    }
}

fn executable(named: &str) -> Result<Identity, InvalidIdentity> {
    let pattern: Glob = named.parse()?;
    if !named.contains('/') {
        return Ok(Identity::Name(pattern));
    }
    path(named)?;
    Ok(match pattern.is_literal() {
        true => Identity::Path(PathBuf::from(named)),
        false => Identity::Paths(pattern),
    })
}

/// The name of a unit; one without a kind is a service.
fn unit(named: &str) -> Result<Glob, InvalidIdentity> {
    let named = name(named)?;
    const KINDS: [&str; 3] = [".service", ".scope", ".slice"];
    if KINDS.iter().any(|kind| named.ends_with(kind)) || named.ends_with('*') {
        return named.parse();
    }
    format!("{named}.service").parse()
}

fn name(text: &str) -> Result<String, InvalidIdentity> {
    match text.contains('/') {
        true => Err(InvalidIdentity::Slash),
        false => Ok(text.to_owned()),
    }
}

/// Checks that a path means the same to everybody.
pub(crate) fn path(text: &str) -> Result<(), InvalidIdentity> {
    if !text.starts_with('/') {
        return Err(InvalidIdentity::Relative);
    }
    match text.split('/').any(|part| part == "." || part == "..") {
        true => Err(InvalidIdentity::Dots),
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
