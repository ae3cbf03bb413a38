//! Apps that run already when rules begin, change or end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use offramp_intercept::{ClassId, Label, Labelled};
use offramp_rules::{App, Claim, Claims, Profiles, Rule, claims};

use super::Next;
use crate::facts::Process;
use crate::shared::Shared;

/// Processes that start others while all are looked at make another round necessary.
const ROUNDS: usize = 4;

impl Shared {
    /// Holds the rules in force against every process. `before` are those that were in force: what
    /// a process inherited by a rule that is as it was stays. To be called with `changing` held.
    /// Returns the claims of every process that has any.
    pub(crate) async fn recognise_all(
        self: &Arc<Self>,
        before: &Profiles,
    ) -> BTreeMap<u32, Arc<Claims>> {
        let mut known = BTreeMap::new();
        let mut relabelled = 0;
        let mut is_at_rest = false;
        for _ in 0..ROUNDS {
            let changes = match self.compare(before, &mut known).await {
                Ok(changes) if changes.is_empty() => {
                    is_at_rest = true;
                    break;
                }
                Ok(changes) => changes,
                Err(error) => {
                    tracing::error!(error = crate::chain(&error), "processes not looked at");
                    break;
                }
            };
            match self.capture.relabel(&changes) {
                Ok(count) => relabelled += count,
                Err(error) => {
                    tracing::error!(error = crate::chain(&error), "processes not relabelled");
                }
            }
        }
        // Somebody starts processes faster than they can be looked at: again, later.
        self.restless.fetch_or(!is_at_rest, Ordering::Relaxed);
        if relabelled > 0 {
            tracing::info!(threads = relabelled, "running apps recognised anew");
        }
        known
    }

    /// What labels are to be others: process, label as it is, class to be.
    async fn compare(
        self: &Arc<Self>,
        before: &Profiles,
        known: &mut BTreeMap<u32, Arc<Claims>>,
    ) -> Result<Vec<(u32, u64, Option<ClassId>)>, offramp_intercept::StartError> {
        let labelled: BTreeMap<u32, Labelled> = self
            .capture
            .labelled()?
            .into_iter()
            .map(|process| (process.pid, process))
            .collect();
        let policy = self.policy();
        let all = self.ask(|shared| Some(shared.all_facts())).await;
        known.clear();
        let mut changes = Vec::new();
        for (process, app) in all.unwrap_or_default() {
            let label = labelled.get(&process.pid);
            if process.pid == std::process::id() || (label.is_none() && !process.is_ours) {
                continue;
            }
            let carried = match label.map(|label| label.label) {
                Some(Label::Class(class)) => self.class(class),
                // What is asked about is decided there, by the rules of now.
                Some(Label::Undecided { .. }) => continue,
                None => Some(Arc::default()),
            };
            let Some(carried) = carried else { continue };
            let mut inherited = retained(&carried, before, &policy.rules);
            if let Some(parent) = known.get(&process.parent) {
                inherited.rules.extend(parent.rules.iter().cloned());
                inherited.below.extend(parent.below.iter().cloned());
            }
            let found = Arc::new(claims(&policy.rules, &app, &inherited));
            let Ok(class) = self.class_of(&found).await else {
                continue;
            };
            if !found.is_empty() {
                known.insert(process.pid, found);
            }
            let is_class = label.map(|label| label.label) == class.map(Label::Class);
            if !is_class {
                changes.push((process.pid, label.map_or(0, |label| label.raw), class));
            }
        }
        Ok(changes)
    }

    /// The processes with what is known of them, parents before their children.
    fn all_facts(&self) -> Vec<(Process, App)> {
        let mut waiting = self.facts.processes();
        let pids: BTreeSet<u32> = waiting.iter().map(|process| process.pid).collect();
        let mut done = BTreeSet::new();
        let mut ordered = Vec::new();
        while !waiting.is_empty() {
            let (ready, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|process| {
                done.contains(&process.parent) || !pids.contains(&process.parent)
            });
            // Parents that change while they are read may make a ring.
            let (ready, rest) = if ready.is_empty() {
                (rest, ready)
            } else {
                (ready, rest)
            };
            for process in ready {
                done.insert(process.pid);
                if let Some(app) = self.facts.of_process(process.pid) {
                    ordered.push((process, app));
                }
            }
            waiting = rest;
        }
        ordered
    }

    /// Takes up what an earlier run left: its rules count as those of now.
    pub(crate) async fn begin_recognising(self: &Arc<Self>) {
        let _changing = self.changing.lock().await;
        let policy = self.policy();
        self.recognise(Arc::clone(&policy), &policy.rules).await;
    }

    /// Looks again at processes that were moved to a control group that rules name.
    pub(crate) async fn follow_moves(self: Arc<Self>) -> Next {
        let _changing = self.changing.lock().await;
        let policy = self.policy();
        self.recognise_running(&policy.rules).await;
        Next::Nothing
    }

    /// Puts rules in force again whose files lead elsewhere now, as after an upgrade.
    pub(crate) async fn follow_places(self: &Arc<Self>) {
        let seen = self.rules_seen();
        let refresh = |shared: &Shared| shared.facts.refresh();
        let Some(interest) = self.ask(refresh).await else {
            return;
        };
        let _changing = self.changing.lock().await;
        // Other rules were looked up just now.
        if seen != self.rules_seen() {
            return;
        }
        self.see_rules();
        self.tell_kernel(interest).await;
        let policy = self.policy();
        self.recognise_running(&policy.rules).await;
    }
}

/// What of claims goes on under the rules of now: what `offramp run` promised, and what rules say
/// that are as they were.
pub(crate) fn retained(carried: &Claims, before: &Profiles, now: &Profiles) -> Claims {
    let stays = |claim: &&Claim| is_as_it_was(claim, before, now);
    Claims {
        wrapper: carried.wrapper.clone(),
        user: carried.user,
        rules: carried.rules.iter().filter(stays).cloned().collect(),
        below: carried.below.iter().filter(stays).cloned().collect(),
    }
}

/// Whether all rules that name an app, or tools of it, are there.
pub(crate) fn has_all_rules(claims: &Claims, rules: &Profiles) -> bool {
    let mut all = claims.rules.iter().chain(&claims.below);
    all.all(|claim| rule_of(claim, rules).is_some())
}

fn is_as_it_was(claim: &Claim, before: &Profiles, now: &Profiles) -> bool {
    // Which names it is for decides about flows, not about apps.
    let for_apps = |(owner, rule): (Option<u32>, &Rule)| {
        let domains = Vec::new();
        (
            owner,
            Rule {
                domains,
                ..rule.clone()
            },
        )
    };
    match (rule_of(claim, before), rule_of(claim, now)) {
        (Some(before), Some(now)) => for_apps(before) == for_apps(now),
        _ => false,
    }
}

/// A rule with the user whose processes alone it may name.
fn rule_of<'a>(claim: &Claim, rules: &'a Profiles) -> Option<(Option<u32>, &'a Rule)> {
    let profile = rules.find(&claim.profile)?;
    let mut named = profile.rules.iter();
    let rule = named.find(|rule| rule.identifier == claim.rule)?;
    Some((profile.owner, rule))
}
