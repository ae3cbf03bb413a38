//! Which app a process is: asked when a program starts, when rules change, and when a flow is
//! faster than its verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use offramp_intercept::{ClassId, Exec, Identity, Label, Labelled};
use offramp_rules::{
    App, Claim, Claims, Profiles, Program, User, candidates, claims, is_in_force, is_settled,
};
use tokio::sync::MutexGuard;

use crate::facts::Process;
use crate::shared::Shared;

/// How long a flow waits for the verdict about its program before the program is looked at again.
const VERDICT: Duration = Duration::from_millis(500);
/// Processes that start others while all are looked at make another round necessary.
const ROUNDS: usize = 4;
/// Classes of apps that a user's own profiles may make.
const CLASSES: usize = 128;

impl Shared {
    /// What claims the app that a flow comes from. None: that is not known, and the flow is none.
    pub(crate) async fn claims_of(self: &Arc<Self>, identity: &Identity) -> Option<Arc<Claims>> {
        if identity.class != ClassId::UNDECIDED {
            let claims = self.class(identity.class)?;
            return Some(self.current(claims, identity.pid).await);
        }
        if let Some(verdict) = self.verdicts.wait(identity.exec, VERDICT).await {
            return verdict;
        }
        self.look_at(identity.pid, identity.exec).await
    }

    /// What claims a process by now. While rules change, a flow waits until its app is recognised.
    async fn current(self: &Arc<Self>, claims: Arc<Claims>, pid: u32) -> Arc<Claims> {
        if is_in_force(&self.policy().rules, &claims) {
            return claims;
        }
        let _done = self.reloading.lock().await;
        let process = self.labelled_process(pid);
        let now = process.and_then(|process| self.carried(&process));
        now.unwrap_or(claims)
    }

    /// Decides about a program that was started.
    pub(crate) async fn decide_exec(self: Arc<Self>, exec: Exec) -> Next {
        let number = exec.number;
        let inherited = match exec.before {
            // The same process, a moment ago.
            Some(before) => self.verdicts.wait(before, VERDICT).await.flatten(),
            None => match exec.from {
                Some(class) => self.class(class),
                None => Some(Arc::default()),
            },
        };
        let decided = match inherited {
            Some(inherited) => self.recognise_start(exec, &inherited).await,
            None => None,
        };
        decided.unwrap_or_else(|| {
            self.verdicts.put(number, None);
            Next::Nothing
        })
    }

    async fn recognise_start(self: &Arc<Self>, exec: Exec, inherited: &Claims) -> Option<Next> {
        let exec = Arc::new(exec);
        let of_exec = {
            let exec = Arc::clone(&exec);
            move |shared: &Shared| shared.facts.of_exec(&exec)
        };
        let (app, _changing) = self.know(of_exec).await;
        let policy = self.policy();
        if retained(inherited, &policy.rules, &policy.rules) != *inherited {
            // Its ancestor is still to be recognised by the rules of now, and what it inherits is
            // told by that: until then it is what that was, and refused.
            let class = self.class_of(inherited).await.ok()?;
            self.verdicts
                .put(exec.number, Some(Arc::new(inherited.clone())));
            self.capture.settle(&exec, class, false);
            return Some(Next::Recognise);
        }
        let is_seen = app.is_some();
        let app = match app {
            Some(app) => app,
            None => {
                let pid = exec.pid;
                let now = self.ask(move |shared| shared.facts.of_process(pid)).await;
                worst(&exec, &policy.rules, now.unwrap_or_default())
            }
        };
        let found = Arc::new(claims(&policy.rules, &app, inherited));
        let class = self.class_of(&found).await.ok()?;
        let cache =
            is_seen && is_settled(&policy.rules, &app) && self.facts.is_by_path(&exec, &app);
        // Before others look at the process: they would find it settled, and nothing said of it.
        self.verdicts.put(exec.number, Some(Arc::clone(&found)));
        self.capture.settle(&exec, class, cache);
        tracing::debug!(
            exec = exec.number,
            pid = exec.pid,
            app = %app,
            is_seen,
            class = class.map(ClassId::number),
            "program recognised"
        );
        Some(Next::Sweep)
    }

    /// Decides about a process whose question was lost.
    async fn look_at(self: &Arc<Self>, pid: u32, exec: u32) -> Option<Arc<Claims>> {
        let of_process = move |shared: &Shared| shared.facts.of_process(pid);
        let (app, _changing) = self.know(of_process).await;
        if let Some(verdict) = self.verdicts.get(exec) {
            return verdict;
        }
        let process = self.labelled_process(pid)?;
        let Label::Undecided { exec: asked, .. } = process.label else {
            return None;
        };
        if asked != exec {
            return None;
        }
        let inherited = self.carried(&process)?;
        let found = Arc::new(claims(&self.policy().rules, &app?, &inherited));
        let class = self.class_of(&found).await.ok()?;
        self.verdicts.put(exec, Some(Arc::clone(&found)));
        self.capture.settle_number(exec, class);
        Some(found)
    }

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

    /// What claims a labelled process, as far as it has been decided.
    pub(crate) fn carried(&self, process: &Labelled) -> Option<Arc<Claims>> {
        match process.label {
            Label::Class(class) => self.class(class),
            Label::Undecided { exec, from } => match (self.verdicts.get(exec), from) {
                (Some(verdict), _) => verdict,
                (None, Some(class)) => self.class(class),
                (None, None) => Some(Arc::default()),
            },
        }
    }

    fn labelled_process(&self, pid: u32) -> Option<Labelled> {
        let all = self.capture.labelled().ok()?;
        all.into_iter().find(|process| process.pid == pid)
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
        if self.ask_kernel(None).await {
            let _changing = self.changing.lock().await;
            self.see_rules();
            let policy = self.policy();
            self.recognise_running(&policy.rules).await;
        }
    }

    /// Decides about programs whose question was lost and that have opened no flow yet.
    pub(crate) async fn decide_lost(self: Arc<Self>) -> Next {
        let undecided = |process: &Labelled| match process.label {
            Label::Undecided { exec, .. } if self.verdicts.get(exec).is_none() => {
                Some((process.pid, exec))
            }
            _ => None,
        };
        let waiting: Vec<_> = self.capture.labelled().unwrap_or_default();
        let waiting: Vec<_> = waiting.iter().filter_map(undecided).collect();
        if !waiting.is_empty() {
            // Most have only just begun.
            tokio::time::sleep(VERDICT).await;
        }
        for (pid, exec) in waiting {
            if self.verdicts.get(exec).is_none() {
                self.look_at(pid, exec).await;
            }
        }
        match self.restless.swap(false, Ordering::Relaxed) {
            true => Next::Recognise,
            false => Next::Nothing,
        }
    }

    /// The class of processes with these claims, defined for the kernel programs; none for those
    /// that nothing claims. To be called with `changing` held.
    pub(crate) async fn class_of(&self, claims: &Claims) -> Result<Option<ClassId>, NoClass> {
        if claims.is_empty() {
            return Ok(None);
        }
        if let Some(class) = self.find_class(claims) {
            return Ok(Some(class));
        }
        if self.is_exhausted_by(claims) {
            return Err(NoClass);
        }
        let class = self.add_class(claims).ok_or(NoClass)?;
        let (policy, world) = (self.policy(), Arc::clone(&self.world.borrow()));
        self.publish_class(class, claims, &policy, &world).await;
        Ok(Some(class))
    }

    /// What is known of a process, as the rules in force ask for it, and the right to change classes:
    /// as long as that is held, the rules stay.
    async fn know(
        self: &Arc<Self>,
        question: impl Fn(&Shared) -> Option<App> + Clone + Send + 'static,
    ) -> (Option<App>, MutexGuard<'_, ()>) {
        let seen = self.rules_seen();
        // Before anybody has to wait: files may be slow.
        let app = self.ask(question.clone()).await;
        let changing = self.changing.lock().await;
        match seen == self.rules_seen() {
            true => (app, changing),
            false => (self.ask(question).await, changing),
        }
    }

    /// Whether the user whose profile claims an app has as many classes as one may have: rules can be
    /// combined in more ways than there are classes.
    fn is_exhausted_by(&self, claims: &Claims) -> bool {
        let policy = self.policy();
        let owner = |claims: &Claims| policy.claiming(claims).find_map(|own| own.owner());
        let Some(user) = owner(claims).filter(|user| *user != 0) else {
            return false;
        };
        let own = self.classes();
        let own = own.values().filter(|claims| owner(claims) == Some(user));
        own.count() >= CLASSES
    }

    /// Asks the files about processes, beside the tasks that move bytes.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Shared) -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let shared = Arc::clone(self);
        let asked = tokio::task::spawn_blocking(move || question(&shared));
        asked.await.ok().flatten()
    }
}

/// The most that a program can be whose file is not found any more, as it went on to another one or
/// ended: what it was called, wherever rules name that. `now` is what the process is by now.
fn worst(exec: &Exec, rules: &Profiles, now: App) -> App {
    let program = |called: &str| {
        let path = Path::new(called);
        let name = path.file_name().and_then(|name| name.to_str());
        let known_as = match path.is_absolute() {
            true => BTreeSet::new(),
            false => {
                let named = candidates(rules).paths.into_iter();
                named
                    .filter(|known| known.file_name() == path.file_name())
                    .collect()
            }
        };
        Program {
            name: name.map(str::to_owned),
            path: path.is_absolute().then(|| path.to_owned()),
            known_as,
            ..Program::default()
        }
    };
    let mut arguments = exec.arguments.iter().skip(1);
    App {
        wrapper: None,
        user: User {
            id: exec.uid,
            ..now.user
        },
        executable: Some(program(&exec.filename)),
        script: arguments
            .find(|argument| !argument.starts_with('-'))
            .map(|script| program(script)),
        ..now
    }
}

/// What is to be done after a program was decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    /// Its process may have sockets that are not as the verdict says: those from before the exec, or
    /// from before the verdict.
    Sweep,
    /// What it is depends on processes that are still to be recognised.
    Recognise,
}

/// All classes have a meaning already, or what a new one means cannot be kept. What needs it stays
/// undecided, and is refused.
pub(crate) struct NoClass;

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

fn is_as_it_was(claim: &Claim, before: &Profiles, now: &Profiles) -> bool {
    let rule = |profiles: &Profiles| {
        let profile = profiles.find(&claim.profile)?;
        let found = profile
            .rules
            .iter()
            .find(|rule| rule.identifier == claim.rule);
        found.map(|rule| {
            // Which names it is for decides about flows, not about apps.
            let mut rule = rule.clone();
            rule.domains.clear();
            (profile.owner, rule)
        })
    };
    match (rule(before), rule(now)) {
        (Some(before), Some(now)) => before == now,
        _ => false,
    }
}
