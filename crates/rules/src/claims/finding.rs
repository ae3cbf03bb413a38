use std::fmt;

use super::{Claim, Claims, Found, each};
use crate::facts::Facts;
use crate::{App, Bundle, Identity, Mismatch, Profile, Profiles, Program, Requirement, Rule};

/// What came of holding one rule against an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule, or the tool of a rule.
    pub claim: Claim,
    /// What came of it.
    pub found: Found,
    /// The same for people: what the rule asks for, and what the app is where that differs.
    pub sentence: String,
}

/// The same as [`super::claims`], told rule by rule.
pub fn examine(profiles: &Profiles, app: &App, inherited: &Claims) -> Vec<Finding> {
    let facts = Facts::of(app, inherited.wrapper.as_ref());
    let mut findings = Vec::new();
    for profile in profiles.iter() {
        each(profile, &facts, inherited, |rule, tool, found| {
            findings.push(Finding {
                claim: Claim::new(profile, rule, tool),
                found,
                sentence: sentence(profile, rule, tool, found, &facts),
            });
        });
    }
    findings
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.claim, self.sentence)
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

fn sentence(
    profile: &Profile,
    rule: &Rule,
    tool: Option<&Rule>,
    found: Found,
    facts: &Facts<'_>,
) -> String {
    let asked = tool.unwrap_or(rule);
    let identity = &asked.identity;
    match found {
        Found::Matches => match tool {
            None => format!("names the app by {identity}"),
            Some(_) => format!(
                "names the app by {identity}, as a tool of {}",
                rule.identity
            ),
        },
        Found::Inherited => {
            format!("names an ancestor of the app by {identity}, with all that it starts")
        }
        Found::Above => format!(
            "names tools that {} starts, and the app is that or was started by it; the app itself is left alone",
            rule.identity
        ),
        Found::Not(Mismatch::Identity) => {
            format!("names {identity}, and the app {}", kind_of(identity, facts))
        }
        Found::Not(Mismatch::Path) => {
            let wanted = asked.path.as_deref().unwrap_or("".as_ref()).display();
            format!(
                "wants the program at Path {wanted}, and the app is {}",
                programs(facts)
            )
        }
        Found::Not(Mismatch::User) => {
            let wanted = asked.user.as_ref().map(ToString::to_string);
            let wanted = wanted.unwrap_or_default();
            format!(
                "is for User {wanted} alone, and the app runs as {}",
                user(facts.app, &wanted)
            )
        }
        Found::Not(Mismatch::Requirement) => requirement(asked, facts),
        Found::Not(Mismatch::Tools) => format!(
            "names {identity} only where {} has started it, and that is no ancestor of the app",
            rule.identity
        ),
        Found::Disabled => "is out of force: the profile has Enabled: false".to_owned(),
        Found::OtherUser => format!(
            "is of a profile of user {}, and the app runs as {}",
            profile.owner.unwrap_or_default(),
            facts.app.user
        ),
    }
}

/// What the app is in that respect which the identity is about.
fn kind_of(identity: &Identity, facts: &Facts<'_>) -> String {
    match identity {
        Identity::Wrapper(_) => match facts.wrapper {
            Some(wrapper) => format!("was started by offramp run --profile {wrapper}"),
            None => "was not started by offramp run".to_owned(),
        },
        Identity::Name(_) | Identity::Path(_) | Identity::Paths(_) => {
            format!("is {}", programs(facts))
        }
        Identity::Unit(_) => match &*facts.system_units {
            [] => "is in no unit of the system".to_owned(),
            units => format!("is in {}", units.join(", ")),
        },
        Identity::UserUnit(_) => match &*facts.user_units {
            [] => "is in no unit of a user's service manager".to_owned(),
            units => format!("is in {}", units.join(", ")),
        },
        Identity::Cgroup(_) => match &facts.app.cgroup {
            Some(cgroup) => format!("is in {cgroup}"),
            None => "is in no known control group".to_owned(),
        },
        Identity::Flatpak(_) => bundles(facts, "such Flatpak", |b| matches!(b, Bundle::Flatpak(_))),
        Identity::Snap(_) => bundles(facts, "such snap", |b| matches!(b, Bundle::Snap(_))),
        Identity::Desktop(_) => bundles(facts, "such desktop entry", |b| {
            matches!(b, Bundle::Desktop(_))
        }),
        Identity::Any(id) => {
            let is = bundles(facts, "such Flatpak, snap or desktop entry", |_| true);
            format!("{is}; an executable of this name would be exe:{id}")
        }
    }
}

fn programs(facts: &Facts<'_>) -> String {
    match &*facts.programs {
        [] => "an unknown program".to_owned(),
        [program] => program.program.to_string(),
        [script, interpreter, ..] => {
            format!(
                "{}, a script that {} executes",
                script.program, interpreter.program
            )
        }
    }
}

fn bundles(facts: &Facts<'_>, what: &str, is_meant: impl Fn(&Bundle) -> bool) -> String {
    let found = facts.app.bundles.iter().filter(|bundle| is_meant(bundle));
    let found: Vec<_> = found.map(ToString::to_string).collect();
    // A name of a unit can be read in several ways: people do that better.
    let unit = facts.user_units.last().or(facts.system_units.last());
    match (&*found, unit) {
        ([], None) => format!("is no {what}"),
        ([], Some(unit)) => format!("is no {what} (its unit is {unit})"),
        (found, _) => format!("is {}", found.join(" and ")),
    }
}

/// The user, with the groups where it is a group that is asked for.
fn user(app: &App, wanted: &str) -> String {
    if !wanted.starts_with('@') {
        return app.user.to_string();
    }
    let ids = app.user.groups.iter().map(ToString::to_string);
    let names = app.user.group_names.iter().map(|name| format!("@{name}"));
    let groups: Vec<_> = names.chain(ids.map(|id| format!("@{id}"))).collect();
    format!("{}, in the groups {}", app.user, groups.join(", "))
}

fn requirement(rule: &Rule, facts: &Facts<'_>) -> String {
    let Some(requirement) = &rule.requirement else {
        return String::new();
    };
    match rule.program(facts) {
        None => format!("requires {requirement}, and the program is not known"),
        Some(program) => format!(
            "requires {requirement}, and {}",
            state(requirement, program)
        ),
    }
}

/// What is known of a program that a requirement asks for.
fn state(requirement: &Requirement, program: &Program) -> String {
    let owner = match (&program.owner_name, program.owner) {
        (Some(name), Some(id)) => format!("owner = \"{name}\" ({id})"),
        (None, Some(id)) => format!("owner = \"{id}\""),
        (_, None) => "an unknown owner".to_owned(),
    };
    let hash = match program.sha256 {
        Some(hash) => Requirement::Sha256(hash).to_string(),
        None => "an unknown sha256".to_owned(),
    };
    match (requirement.asks_for_owner(), requirement.asks_for_hash()) {
        (true, true) => format!("{program} has {owner} and {hash}"),
        (true, false) => format!("{program} has {owner}"),
        (false, _) => format!("{program} has {hash}"),
    }
}
