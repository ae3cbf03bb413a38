//! `offramp run`: which profile a command is put under, and what its user should know.

use std::os::fd::AsFd;
use std::time::Duration;

use offramp_control::{Code, Refusal, RunRequest};
use offramp_intercept::{ClassId, Label};
use offramp_rules::{App, Layer, ProfileId, State, UnavailableAction, User, claims};
use offramp_upstream::State as UpstreamState;

use super::Desk;
use super::user::may_use;
use crate::api::Peer;

/// How long a command waits for the first word of its upstream.
const SETTLE: Duration = Duration::from_secs(3);

impl Desk {
    /// The profile that a command asks for by name, or the only one.
    pub(super) fn chosen(&self, peer: &Peer, request: &RunRequest) -> Result<ProfileId, Refusal> {
        let policy = self.shared.policy();
        let enabled: Vec<_> = policy
            .loaded
            .profiles
            .iter()
            .filter(|profile| profile.rules.enabled && may_use(peer, profile))
            .collect();
        let names = || {
            let names: Vec<_> = enabled
                .iter()
                .map(|profile| profile.id().as_str())
                .collect();
            format!("the profiles are: {}", names.join(", "))
        };
        match (&request.profile, enabled.as_slice()) {
            (Some(wanted), _) => {
                match policy.loaded.find_for(peer.uid, wanted) {
                    Some(profile) if profile.rules.enabled => Ok(profile.id().clone()),
                    Some(_) => {
                        Err(Refusal::new(Code::Unavailable, format!("the profile {wanted} is disabled")))
                    }
                    None => Err(Refusal::new(Code::NotFound, format!("there is no profile {wanted}"))
                        .hint(names())),
                }
            }
            (None, [only]) => Ok(only.id().clone()),
            (None, []) => Err(Refusal::new(Code::NotFound, "no profile is installed").hint(
                "install one with `offramp profile install FILE`, or name a server: `offramp run --server URL`",
            )),
            (None, _) => Err(Refusal::new(Code::BadRequest, "several profiles are installed: name one with --profile")
                .hint(names())),
        }
    }

    /// How many commands with a server of their own a user has running.
    pub(super) fn running(&self, uid: u32) -> usize {
        let (classes, made) = (self.shared.classes(), self.shared.ephemeral());
        let labelled = self.shared.labelled().unwrap_or_default();
        let own = |class: &ClassId| {
            let wrapper = classes
                .get(class)
                .and_then(|claims| claims.wrapper.as_ref());
            let made = wrapper.and_then(|profile| made.get(profile));
            made.is_some_and(|made| made.uid == uid)
        };
        labelled.keys().filter(|class| own(class)).count()
    }

    /// Labels the asking process. To be called with `changing` held.
    pub(super) async fn label(&self, peer: &Peer, profile: &ProfileId) -> Result<ClassId, Refusal> {
        let failed = |error: &dyn std::error::Error| {
            Refusal::new(
                Code::Unavailable,
                format!("cannot capture: {}", crate::chain(error)),
            )
        };
        match threads(peer.pid) {
            Some(1) => {}
            Some(_) => {
                let message = "the asking process has several threads";
                return Err(Refusal::new(Code::BadRequest, message));
            }
            None => {
                let message = "the asking process cannot be seen from here";
                return Err(Refusal::new(Code::BadRequest, message)
                    .hint("ask from the process-id namespace of the daemon"));
            }
        }
        let known = self
            .shared
            .capture
            .label_of(peer.pidfd.as_fd())
            .map_err(|error| failed(&error))?;
        let policy = self.shared.policy();
        let known = match known {
            Some(Label::Class(class)) => Some(class),
            Some(Label::Undecided {
                from: Some(ClassId::UNDECIDED),
                ..
            }) => {
                let message =
                    "the asking process was started a moment ago and is not recognised yet";
                return Err(Refusal::new(Code::Unavailable, message).hint("try again"));
            }
            Some(Label::Undecided { from, .. }) => from,
            None => None,
        };
        let inherited = known
            .and_then(|class| self.shared.class(class))
            .unwrap_or_default();
        if let Some(current) = &inherited.wrapper
            && policy
                .active
                .get(current)
                .is_some_and(|active| active.profile.rules.layer == Layer::Managed)
            && current != profile
            && !peer.is_root()
        {
            return Err(Refusal::new(
                Code::NotPermitted,
                format!("this process is under the managed profile {current} and stays there"),
            ));
        }
        let app = App {
            wrapper: Some(profile.clone()),
            user: User {
                id: peer.uid,
                ..User::default()
            },
            ..App::default()
        };
        let claims = claims(&policy.rules, &app, &inherited);
        let class = match self.shared.class_of(&claims).await {
            Ok(Some(class)) => class,
            _ => {
                let message = "too many profiles have running apps";
                return Err(Refusal::new(Code::Unavailable, message));
            }
        };
        self.shared
            .capture
            .label(peer.pidfd.as_fd(), class)
            .map_err(|error| failed(&error))?;
        Ok(class)
    }

    /// Waits for a first word from the upstream, so that a person learns at once why nothing works.
    pub(super) async fn settle(&self, profile: &ProfileId) {
        let policy = self.shared.policy();
        let upstream = policy
            .active
            .get(profile)
            .map(|active| active.link().upstream());
        if let Some(Ok(upstream)) = upstream {
            let mut state = upstream.state();
            let known = state.wait_for(|state| !matches!(state, UpstreamState::Connecting));
            let _ = tokio::time::timeout(SETTLE, known).await;
        }
    }

    pub(super) fn notices(&self, profile: &ProfileId) -> Vec<String> {
        let policy = self.shared.policy();
        let Some(active) = policy.active.get(profile) else {
            return Vec::new();
        };
        if self.shared.off().contains(profile) {
            return vec![format!(
                "{profile} is switched off: connections are refused until `offramp on`"
            )];
        }
        if active.state() == State::Connecting {
            return vec![format!(
                "{profile} is still connecting to {}: connections wait for up to 5 s, then they are refused",
                active.server()
            )];
        }
        let Some(reason) = active.reason() else {
            return Vec::new();
        };
        let state = active.state();
        let so = match active.profile.rules.unavailable {
            _ if state == State::Reasserting => "it is being reached again",
            UnavailableAction::Drop => "connections are refused until it is back",
            UnavailableAction::Direct => "connections go out directly until it is back",
        };
        vec![format!("{profile} is {}, {so}: {reason}", word(state))]
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Connected => "connected",
        State::Connecting => "connecting",
        State::Reasserting => "reconnecting",
        State::Off => "switched off",
        State::Disconnected(_) => "disconnected",
    }
}

/// How many threads a process has.
fn threads(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"))?
        .trim()
        .parse()
        .ok()
}
