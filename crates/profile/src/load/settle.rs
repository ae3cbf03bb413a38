//! Chooses the profiles in force among all that were read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use offramp_rules::{Identity, Layer, ProfileId};

use crate::overlay::UserOverlay;
use crate::problem::{Code, Problem};
use crate::profile::{self, Profile};
use crate::read::{Contents, place};
use crate::user::{FEWER_NAMES, too_many_names};

/// What was read, each part in the order of the files.
#[derive(Default)]
pub(super) struct Candidates {
    machine: Vec<Arc<Profile>>,
    users: BTreeMap<u32, Own>,
}

/// What was read of one user.
#[derive(Default)]
struct Own {
    profiles: Vec<Arc<Profile>>,
    overlays: Vec<Arc<UserOverlay>>,
}

impl Candidates {
    pub(super) fn add(&mut self, contents: &Contents, owner: Option<u32>) {
        let Some(uid) = owner else {
            return self.machine.extend(contents.profiles.iter().cloned());
        };
        let own = self.users.entry(uid).or_default();
        own.profiles.extend(contents.profiles.iter().cloned());
        own.overlays.extend(contents.overlays.iter().cloned());
    }

    /// The profiles in force in their order, and what is told of the others.
    pub(super) fn settle(self) -> (Vec<Arc<Profile>>, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut chosen = machine(self.machine, &mut problems);
        let mut all = Vec::new();
        for (uid, own) in self.users {
            all.extend(users(uid, own.profiles, &chosen, &mut problems));
            overlays(uid, own.overlays, &mut chosen, &mut problems);
        }
        all.extend(chosen.into_values());
        all.sort_by(|a, b| a.rules.cmp(&b.rules));
        (all, problems)
    }
}

type Chosen = HashMap<String, Arc<Profile>>;

/// One profile of each name: the earlier layer, within one layer the later file.
fn machine(candidates: Vec<Arc<Profile>>, problems: &mut Vec<Problem>) -> Chosen {
    let mut chosen = Chosen::new();
    let mut losers = Vec::new();
    for candidate in candidates {
        match chosen.get(candidate.identifier()) {
            Some(winner) if winner.rules.layer < candidate.rules.layer => losers.push(candidate),
            _ => losers.extend(chosen.insert(candidate.identifier().to_owned(), candidate)),
        }
    }
    problems.extend(
        losers
            .iter()
            .map(|loser| superseded(loser, &chosen[loser.identifier()])),
    );
    chosen
}

/// A user's own profiles, but those whose names managed profiles have.
fn users(
    uid: u32,
    candidates: Vec<Arc<Profile>>,
    machine: &Chosen,
    problems: &mut Vec<Problem>,
) -> Vec<Arc<Profile>> {
    let mut own = Chosen::new();
    for candidate in candidates {
        match machine.get(candidate.identifier()) {
            Some(managed) if managed.rules.layer == Layer::Managed => {
                problems.push(superseded(&candidate, managed));
            }
            _ => {
                let name = candidate.identifier().to_owned();
                if let Some(loser) = own.insert(name, Arc::clone(&candidate)) {
                    problems.push(superseded(&loser, &candidate));
                }
            }
        }
    }
    let mut own: Vec<_> = own.into_values().collect();
    within_budget(&mut own, problems);
    let names = own.iter().map(|profile| profile.identifier());
    let names: BTreeSet<ProfileId> = names.map(ProfileId::new).collect();
    for profile in &mut own {
        if wrappers(profile).any(|name| names.contains(name)) {
            rename_wrappers(Arc::make_mut(profile), uid, &names);
        }
    }
    own
}

/// Leaves out those of a user's profiles that name more than what is left for them.
fn within_budget(own: &mut Vec<Arc<Profile>>, problems: &mut Vec<Problem>) {
    if too_many_names(own.iter().map(Arc::as_ref)).is_none() {
        return;
    }
    own.sort_by(|a, b| a.rules.cmp(&b.rules));
    let mut kept: Vec<Arc<Profile>> = Vec::new();
    for profile in own.drain(..) {
        let with_it = kept.iter().chain([&profile]).map(Arc::as_ref);
        match too_many_names(with_it) {
            Some(message) => {
                let message = format!("{} is not in force: {message}", profile.identifier());
                let (line, column) = place(&profile.source, profile.identifier(), &["Identifier"]);
                problems.push(Problem {
                    code: Code::CannotBeApplied,
                    file: profile.source.file.clone(),
                    line,
                    column,
                    key_path: "Identifier".to_owned(),
                    message,
                    hint: Some(FEWER_NAMES.to_owned()),
                });
            }
            None => kept.push(profile),
        }
    }
    *own = kept;
}

fn wrappers(profile: &Profile) -> impl Iterator<Item = &ProfileId> {
    let rules = profile.rules.rules.iter();
    rules
        .flat_map(|rule| std::iter::once(rule).chain(&rule.tools))
        .filter_map(|rule| match &rule.identity {
            Identity::Wrapper(name) => Some(name),
            _ => None,
        })
}

/// `wrapper:ID` in a user's profile means the user's own profile ID, where there is one.
fn rename_wrappers(profile: &mut Profile, uid: u32, own: &BTreeSet<ProfileId>) {
    for rule in &mut profile.rules.rules {
        for rule in std::iter::once(&mut rule.identity)
            .chain(rule.tools.iter_mut().map(|tool| &mut tool.identity))
        {
            if let Identity::Wrapper(name) = rule
                && own.contains(name)
            {
                *name = profile::id(name.as_str(), Some(uid));
            }
        }
    }
}

/// Puts a user's overlays, the later file's for each profile, onto the machine's profiles.
fn overlays(
    uid: u32,
    candidates: Vec<Arc<UserOverlay>>,
    machine: &mut Chosen,
    problems: &mut Vec<Problem>,
) {
    let mut own: BTreeMap<String, Arc<UserOverlay>> = BTreeMap::new();
    for candidate in candidates {
        let name = candidate.identifier.clone();
        if let Some(loser) = own.insert(name, Arc::clone(&candidate)) {
            let message = match &candidate.source.file {
                Some(file) => format!("{} changes the profile instead", file.display()),
                None => "another overlay changes the profile instead".to_owned(),
            };
            problems.push(loser.problem_of_whole(Code::Superseded, message));
        }
    }
    for overlay in own.into_values() {
        let Some(profile) = machine.get_mut(&overlay.identifier) else {
            let message = format!("there is no profile {} for all users", overlay.identifier);
            problems.push(overlay.problem_of_whole(Code::CannotBeApplied, message));
            continue;
        };
        let refused = overlay.refused_by(profile);
        if refused.is_empty() {
            let changed = overlay.overlay.clone();
            Arc::make_mut(profile).rules.overlays.insert(uid, changed);
        }
        problems.extend(refused);
    }
}

fn superseded(loser: &Profile, winner: &Profile) -> Problem {
    let by = match &winner.source.file {
        Some(file) => file.display().to_string(),
        None => format!("the {} layer", winner.rules.layer),
    };
    let (line, column) = place(&loser.source, loser.identifier(), &["Identifier"]);
    Problem {
        code: Code::Superseded,
        file: loser.source.file.clone(),
        line,
        column,
        key_path: "Identifier".to_owned(),
        message: format!("{} is in force as {by} has it", loser.identifier()),
        hint: None,
    }
}
