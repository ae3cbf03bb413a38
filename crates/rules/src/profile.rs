use std::collections::BTreeMap;
use std::fmt;

use crate::{DomainName, Prefix, ProfileId, Resolver, Rule};

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
    /// The user whose processes alone it may claim: whose it is. None: everybody's.
    pub owner: Option<u32>,
    /// Whether it claims apps at all.
    pub enabled: bool,
    /// The apps it claims, besides `wrapper:` and its own name, which every profile has.
    pub rules: Vec<Rule>,
    /// Targets within one of these names go directly.
    pub excluded_domains: Vec<DomainName>,
    /// Targets of exactly one of these names go directly.
    pub excluded_fqdns: Vec<DomainName>,
    /// Targets in one of these blocks, and known by address only, go directly.
    pub excluded_routes: Vec<Prefix>,
    /// Whether targets on the machine's own networks go directly.
    pub exclude_local_networks: bool,
    /// What happens while it is not connected.
    pub unavailable: UnavailableAction,
    /// Whether apps are told the true addresses of names, not ones that stand for them.
    pub real_addresses: bool,
    /// Whether flows to known resolvers that encrypt (DNS over TLS, HTTPS or QUIC) are refused.
    pub refuse_encrypted: bool,
    /// Resolvers that encrypt besides the known ones, of which nothing is refused but together with
    /// those.
    pub encrypted_resolvers: Vec<Resolver>,
    /// What users have changed for their own processes, by user id.
    pub overlays: BTreeMap<u32, Overlay>,
}

/// What a user may change of a profile that is not the user's, where it allows that.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overlay {
    /// More names that go directly.
    pub excluded_domains: Vec<DomainName>,
    /// More blocks that go directly.
    pub excluded_routes: Vec<Prefix>,
    /// Takes the place of the profile's.
    pub exclude_local_networks: Option<bool>,
    /// Takes the place of the profile's.
    pub unavailable: Option<UnavailableAction>,
}

impl Profile {
    pub(crate) fn has_rule(&self, identifier: &str) -> bool {
        self.rules.iter().any(|rule| rule.identifier == identifier)
    }

    /// What goes directly and what happens while it is not connected, for the processes of `user`.
    pub(crate) fn for_user(&self, user: Option<u32>) -> ForUser<'_> {
        ForUser {
            profile: self,
            overlay: user.and_then(|user| self.overlays.get(&user)),
        }
    }
}

/// A profile with the changes of one user.
pub(crate) struct ForUser<'a> {
    profile: &'a Profile,
    overlay: Option<&'a Overlay>,
}

impl<'a> ForUser<'a> {
    pub(crate) fn excluded_domains(&self) -> impl Iterator<Item = &'a DomainName> {
        let more = self
            .overlay
            .iter()
            .flat_map(|overlay| &overlay.excluded_domains);
        self.profile.excluded_domains.iter().chain(more)
    }

    pub(crate) fn excluded_routes(&self) -> impl Iterator<Item = Prefix> {
        let more = self
            .overlay
            .iter()
            .flat_map(|overlay| &overlay.excluded_routes);
        self.profile.excluded_routes.iter().chain(more).copied()
    }

    pub(crate) fn exclude_local_networks(&self) -> bool {
        let own = self
            .overlay
            .and_then(|overlay| overlay.exclude_local_networks);
        own.unwrap_or(self.profile.exclude_local_networks)
    }

    pub(crate) fn unavailable(&self) -> UnavailableAction {
        let own = self.overlay.and_then(|overlay| overlay.unavailable);
        own.unwrap_or(self.profile.unavailable)
    }
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
