use std::collections::BTreeSet;
use std::fmt;

use crate::rule::Mismatch;
use crate::{App, Identity, Profile, ProfileId, Profiles, Rule};

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

impl Claims {
    /// Whether nothing claims the process, nor could anything that it starts.
    pub fn is_empty(&self) -> bool {
        self.wrapper.is_none() && self.rules.is_empty() && self.below.is_empty()
    }

    /// Whether the process itself is not managed, and what it starts may be.
    pub fn is_only_above(&self) -> bool {
        self.wrapper.is_none() && self.rules.is_empty() && !self.below.is_empty()
    }
}

/// What came of holding one rule against an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule, or the tool of a rule.
    pub claim: Claim,
    /// What came of it.
    pub found: Found,
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

/// Which rules name `app`, which was started by a process with the claims `inherited`.
pub fn claims(profiles: &Profiles, app: &App, inherited: &Claims) -> Claims {
    let mut claims = Claims {
        wrapper: app.wrapper.clone().or_else(|| inherited.wrapper.clone()),
        ..Claims::default()
    };
    for profile in profiles.iter() {
        each(profile, app, inherited, |claim, found| match found {
            Found::Matches | Found::Inherited => {
                claims.rules.insert(claim());
            }
            Found::Above => {
                claims.below.insert(claim());
            }
            Found::Not(_) | Found::Disabled | Found::OtherUser => {}
        });
        if profile.overlays.contains_key(&app.user.id) && claims.name(profile) {
            claims.user = Some(app.user.id);
        }
    }
    claims
}

/// The same, told rule by rule.
pub fn examine(profiles: &Profiles, app: &App, inherited: &Claims) -> Vec<Finding> {
    let mut findings = Vec::new();
    for profile in profiles.iter() {
        each(profile, app, inherited, |claim, found| {
            let claim = claim();
            findings.push(Finding { claim, found });
        });
    }
    findings
}

/// Whether a process is of the same class whenever it runs this program in this control group as
/// this user: no rule that could name it looks at more than that.
pub fn is_settled(profiles: &Profiles, app: &App) -> bool {
    app.script.is_none()
        && profiles.iter().all(|profile| {
            profile
                .rules
                .iter()
                .flat_map(|rule| std::iter::once(rule).chain(&rule.tools))
                .all(|rule| !rule.is_volatile() || !rule.identity.matches(app))
        })
}

/// Holds each rule of a profile against the app.
fn each(
    profile: &Profile,
    app: &App,
    inherited: &Claims,
    mut tell: impl FnMut(&dyn Fn() -> Claim, Found),
) {
    let out_of_force = match profile.owner {
        _ if !profile.enabled => Some(Found::Disabled),
        Some(owner) if owner != app.user.id => Some(Found::OtherUser),
        _ => None,
    };
    for rule in &profile.rules {
        let claim = |tool: Option<&Rule>| Claim {
            profile: profile.id.clone(),
            rule: rule.identifier.clone(),
            tool: tool.map(|tool| tool.identifier.clone()),
        };
        if let Some(found) = out_of_force {
            tell(&|| claim(None), found);
            continue;
        }
        let mismatch = rule.mismatch(app);
        if rule.tools.is_empty() {
            let found = match mismatch {
                None => Found::Matches,
                Some(_) if inherited.has_rule(profile, rule, None) => Found::Inherited,
                Some(mismatch) => Found::Not(mismatch),
            };
            tell(&|| claim(None), found);
            continue;
        }
        let is_below = inherited
            .below
            .iter()
            .any(|above| above.is(profile, rule, None));
        tell(
            &|| claim(None),
            match mismatch {
                Some(mismatch) if !is_below => Found::Not(mismatch),
                _ => Found::Above,
            },
        );
        for tool in &rule.tools {
            let found = if inherited.has_rule(profile, rule, Some(tool)) {
                Found::Inherited
            } else if is_below && tool.mismatch(app).is_none() {
                Found::Matches
            } else {
                Found::Not(Mismatch::Tools)
            };
            tell(&|| claim(Some(tool)), found);
        }
    }
}

impl Claims {
    fn has_rule(&self, profile: &Profile, rule: &Rule, tool: Option<&Rule>) -> bool {
        self.rules.iter().any(|claim| claim.is(profile, rule, tool))
    }

    /// Whether a process with these claims is under this profile.
    pub(crate) fn name(&self, profile: &Profile) -> bool {
        self.wrapper.as_ref() == Some(&profile.id)
            || self.rules.iter().any(|claim| claim.profile == profile.id)
    }

    /// The rules of `profile` that name the process: the name, and the names that each is for (empty:
    /// all). The implied `wrapper:` comes last.
    pub(crate) fn of<'a>(&'a self, profile: &'a Profile) -> impl Iterator<Item = Held<'a>> {
        let named = self
            .rules
            .iter()
            .filter(|claim| claim.profile == profile.id);
        let held = named.filter_map(|claim| Held::find(profile, claim));
        let implied = (self.wrapper.as_ref() == Some(&profile.id)).then(|| Held {
            name: Identity::Wrapper(profile.id.clone()).to_string(),
            domains: [&[], &[]],
        });
        held.chain(implied)
    }
}

/// A rule that claims a process.
pub(crate) struct Held<'a> {
    pub(crate) name: String,
    /// Names that are meant alone: a target has to be within one of each list that is not empty.
    pub(crate) domains: [&'a [crate::DomainName]; 2],
}

impl<'a> Held<'a> {
    fn find(profile: &'a Profile, claim: &Claim) -> Option<Self> {
        let rule = profile
            .rules
            .iter()
            .find(|rule| rule.identifier == claim.rule)?;
        let tool = match &claim.tool {
            Some(tool) => rule
                .tools
                .iter()
                .find(|found| found.identifier == *tool)?
                .domains
                .as_slice(),
            None => &[],
        };
        Some(Self {
            name: claim.label(),
            domains: [&rule.domains, tool],
        })
    }
}

impl Claim {
    fn is(&self, profile: &Profile, rule: &Rule, tool: Option<&Rule>) -> bool {
        self.rule == rule.identifier
            && self.profile == profile.id
            && self.tool.as_ref() == tool.map(|tool| &tool.identifier)
    }

    /// The rule as it is shown within its profile.
    pub fn label(&self) -> String {
        match &self.tool {
            Some(tool) => format!("{} > {tool}", self.rule),
            None => self.rule.clone(),
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.profile, self.label())
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Matches => f.write_str("names the app"),
            Found::Inherited => f.write_str("names an ancestor, with all that it starts"),
            Found::Above => f.write_str("names tools that the app starts, not the app itself"),
            Found::Not(mismatch) => write!(f, "{mismatch}"),
            Found::Disabled => f.write_str("is of a disabled profile"),
            Found::OtherUser => f.write_str("is of another user's profile"),
        }
    }
}
