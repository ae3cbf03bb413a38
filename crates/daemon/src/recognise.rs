//! Which app a process is: asked when a program starts, when rules change, and when a flow is
//! faster than its verdict.

mod questions;
mod running;
mod worst;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use offramp_intercept::{ClassId, Exec, Identity, Label, Labelled};
use offramp_rules::{Claims, claims, is_in_force, is_settled};
use tokio::sync::MutexGuard;

pub(crate) use questions::Questions;
pub(crate) use running::{has_all_rules, retained};

use crate::shared::Shared;
use crate::verdicts::Verdict;
use worst::{is_cut, worst};

/// How long a flow waits for the verdict about its program before the program is looked at again.
const VERDICT: Duration = Duration::from_millis(500);

/// So many programs that a process was one after another are decided about at a time.
const CHAIN: usize = 1024;

/// What is to be done after a program was decided about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    /// Its process may have sockets that are not as the verdict says: those from before the exec, or
    /// from before the verdict.
    Sweep,
    /// What it is depends on processes that are still to be recognised.
    Recognise,
    /// These questions are open: execs, each with who asks.
    Ask(Vec<(u32, u32)>),
}

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

    /// What claims the app that a look-up comes from. Where the rule has gone meanwhile and no other
    /// names the app, it is an unmanaged one, which would take a refusal for the name's.
    pub(crate) async fn claims_of_asker(
        self: &Arc<Self>,
        identity: &Identity,
    ) -> Option<Arc<Claims>> {
        let claims = self.claims_of(identity).await?;
        if is_in_force(&self.policy().rules, &claims) || claims.wrapper.is_some() {
            return Some(claims);
        }
        let labelled = self.capture.labelled().ok()?;
        let runs = Path::new(&format!("/proc/{}", identity.pid)).exists();
        match runs && labelled.iter().all(|process| process.pid != identity.pid) {
            true => Some(Arc::default()),
            false => Some(claims),
        }
    }

    /// Decides about the program that this exec started, and before that about those that it depends
    /// on.
    pub(crate) async fn answer(self: Arc<Self>, exec: u32) -> Next {
        let mut next = Next::Nothing;
        for exec in self.chain(exec) {
            match Arc::clone(&self).decide_exec(exec).await {
                Next::Nothing => {}
                other => next = other,
            }
        }
        next
    }

    /// The programs that a process has been, up to this one, as far as they are undecided. None of
    /// too many: they are asked one after another, the oldest first.
    fn chain(&self, exec: u32) -> Vec<Exec> {
        let mut chain = Vec::new();
        let mut wanted = Some(exec);
        while let Some(exec) = wanted {
            let Some(question) = self.capture.question(exec) else {
                break;
            };
            if self.verdicts.get(exec).is_some() || self.capture.answer(exec).is_some() {
                // Whoever answered is at it, or was killed at it.
                self.capture.close_question(exec);
                break;
            }
            if chain.len() == CHAIN {
                return Vec::new();
            }
            wanted = question.before;
            chain.push(question);
        }
        chain.reverse();
        chain
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

    async fn decide_exec(self: Arc<Self>, exec: Exec) -> Next {
        let number = exec.number;
        let inherited = match exec.before {
            // The same process, or the one that it was forked from, a moment ago.
            Some(before) => match self.verdict_before(before).await {
                Some(verdict) => verdict,
                None => self.inherited_from_parent(exec.pid).await,
            },
            None => match exec.from {
                Some(class) => self.class(class),
                None => Some(Arc::default()),
            },
        };
        let Some(inherited) = inherited else {
            // Its flows, and the next look at who waits, ask again.
            self.capture.close_question(number);
            return Next::Nothing;
        };
        let decided = self.recognise_start(exec, &inherited).await;
        decided.unwrap_or_else(|| {
            self.verdicts.put(number, None);
            self.capture.close_question(number);
            Next::Nothing
        })
    }

    /// The verdict on the exec before, which an earlier run may have given.
    async fn verdict_before(&self, exec: u32) -> Option<Verdict> {
        if let Some(verdict) = self.verdicts.get(exec) {
            return Some(verdict);
        }
        match self.capture.answer(exec) {
            Some(Some(class)) => Some(self.class(class)),
            Some(None) => Some(Some(Arc::default())),
            None => self.verdicts.wait(exec, VERDICT).await,
        }
    }

    async fn recognise_start(self: &Arc<Self>, exec: Exec, inherited: &Claims) -> Option<Next> {
        let exec = Arc::new(exec);
        let of_exec = {
            let exec = Arc::clone(&exec);
            move |shared: &Shared| {
                let app = shared.facts.of_exec(&exec)?;
                let is_by_path = shared.facts.is_by_path(&exec, &app);
                Some((app, is_by_path))
            }
        };
        let (known, _changing) = self.know(of_exec).await;
        if self.verdicts.get(exec.number).is_some() {
            // Somebody else was asked, too, and was quicker.
            return Some(Next::Nothing);
        }
        let policy = self.policy();
        if !has_all_rules(inherited, &policy.rules) {
            // Its ancestor is still to be recognised by the rules of now, and what it inherits is
            // told by that: until then it is what that was, and refused.
            let class = self.class_of(inherited).await.ok()?;
            self.verdicts
                .put(exec.number, Some(Arc::new(inherited.clone())));
            self.capture.settle(&exec, class, false);
            return Some(Next::Recognise);
        }
        // Of an interpreter nobody knows what it ran where what it was given is not known whole.
        if known.is_none() && is_cut(&exec) {
            return None;
        }
        let is_seen = known.is_some();
        let (app, is_by_path) = match known {
            Some(known) => known,
            None => {
                let pid = exec.pid;
                let now = self.ask(move |shared| shared.facts.of_process(pid)).await;
                (worst(&exec, &policy.rules, now.unwrap_or_default()), false)
            }
        };
        let found = Arc::new(claims(&policy.rules, &app, inherited));
        let class = self.class_of(&found).await.ok()?;
        let cache = is_by_path && is_settled(&policy.rules, &app);
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

    /// What a process has from its parent, which may wait for its verdict too. None: the parent is
    /// gone or unmanaged, and so it is not known what stood between.
    async fn inherited_from_parent(self: &Arc<Self>, pid: u32) -> Option<Arc<Claims>> {
        let parent_of = move |shared: &Shared| shared.facts.parent_of(pid);
        let parent = self.ask(parent_of).await?;
        let process = self.labelled_process(parent)?;
        if let Label::Undecided { exec, .. } = process.label
            && self.verdicts.get(exec).is_none()
        {
            return Box::pin(self.look_at(parent, exec)).await;
        }
        self.carried(&process)
    }

    /// Decides about a process whose question was lost.
    async fn look_at(self: &Arc<Self>, pid: u32, exec: u32) -> Option<Arc<Claims>> {
        if self.capture.question(exec).is_some() {
            Arc::clone(self).answer(exec).await;
            return self.verdicts.get(exec).flatten();
        }
        let label = self.labelled_process(pid)?.label;
        let from_parent = match label {
            Label::Undecided { from, .. } if from == Some(ClassId::UNDECIDED) => {
                Some(self.inherited_from_parent(pid).await?)
            }
            _ => None,
        };
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
        let inherited = from_parent.or_else(|| self.carried(&process))?;
        let found = Arc::new(claims(&self.policy().rules, &app?, &inherited));
        let class = self.class_of(&found).await.ok()?;
        self.verdicts.put(exec, Some(Arc::clone(&found)));
        self.capture.settle_number(exec, class);
        Some(found)
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

    /// The questions that are open: those that the kernel could not tell of, or told an earlier run,
    /// and those that wait.
    pub(crate) async fn find_questions(self: Arc<Self>) -> Next {
        let open = self.ask(|shared| Some(shared.capture.open_questions()));
        Next::Ask(open.await.unwrap_or_default())
    }

    /// Whether there was no room for the question.
    fn is_unasked(&self, exec: u32) -> bool {
        self.verdicts.get(exec).is_none() && self.capture.question(exec).is_none()
    }

    /// Decides about programs whose question was lost and that have opened no flow yet.
    pub(crate) async fn decide_lost(self: Arc<Self>) -> Next {
        let undecided = |process: &Labelled| match process.label {
            Label::Undecided { exec, .. } if self.is_unasked(exec) => Some((process.pid, exec)),
            _ => None,
        };
        let waiting: Vec<_> = self.capture.labelled().unwrap_or_default();
        let waiting: Vec<_> = waiting.iter().filter_map(undecided).collect();
        if !waiting.is_empty() {
            // Most have only just begun.
            tokio::time::sleep(VERDICT).await;
        }
        for (pid, exec) in waiting {
            if self.is_unasked(exec) {
                self.look_at(pid, exec).await;
            }
        }
        match self.restless.swap(false, Ordering::Relaxed) {
            true => Next::Recognise,
            false => Next::Nothing,
        }
    }

    /// What is known of a process, as the rules in force ask for it, and the right to change classes:
    /// as long as that is held, the rules stay.
    async fn know<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl Fn(&Shared) -> Option<T> + Clone + Send + 'static,
    ) -> (Option<T>, MutexGuard<'_, ()>) {
        let seen = self.rules_seen();
        // Before anybody has to wait: files may be slow.
        let app = self.ask(question.clone()).await;
        let changing = self.changing.lock().await;
        match seen == self.rules_seen() {
            true => (app, changing),
            false => (self.ask(question).await, changing),
        }
    }

    /// Asks the files about processes, beside the tasks that move bytes.
    pub(crate) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Shared) -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let shared = Arc::clone(self);
        let asked = tokio::task::spawn_blocking(move || question(&shared));
        asked.await.ok().flatten()
    }
}
