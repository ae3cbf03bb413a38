//! What rules want to know.

use std::collections::BTreeSet;
use std::path::PathBuf;

use offramp_rules::{App, Candidates, Identity, Profiles, Requirement, Rule, UserCondition};

/// What the rules in force name, and what of it has to be known.
#[derive(Clone, Debug, Default)]
pub(in crate::facts) struct Wanted {
    /// What of a program that is being executed makes it worth asking.
    pub(super) interest: Asked,
    /// Names of programs; these and all below are of conditions and tools too.
    pub(super) names: BTreeSet<String>,
    pub(super) paths: BTreeSet<PathBuf>,
    pub(super) desktop: BTreeSet<String>,
    /// Whether users and groups are named.
    pub(in crate::facts) names_of_people: bool,
    /// The identities of the rules that ask for a hash.
    hashed: Vec<Identity>,
}

/// What the kernel is to ask about.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) names: BTreeSet<String>,
    pub(super) paths: BTreeSet<PathBuf>,
    pub(super) desktop: BTreeSet<String>,
    pub(super) cgroup_names: BTreeSet<String>,
    pub(super) every_exec: bool,
    pub(super) by_user: bool,
}

impl Wanted {
    pub(in crate::facts) fn by(rules: &Profiles) -> Self {
        let found: Candidates = offramp_rules::candidates(rules);
        let mut wanted = Self {
            paths: found.paths.clone(),
            desktop: found.desktop.clone(),
            interest: Asked {
                names: found.names,
                paths: found.paths,
                desktop: found.desktop,
                cgroup_names: found.cgroup_names,
                every_exec: !found.any.is_empty(),
                by_user: found.by_user,
            },
            ..Self::default()
        };
        for profile in rules.iter().filter(|profile| profile.enabled) {
            for rule in &profile.rules {
                wanted.add(rule);
                rule.tools.iter().for_each(|tool| wanted.add(tool));
            }
        }
        wanted
    }

    fn add(&mut self, rule: &Rule) {
        match &rule.identity {
            Identity::Name(name) if name.is_literal() => {
                self.names.insert(name.as_str().to_owned());
            }
            Identity::Path(path) => {
                self.paths.insert(path.clone());
            }
            Identity::Desktop(id) | Identity::Any(id) => {
                self.desktop.insert(id.clone());
                // People write the name of the file.
                self.desktop
                    .extend(id.strip_suffix(".desktop").map(str::to_owned));
            }
            _ => {}
        }
        self.paths.extend(rule.path.clone());
        self.names_of_people |= matches!(
            rule.user,
            Some(UserCondition::Name(_) | UserCondition::GroupName(_))
        );
        if let Some(requirement) = &rule.requirement {
            self.names_of_people |= names_an_owner(requirement);
            if requirement.asks_for_hash() {
                self.hashed.push(rule.identity.clone());
            }
        }
    }

    /// Whether a rule that may name this app asks for the content of its file.
    pub(in crate::facts) fn asks_for_hash(&self, app: &App) -> bool {
        self.hashed.iter().any(|identity| match identity {
            // Told by a label, which is not known here.
            Identity::Wrapper(_) => true,
            identity => identity.matches(app),
        })
    }
}

fn names_an_owner(requirement: &Requirement) -> bool {
    match requirement {
        Requirement::Sha256(_) => false,
        Requirement::Owner(_) => true,
        Requirement::And(a, b) | Requirement::Or(a, b) => names_an_owner(a) || names_an_owner(b),
        Requirement::Not(a) => names_an_owner(a),
    }
}
