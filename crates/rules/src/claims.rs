mod finding;
mod held;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::candidates::cgroup_name;
use crate::facts::Facts;
use crate::{App, Bundle, Identity, Mismatch, Profile, ProfileId, Profiles, Rule};

pub use finding::{Finding, examine};

/// Which rules of which profiles name a process: all that decisions about its flows depend on.
/// Processes with equal claims are one class of apps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claims {
    /// The profile of the `offramp run` that started the process or one of its ancestors.
    pub wrapper: Option<ProfileId>,
    /// The user, where a profile that claims the process is changed by this user's overlay.
    pub user: Option<u32>,
    /// The rules that name the process, or an ancestor of it.
    pub rules: BTreeSet<Claim>,
    /// Rules with tools of which the process, or an ancestor of it, is the app.
    pub below: BTreeSet<Claim>,
}

/// A rule of a profile.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    /// The profile.
    pub profile: ProfileId,
    /// The rule's `Identifier`.
    pub rule: String,
    /// Of a rule with tools: the tool's `Identifier`.
    pub tool: Option<String>,
}

/// Whether a rule names an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It does.
    Matches,
    /// It names an ancestor, and what that starts with it.
    Inherited,
    /// It names tools of the app; the app itself is left alone.
    Above,
    /// It does not.
    Not(Mismatch),
    /// The profile has `Enabled: false`.
    Disabled,
    /// The profile is another user's.
    OtherUser,
}

impl Claims {
    /// Whether nothing claims the process, nor could anything that it starts.
    pub fn is_empty(&self) -> bool {
        self.wrapper.is_none() && self.rules.is_empty() && self.below.is_empty()
    }

    /// Whether the process itself is not managed, and what it starts may be.
    pub fn is_only_above(&self) -> bool {
        self.wrapper.is_none() && self.rules.is_empty() && !self.below.is_empty()
    }

    /// Whether a process with these claims is under this profile.
    pub fn is_under(&self, profile: &ProfileId) -> bool {
        self.wrapper.as_ref() == Some(profile) || of(&self.rules, profile).next().is_some()
    }
}

impl Claim {
    /// The rule as it is shown within its profile.
    pub fn label(&self) -> String {
        match &self.tool {
            Some(tool) => format!("{} > {tool}", self.rule),
            None => self.rule.clone(),
        }
    }
}

/// Those of `claims` that are of this profile, in order.
fn of<'a>(
    claims: &'a BTreeSet<Claim>,
    profile: &ProfileId,
) -> impl Iterator<Item = &'a Claim> + use<'a> {
    let id = profile.clone();
    let first = Claim {
        profile: id.clone(),
        rule: String::new(),
        tool: None,
    };
    claims
        .range(first..)
        .take_while(move |claim| claim.profile == id)
}

/// Which rules name `app`, which was started by a process with the claims `inherited`; where a
/// process executes another program, its claims of before are what it inherits.
pub fn claims(profiles: &Profiles, app: &App, inherited: &Claims) -> Claims {
    let facts = Facts::of(app, inherited.wrapper.as_ref());
    let mut claims = Claims {
        wrapper: facts.wrapper.cloned(),
        ..Claims::default()
    };
    for profile in profiles.iter() {
        each(profile, &facts, inherited, |rule, tool, found| {
            let claims = match found {
                Found::Matches | Found::Inherited => &mut claims.rules,
                Found::Above => &mut claims.below,
                Found::Not(_) | Found::Disabled | Found::OtherUser => return,
            };
            claims.insert(Claim::new(profile, rule, tool));
        });
        let is_changed = profile.enabled && profile.overlays.contains_key(&app.user.id);
        if is_changed && claims.is_under(&profile.id) {
            claims.user = Some(app.user.id);
        }
    }
    claims
}

/// Whether a process is of the same class whenever it executes this file under this name, in this
/// control group if that is among [`crate::Candidates`], as this user, and with the same claims
/// inherited: no rule that could name it looks at more than that. A file with links in several
/// directories counts as being where it was seen first.
///
/// Not for interpreters: what they come to depends on the script, and only the caller knows what is
/// one.
pub fn is_settled(profiles: &Profiles, app: &App) -> bool {
    let facts = Facts::of(app, None);
    app.script.is_none()
        && profiles
            .iter()
            .filter(|profile| profile.enabled)
            .flat_map(|profile| &profile.rules)
            .flat_map(|rule| std::iter::once(rule).chain(&rule.tools))
            .all(|rule| is_settled_by(rule, &facts))
}

fn is_settled_by(rule: &Rule, facts: &Facts<'_>) -> bool {
    let path = facts.programs.first().and_then(|seen| seen.path.as_deref());
    let is_identity_settled = match &rule.identity {
        // The same file may be seen elsewhere, where the host does not see it here.
        Identity::Paths(_) => path.is_some(),
        Identity::Unit(_) | Identity::UserUnit(_) | Identity::Cgroup(_) => {
            cgroup_name(&rule.identity).is_some()
        }
        // Several of them may have a file in common, and it may be executed outside of them.
        Identity::Flatpak(_) | Identity::Snap(_) | Identity::Any(_) => {
            let is_shared = |bundle: &Bundle| !matches!(bundle, Bundle::Desktop(_));
            let is_apart = |path: &str| !path.split('/').any(|part| STORES.contains(&part));
            path.is_some_and(is_apart) && !facts.app.bundles.iter().any(is_shared)
        }
        Identity::Wrapper(_) | Identity::Name(_) | Identity::Path(_) | Identity::Desktop(_) => true,
    };
    is_identity_settled && !(rule.is_volatile() && rule.identity.is_of(facts))
}

/// Directories that hold the files of Flatpaks and snaps.
const STORES: [&str; 2] = ["flatpak", "snap"];

/// Holds each rule of a profile, and each of its tools, against an app.
fn each<'a>(
    profile: &'a Profile,
    facts: &Facts<'_>,
    inherited: &Claims,
    mut tell: impl FnMut(&'a Rule, Option<&'a Rule>, Found),
) {
    let out_of_force = match profile.owner {
        _ if !profile.enabled => Some(Found::Disabled),
        Some(owner) if owner != facts.app.user.id => Some(Found::OtherUser),
        _ => None,
    };
    if let Some(found) = out_of_force {
        return profile
            .rules
            .iter()
            .for_each(|rule| tell(rule, None, found));
    }
    let held: Vec<_> = of(&inherited.rules, &profile.id).collect();
    let above: Vec<_> = of(&inherited.below, &profile.id).collect();
    let has = |claims: &[&Claim], rule: &Rule, tool: Option<&Rule>| {
        let key = key(rule, tool);
        claims
            .binary_search_by_key(&key, |claim| claim.key())
            .is_ok()
    };
    for rule in &profile.rules {
        let mismatch = rule.mismatch_of(facts);
        if rule.tools.is_empty() {
            let found = match mismatch {
                None => Found::Matches,
                Some(_) if has(&held, rule, None) => Found::Inherited,
                Some(mismatch) => Found::Not(mismatch),
            };
            tell(rule, None, found);
            continue;
        }
        let is_below = has(&above, rule, None);
        let found = match mismatch {
            Some(mismatch) if !is_below => Found::Not(mismatch),
            _ => Found::Above,
        };
        tell(rule, None, found);
        for tool in &rule.tools {
            let found = match is_below.then(|| tool.mismatch_of(facts)) {
                Some(None) => Found::Matches,
                _ if has(&held, rule, Some(tool)) => Found::Inherited,
                Some(Some(mismatch)) => Found::Not(mismatch),
                None => Found::Not(Mismatch::Tools),
            };
            tell(rule, Some(tool), found);
        }
    }
}

impl Claim {
    fn new(profile: &Profile, rule: &Rule, tool: Option<&Rule>) -> Self {
        Self {
            profile: profile.id.clone(),
            rule: rule.identifier.clone(),
            tool: tool.map(|tool| tool.identifier.clone()),
        }
    }

    /// What stands for it within its profile.
    fn key(&self) -> (&str, Option<&str>) {
        (&self.rule, self.tool.as_deref())
    }
}

fn key<'a>(rule: &'a Rule, tool: Option<&'a Rule>) -> (&'a str, Option<&'a str>) {
    (&rule.identifier, tool.map(|tool| &*tool.identifier))
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.profile, self.label())
    }
}

/// In short: `work: exe:curl, exe:git; dev: tools of terminal`.
impl fmt::Display for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut labels: BTreeMap<_, Vec<String>> = BTreeMap::new();
        if let Some(profile) = &self.wrapper {
            labels
                .entry(profile)
                .or_default()
                .push(format!("wrapper:{profile}"));
        }
        for claim in &self.rules {
            labels
                .entry(&claim.profile)
                .or_default()
                .push(claim.label());
        }
        for claim in &self.below {
            let label = format!("tools of {}", claim.rule);
            labels.entry(&claim.profile).or_default().push(label);
        }
        let each = labels
            .iter()
            .map(|(profile, labels)| format!("{profile}: {}", labels.join(", ")));
        match labels.is_empty() {
            true => f.write_str("unmanaged"),
            false => f.write_str(&each.collect::<Vec<_>>().join("; ")),
        }
    }
}
