//! Whose flow is explained, and what is known of it.

use std::path::PathBuf;
use std::sync::Arc;

use offramp_control::{Code, Fact, FlowState, Refusal, Subject};
use offramp_intercept::Labelled;
use offramp_rules::{App, Claims};

use super::known::{fact, facts};
use super::wanted::Wanted;
use super::{Desk, both, no_flow, no_process};
use crate::api::Peer;
use crate::control::{as_user, scope, sees};
use crate::shared::Shared;

/// An app that is asked about.
pub(super) struct Case {
    pub(super) subject: String,
    pub(super) facts: Vec<Fact>,
    /// None where only a flow of it is left.
    pub(super) app: Option<App>,
    /// Whose process it is, where one runs or did.
    pub(super) uid: Option<u32>,
    /// What it carries: its own claims as they were decided, or those of what started it.
    pub(super) inherited: Arc<Claims>,
    /// None where no process is meant; then what the kernel has for it, if anything.
    pub(super) label: Option<Option<Labelled>>,
    /// Whether it is in another network namespace.
    pub(super) is_elsewhere: bool,
    /// Where its flow goes, where one is meant.
    pub(super) target: Option<Wanted>,
    pub(super) notes: Vec<String>,
}

/// A living process.
struct Found {
    pid: u32,
    app: App,
    label: Option<Labelled>,
    inherited: Arc<Claims>,
    is_elsewhere: bool,
}

impl Case {
    /// Whether rules are not held against it.
    pub(super) fn is_left_alone(&self) -> bool {
        self.is_elsewhere && matches!(self.label, Some(None))
    }
}

impl Desk {
    pub(super) async fn case(&self, peer: &Peer, subject: &Subject) -> Result<Case, Refusal> {
        match *subject {
            Subject::Process(pid) => {
                let case = self.process(peer, pid).await;
                case.ok_or_else(|| no_process(pid.into()))
            }
            Subject::Flow(id) => self.flow(peer, id).await.ok_or_else(|| no_flow(id)),
            Subject::Number(number) => {
                let pid = u32::try_from(number).unwrap_or_default();
                match (self.process(peer, pid).await, self.flow(peer, number).await) {
                    (Some(mut case), flow) => {
                        case.notes.extend(flow.map(|_| both(number)));
                        Ok(case)
                    }
                    (None, Some(case)) => Ok(case),
                    (None, None) => Err(Refusal::new(
                        Code::NotFound,
                        format!("there is no process {number}, and no live flow {number}"),
                    )),
                }
            }
            Subject::Executable(ref path) => self.program(peer, path.into()).await,
        }
    }

    /// None where there is no such process that this user may see.
    async fn process(&self, peer: &Peer, pid: u32) -> Option<Case> {
        let found = self.find(pid).await?;
        if !sees(peer, found.app.user.id) {
            return None;
        }
        let subject = match found.pid == pid {
            true => format!("process {pid}"),
            false => format!("process {}, of which {pid} is a thread", found.pid),
        };
        let mut case = Case {
            subject,
            facts: facts(&found.app, &found.inherited),
            uid: Some(found.app.user.id),
            app: Some(found.app),
            inherited: found.inherited,
            label: Some(found.label),
            is_elsewhere: found.is_elsewhere,
            target: None,
            notes: Vec::new(),
        };
        if case.is_left_alone() {
            let note = "it is in another network namespace: rules do not look at it there";
            case.notes.push(note.into());
        }
        Some(case)
    }

    async fn find(&self, pid: u32) -> Option<Found> {
        let shared = Arc::clone(&self.shared);
        let look = move || look(&shared, pid);
        tokio::task::spawn_blocking(look).await.ok()?
    }

    /// None where there is no such flow that this user may see.
    async fn flow(&self, peer: &Peer, id: u64) -> Option<Case> {
        let (flow, claims, target) = self.shared.flows.find(id, scope(peer))?;
        let found = self.find(flow.app.pid).await;
        // The number of a process that is gone may be another's by now.
        let found = found.filter(|found| *found.inherited == *claims);
        let way = match (flow.state, flow.error) {
            (FlowState::Opening, _) => "not yet".to_owned(),
            (_, Some(error)) => format!("{:?}, {error}", flow.way),
            (_, None) => format!("{:?}", flow.way),
        };
        let protocol = format!("{:?}", flow.protocol).to_lowercase();
        let mut known = vec![
            fact("flow", &format!("{protocol} to {}", flow.target)),
            fact("opened", &way.to_lowercase()),
            fact(
                "process",
                &format!("{} ({})", flow.app.pid, flow.app.executable),
            ),
        ];
        known.extend(flow.upstream.map(|server| fact("server", &server)));
        let notes = match &found {
            Some(found) => {
                known.extend(facts(&found.app, &claims));
                Vec::new()
            }
            None => vec![format!(
                "the process {} is gone, or is another program by now: what is told is from when the flow began",
                flow.app.pid
            )],
        };
        let (app, label, is_elsewhere) = match found {
            Some(found) => (Some(found.app), Some(found.label), found.is_elsewhere),
            None => (None, None, false),
        };
        Some(Case {
            subject: format!("flow {id}"),
            facts: known,
            uid: Some(flow.app.uid),
            app,
            inherited: claims,
            label,
            is_elsewhere,
            target: Some(target.into()),
            notes,
        })
    }

    /// A program as the asking user would start it.
    async fn program(&self, peer: &Peer, path: PathBuf) -> Result<Case, Refusal> {
        let subject = format!("{}, were it started now", path.display());
        if !path.is_absolute() {
            let message = format!("{} is no absolute path", path.display());
            return Err(Refusal::new(Code::BadRequest, message));
        }
        let (shared, uid, place) = (Arc::clone(&self.shared), peer.uid, path.clone());
        let look = move || as_user::ask(uid, || shared.facts.of_path(&place, uid)).flatten();
        let asked = tokio::task::spawn_blocking(look).await;
        let looked = asked.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let app = looked.map_err(|error| {
            let message = format!("cannot look at {}: {error}", path.display());
            Refusal::new(Code::NotFound, message)
        })?;
        let note = "a program that a managed app starts is under the rules of that app as well";
        Ok(Case {
            subject,
            facts: facts(&app, &Claims::default()),
            uid: None,
            app: Some(app),
            inherited: Arc::default(),
            label: None,
            is_elsewhere: false,
            target: None,
            notes: vec![note.into()],
        })
    }
}

/// A process as it is, with what the kernel has for it.
fn look(shared: &Shared, thread: u32) -> Option<Found> {
    let pid = process_of(thread)?;
    let app = shared.facts.of_process(pid)?;
    let label = shared.capture.labelled().ok()?;
    let label = label.into_iter().find(|process| process.pid == pid);
    let inherited = label.as_ref().and_then(|label| shared.carried(label));
    let processes = shared.facts.processes();
    let is_elsewhere = processes
        .iter()
        .any(|process| process.pid == pid && !process.is_ours);
    Some(Found {
        pid,
        app,
        label,
        inherited: inherited.unwrap_or_default(),
        is_elsewhere,
    })
}

/// The process that a thread is of.
fn process_of(thread: u32) -> Option<u32> {
    let status = std::fs::read(format!("/proc/{thread}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok()
}
