use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::{DomainName, Prefix, ProfileId};

/// Where a profile comes from; an earlier layer goes before a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// Mandatory, written by the machine's administrator.
    Managed,
    /// A user's own, among them those of `offramp run --server`.
    User,
    /// The administrator's default, which a user may replace whole.
    Recommended,
    /// What a package brought.
    Vendor,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layer::Managed => "managed",
            Layer::User => "user",
            Layer::Recommended => "recommended",
            Layer::Vendor => "vendor",
        })
    }
}

/// What is known about a process that opens flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct App {
    /// The profile of the `offramp run` that started it or one of its ancestors.
    pub wrapper: Option<ProfileId>,
    /// The real user id.
    pub uid: u32,
    /// The executable, where it is known.
    pub executable: Option<PathBuf>,
}

/// One entry of a profile that names an app.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// What people call the entry; the identity as text where the profile gives no other name.
    pub identifier: String,
    /// Which apps it names.
    pub identity: Identity,
}

/// What makes a process the app that a rule names; its text is a `SigningIdentifier`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// `wrapper:ID`: started by `offramp run --profile ID`, or a descendant of such a process.
    Wrapper(ProfileId),
}

impl Identity {
    /// Whether `app` has this identity.
    pub fn matches(&self, app: &App) -> bool {
        match self {
            Identity::Wrapper(profile) => app.wrapper.as_ref() == Some(profile),
        }
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
    /// No `KIND:` in front.
    #[error("the kind is missing: write wrapper:NAME")]
    NoKind,
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None => Err(InvalidIdentity::NoKind),
            Some((kind, "")) => Err(InvalidIdentity::Empty(kind.to_owned())),
            Some(("wrapper", id)) => Ok(Identity::Wrapper(ProfileId::new(id))),
            Some((kind, _)) => Err(InvalidIdentity::UnknownKind(kind.to_owned())),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Wrapper(profile) => write!(f, "wrapper:{profile}"),
        }
    }
}

/// What happens to the flows of a profile that is not connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UnavailableAction {
    /// They are refused; the default.
    #[default]
    Drop,
    /// They go out directly.
    Direct,
}

/// What of a profile decides about flows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Profile {
    /// Where it comes from.
    pub layer: Layer,
    /// Its place within the layer: the lowest is asked first.
    pub order: u32,
    /// Its name, which no other profile in force has; the last part of the order.
    pub id: ProfileId,
    /// Whether it claims apps at all.
    pub enabled: bool,
    /// The apps it claims, besides `wrapper:` and its own name, which every profile has.
    pub rules: Vec<Rule>,
    /// Targets within one of these names go directly.
    pub excluded_domains: Vec<DomainName>,
    /// Targets in one of these blocks, and known by address only, go directly.
    pub excluded_routes: Vec<Prefix>,
    /// Whether targets on the machine's own networks go directly.
    pub exclude_local_networks: bool,
    /// What happens while it is not connected.
    pub unavailable: UnavailableAction,
}

/// The profiles in force, in the order in which they are asked: layer, `Order`, `Identifier`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profiles(Vec<Profile>);

impl Profiles {
    /// Sorts the profiles. Of several with one name, the first in that order is kept.
    pub fn new(profiles: impl IntoIterator<Item = Profile>) -> Self {
        let mut sorted: Vec<Profile> = profiles.into_iter().collect();
        sorted.sort();
        let mut seen = std::collections::HashSet::new();
        sorted.retain(|profile| seen.insert(profile.id.clone()));
        Self(sorted)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        self.0.iter()
    }

    /// The one with this name.
    pub fn find(&self, id: &ProfileId) -> Option<&Profile> {
        self.0.iter().find(|profile| profile.id == *id)
    }
}
