//! What is in force: the profiles, their upstreams and the names that each uses.

use std::collections::BTreeMap;
use std::sync::Arc;

use offramp_dns::{Names, Responder, SystemResolver};
use offramp_profile::{Credentials, Directories, Loaded, Profile};
use offramp_rules::{Claims, Prefix, ProfileId, Profiles, World};
use tokio::sync::Notify;

use crate::active::Active;
use crate::approvals::is_openable;
use crate::ephemeral::Ephemeral;
use crate::facts::Browsers;
use crate::hosts::Hosts;

/// Names that are remembered for each pair of synthetic blocks.
const NAMES: usize = 120_000;

/// The profiles in force. Replaced as a whole; whoever decides holds one copy throughout.
#[derive(Default)]
pub(crate) struct Policy {
    pub(crate) loaded: Loaded,
    pub(crate) rules: Profiles,
    pub(crate) browsers: Arc<Browsers>,
    /// Rules for browsers that are a user's own.
    own_browsers: BTreeMap<(ProfileId, String), u32>,
    pub(crate) active: BTreeMap<ProfileId, Arc<Active>>,
    names: BTreeMap<Blocks, Book>,
    /// What `/etc/hosts` says of hosts elsewhere.
    pub(crate) hosts: Hosts,
}

pub(crate) type Blocks = (Prefix, Option<Prefix>);

/// The names that synthetic addresses stand for, and who answers with them.
#[derive(Clone)]
pub(crate) struct Book {
    pub(crate) names: Arc<Names>,
    pub(crate) responder: Arc<Responder>,
}

/// What a new policy is made from.
pub(crate) struct Sources<'a> {
    pub(crate) directories: &'a Directories,
    pub(crate) ephemeral: &'a BTreeMap<ProfileId, Ephemeral>,
    /// The IPv6 block of profiles that name none.
    pub(crate) synthetic_v6: Prefix,
    pub(crate) changed: &'a Arc<Notify>,
    /// Whether servers are reached for; else everything is refused.
    pub(crate) reaches: bool,
}

impl Policy {
    /// Reads everything again. What is as it was before keeps its connections and names; a file
    /// that is bad now keeps what it said before.
    pub(crate) fn read(sources: &Sources<'_>, before: &Policy) -> Self {
        let (loaded, browsers) = load(sources.directories, before);
        Self::with(loaded, browsers, sources, before)
    }

    /// The same files with other profiles of `offramp run --server`.
    pub(crate) fn with_ephemeral(sources: &Sources<'_>, before: &Policy) -> Self {
        let browsers = Arc::clone(&before.browsers);
        Self::with(before.loaded.clone(), browsers, sources, before)
    }

    /// Other files, or other browsers.
    pub(crate) fn with(
        loaded: Loaded,
        browsers: Arc<Browsers>,
        sources: &Sources<'_>,
        before: &Policy,
    ) -> Self {
        let own = sources
            .ephemeral
            .values()
            .map(|run| (Arc::clone(&run.profile), Some(run.uid)));
        let all: Vec<(Arc<Profile>, Option<u32>)> = loaded
            .profiles
            .iter()
            .map(|profile| (Arc::clone(profile), None))
            .chain(own)
            .collect();
        let mut own_browsers = BTreeMap::new();
        let rules = all.iter().map(|(profile, _)| {
            let mut rules = profile.rules.clone();
            for (rule, user) in browsers.rules(&rules, &profile.browser_domains) {
                let own = |user| ((rules.id.clone(), rule.identifier.clone()), user);
                own_browsers.extend(user.map(own));
                rules.rules.push(rule);
            }
            rules
        });
        let rules = Profiles::new(rules);
        let common = (common_v4(), Some(sources.synthetic_v6));
        let book = before.names.get(&common).cloned();
        let mut names = BTreeMap::from([(common, book.unwrap_or_else(|| Book::new(common)))]);
        let mut active = BTreeMap::new();
        for (profile, owner) in all {
            let blocks = (
                profile.synthetic_v4,
                profile.synthetic_v6.or(Some(sources.synthetic_v6)),
            );
            let book = before.names.get(&blocks).cloned();
            names
                .entry(blocks)
                .or_insert_with(|| book.unwrap_or_else(|| Book::new(blocks)));
            let id = profile.id().clone();
            // A disabled profile reaches for nothing.
            if profile.rules.enabled {
                let known = before.active.get(&id).map(Arc::as_ref);
                let started = match sources.reaches {
                    true => {
                        let credentials = Credentials::open_for(sources.directories, &profile);
                        Active::start(profile, owner, &credentials, known, sources.changed)
                    }
                    false => Active::idle(profile, owner),
                };
                active.insert(id, Arc::new(started));
            }
        }
        let hosts = Hosts::read(|address| is_openable(names.keys(), address));
        Self {
            loaded,
            rules,
            browsers,
            own_browsers,
            active,
            names,
            hosts,
        }
    }

    /// Whose browser it is that a rule names, where it is one user's own.
    pub(crate) fn browser_owner(&self, profile: &ProfileId, rule: &str) -> Option<u32> {
        let rule = (profile.clone(), rule.to_owned());
        self.own_browsers.get(&rule).copied()
    }

    /// The states as they are now.
    pub(crate) fn world(
        &self,
        local: impl IntoIterator<Item = Prefix>,
        off: &std::collections::BTreeSet<ProfileId>,
    ) -> World {
        let mut world = World::new(local);
        for (id, active) in &self.active {
            let state = match off.contains(id) {
                true => offramp_rules::State::Off,
                false => active.state(),
            };
            world.set_state(id.clone(), state);
        }
        world
    }

    /// The profiles at work that claim such apps, in the order in which they are asked.
    pub(crate) fn claiming(&self, claims: &Claims) -> impl Iterator<Item = &Arc<Active>> {
        let ids = self.rules.iter().map(|profile| &profile.id);
        ids.filter(|id| claims.is_under(id))
            .filter_map(|id| self.active.get(id))
    }

    /// Whether a profile that claims such apps has names answered with true addresses. Then any address
    /// may stand for several names, and nothing but the daemon can tell them apart.
    pub(crate) fn is_real(&self, claims: &Claims) -> bool {
        let mut profiles = self.rules.iter();
        profiles.any(|own| own.enabled && own.real_addresses && claims.is_under(&own.id))
    }

    /// The names that apps with these claims are given: those of the first profile. Where that is
    /// gone, the common ones tell that names are refused.
    pub(crate) fn book(&self, claims: &Claims) -> Option<&Book> {
        self.entry(claims).map(|(_, book)| book)
    }

    /// The blocks that these names have their addresses from.
    pub(crate) fn blocks(&self, claims: &Claims) -> Vec<Prefix> {
        let blocks = self.entry(claims).map(|((v4, v6), _)| (*v4, *v6));
        blocks
            .iter()
            .flat_map(|(v4, v6)| std::iter::once(*v4).chain(*v6))
            .collect()
    }

    fn entry(&self, claims: &Claims) -> Option<(&Blocks, &Book)> {
        let first = self.claiming(claims).next();
        let own = first.and_then(|active| self.entry_of(active));
        own.or_else(|| self.names.iter().next())
    }

    fn entry_of(&self, active: &Active) -> Option<(&Blocks, &Book)> {
        let profile = &active.profile;
        self.names.iter().find(|((v4, v6), _)| {
            *v4 == profile.synthetic_v4
                && profile
                    .synthetic_v6
                    .is_none_or(|wanted| Some(wanted) == *v6)
        })
    }

    /// The blocks of a profile at work.
    pub(crate) fn blocks_of(&self, id: &ProfileId) -> Option<Blocks> {
        let active = self.active.get(id)?;
        self.entry_of(active).map(|(blocks, _)| *blocks)
    }

    pub(crate) fn books(&self) -> impl Iterator<Item = (&Blocks, &Book)> {
        self.names.iter()
    }
}

/// Reads the files of profiles, and looks for browsers where a profile asks for them; may block.
pub(crate) fn load(directories: &Directories, before: &Policy) -> (Loaded, Arc<Browsers>) {
    let loaded = offramp_profile::load(directories, Some(&before.loaded));
    let asks =
        |profile: &Arc<Profile>| profile.rules.enabled && !profile.browser_domains.is_empty();
    let browsers = match loaded.profiles.iter().any(asks) {
        true => Browsers::search(),
        false => Browsers::default(),
    };
    (loaded, Arc::new(browsers))
}

/// The block of profiles that name none (RFC 2544 set it apart for benchmarks).
fn common_v4() -> Prefix {
    "198.18.0.0/15".parse().expect("it is a block")
}

impl Book {
    fn new((v4, v6): Blocks) -> Self {
        let names = Arc::new(Names::new(v4, v6, NAMES));
        let responder = Arc::new(Responder::new(Arc::clone(&names), SystemResolver::new()));
        Self { names, responder }
    }
}
