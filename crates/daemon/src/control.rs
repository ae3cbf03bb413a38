//! What the daemon does for those who ask on the control socket.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use offramp_control as control;
use offramp_control::{
    Check, Code, Flow, FlowEvent, ProfileState, ProfileStatus, ProfileText, Refusal, ReloadAnswer,
    RunAnswer, RunRequest, Severity, Status, StoreAnswer, SwitchAnswer, SwitchRequest,
};
use offramp_intercept::Counter;
use offramp_profile::{ChangeError, Code as ProblemCode, Installed, Problem, Profile};
use offramp_rules::{Layer, ProfileId, UnavailableAction};
use offramp_upstream::State as UpstreamState;
use tokio::sync::mpsc;

use crate::api::{Api, Peer};
use crate::policy::Policy;
use crate::shared::Shared;
use crate::state::State;
use crate::{doctor, ephemeral};

/// Commands with a server of their own that a user may have at one time.
const RUNS: usize = 64;
/// How long a command waits for the first word of its upstream.
const SETTLE: Duration = Duration::from_secs(3);

/// Serves the control socket.
pub(crate) struct Desk {
    shared: Arc<Shared>,
    state: State,
}

impl Desk {
    pub(crate) fn new(shared: Arc<Shared>, state: State) -> Self {
        Self { shared, state }
    }

    fn describe(&self, profile: &Profile, policy: &Policy, uid: Option<u32>) -> ProfileStatus {
        let id = profile.id();
        let active = policy.active.get(id);
        let on = !self.shared.off().contains(id);
        let state = active.map(|active| {
            active
                .link()
                .upstream()
                .map(|up| up.state().borrow().clone())
        });
        let (state, reason, server, protocol, udp) = match state {
            None => (
                ProfileState::Disconnected,
                Some("it is disabled".into()),
                None,
                None,
                None,
            ),
            Some(Err(reason)) => (
                ProfileState::Disconnected,
                Some(reason.into()),
                None,
                None,
                None,
            ),
            Some(Ok(UpstreamState::Connecting)) => {
                (ProfileState::Connecting, None, None, None, None)
            }
            Some(Ok(UpstreamState::Connected {
                server,
                protocol,
                udp,
            })) => (
                ProfileState::Connected,
                None,
                Some(server),
                Some(protocol.into()),
                Some(udp),
            ),
            Some(Ok(UpstreamState::Reasserting { reason })) => {
                (ProfileState::Reasserting, Some(reason), None, None, None)
            }
            Some(Ok(UpstreamState::Disconnected { reason })) => {
                (ProfileState::Disconnected, Some(reason), None, None, None)
            }
        };
        let classes = self.shared.classes();
        let apps = self.shared.capture.apps().unwrap_or_default();
        let own = apps.iter().filter(|(_, class, owner, _)| {
            classes.get(class) == Some(id) && uid.is_none_or(|uid| uid == *owner)
        });
        ProfileStatus {
            identifier: id.to_string(),
            visible_name: Some(profile.visible_name.clone()),
            layer: layer(profile, active.is_some_and(|active| active.owner.is_some())).into(),
            order: profile.rules.order.into(),
            enabled: profile.rules.enabled,
            on,
            state: if on {
                state
            } else {
                ProfileState::Disconnected
            },
            reason: if on {
                reason
            } else {
                Some("it is switched off".into())
            },
            server,
            protocol,
            udp,
            apps: own.count() as u64,
            flows: self.shared.flows.count_of(id, uid),
            token: Some(profile.token.clone()),
            source: profile
                .source
                .file
                .as_ref()
                .map(|file| file.display().to_string()),
        }
    }

    /// The profiles that this user may see: those of the machine, and their own.
    fn visible(&self, peer: &Peer) -> Vec<ProfileStatus> {
        let policy = self.shared.policy();
        let own = policy
            .active
            .values()
            .filter(|active| active.owner.is_some_and(|uid| sees(peer, uid)))
            .map(|active| &active.profile);
        let mut profiles: Vec<_> = policy.loaded.profiles.iter().chain(own).collect();
        profiles.sort_by(|a, b| a.rules.cmp(&b.rules));
        let uid = scope(peer);
        profiles
            .into_iter()
            .map(|profile| self.describe(profile, &policy, uid))
            .collect()
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        let (flows, counts) = (&self.shared.flows, &self.shared.counts);
        let own = [
            ("flows_relayed", &flows.relayed),
            ("flows_direct", &flows.direct),
            ("flows_refused", &flows.refused),
            ("unidentified", &counts.unidentified),
            ("unknown_names", &counts.unknown_names),
            ("lookups", &counts.lookups),
            ("dropped_datagrams", &counts.dropped_datagrams),
        ];
        let own = own.map(|(name, count)| (name.to_owned(), count.load(Ordering::Relaxed)));
        let kernel = Counter::ALL.map(|(counter, name)| {
            (
                format!("kernel_{name}"),
                self.shared.capture.counter(counter),
            )
        });
        own.into_iter().chain(kernel).collect()
    }

    /// The profile that a command asks for by name, or the only one.
    fn chosen(&self, request: &RunRequest) -> Result<ProfileId, Refusal> {
        let policy = self.shared.policy();
        let enabled: Vec<_> = policy
            .loaded
            .profiles
            .iter()
            .filter(|profile| profile.rules.enabled)
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
                let id = ProfileId::new(wanted);
                match policy.loaded.find(&id) {
                    Some(profile) if profile.rules.enabled => Ok(id),
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

    /// Labels the asking process. To be called with `changing` held.
    async fn label(&self, peer: &Peer, profile: &ProfileId, app: u32) -> Result<(), Refusal> {
        let failed = |error: &dyn std::error::Error| {
            Refusal::new(
                Code::Unavailable,
                format!("cannot capture: {}", crate::chain(error)),
            )
        };
        if threads(peer.pid) != Some(1) {
            return Err(Refusal::new(
                Code::BadRequest,
                "the asking process has several threads",
            ));
        }
        let known = self
            .shared
            .capture
            .label_of(peer.pidfd.as_fd())
            .map_err(|error| failed(&error))?;
        let policy = self.shared.policy();
        if let Some((class, _)) = known
            && let Some(current) = self.shared.classes().get(&class)
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
        let class = self.shared.class_for(profile).ok_or_else(|| {
            Refusal::new(Code::Unavailable, "too many profiles have running apps")
        })?;
        let world = Arc::clone(&self.shared.world.borrow());
        self.shared
            .publish_class(class, profile, &policy, &world)
            .await;
        self.shared
            .capture
            .label(peer.pidfd.as_fd(), class, app, peer.uid)
            .map_err(|error| failed(&error))
    }

    /// Waits for a first word from the upstream, so that a person learns at once why nothing works.
    async fn settle(&self, profile: &ProfileId) {
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

    fn notices(&self, profile: &ProfileId) -> Vec<String> {
        let policy = self.shared.policy();
        let Some(active) = policy.active.get(profile) else {
            return Vec::new();
        };
        if self.shared.off().contains(profile) {
            return vec![format!(
                "{profile} is switched off: connections are refused until `offramp on`"
            )];
        }
        let Some(reason) = active.reason() else {
            return Vec::new();
        };
        let state = active.state();
        let so = match active.profile.rules.unavailable {
            _ if state == offramp_rules::State::Reasserting => "it is being reached again",
            UnavailableAction::Drop => "connections are refused until it is back",
            UnavailableAction::Direct => "connections go out directly until it is back",
        };
        vec![format!("{profile} is {}, {so}: {reason}", word(state))]
    }
}

fn word(state: offramp_rules::State) -> &'static str {
    match state {
        offramp_rules::State::Connected => "connected",
        offramp_rules::State::Connecting => "connecting",
        offramp_rules::State::Reasserting => "reconnecting",
        offramp_rules::State::Off => "switched off",
        offramp_rules::State::Disconnected(_) => "disconnected",
    }
}

impl Api for Desk {
    async fn status(&self, peer: &Peer) -> Result<Status, Refusal> {
        let problems = self
            .shared
            .policy()
            .loaded
            .problems
            .iter()
            .map(problem)
            .collect();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            instance: self.shared.config.instance.clone(),
            lifecycle: *self.shared.lifecycle.borrow(),
            uptime_ms: self.shared.started.elapsed().as_millis() as u64,
            profiles: self.visible(peer),
            problems,
            counters: if peer.is_root() {
                self.counters()
            } else {
                BTreeMap::new()
            },
        })
    }

    async fn flows(&self, peer: &Peer) -> Result<Vec<Flow>, Refusal> {
        Ok(self.shared.flows.list(scope(peer)))
    }

    async fn follow_flows(&self, peer: &Peer) -> Result<mpsc::Receiver<FlowEvent>, Refusal> {
        Ok(self.shared.flows.follow(scope(peer)))
    }

    async fn run(&self, peer: &Peer, request: RunRequest) -> Result<RunAnswer, Refusal> {
        let changing = self.shared.changing.lock().await;
        let app = self.shared.next_app();
        let profile = match &request.server {
            Some(_) if request.profile.is_some() => {
                return Err(Refusal::new(
                    Code::BadRequest,
                    "a profile and a server are named: name one",
                ));
            }
            Some(server) => {
                let made = self.shared.ephemeral();
                if made.values().filter(|run| run.uid == peer.uid).count() >= RUNS {
                    let message = format!("{RUNS} commands with a server of their own are running");
                    return Err(Refusal::new(Code::LimitReached, message)
                        .hint("install a profile and use `offramp run --profile`"));
                }
                let id = format!("run-{app}");
                let folder = self.shared.config.ephemeral();
                let made =
                    ephemeral::create(&folder, &id, peer.uid, &server.url, server.ca_pem.clone())
                        .map_err(|found| invalid(&[found]))?;
                let id = ProfileId::new(&id);
                self.shared.add_ephemeral(id.clone(), made);
                self.shared.reload_ephemeral().await;
                id
            }
            None => self.chosen(&request)?,
        };
        let labelled = self.label(peer, &profile, app).await;
        if let Err(refusal) = labelled {
            if self.shared.remove_ephemeral(&profile) {
                ephemeral::forget(&self.shared.config.ephemeral(), &profile);
                self.shared.reload_ephemeral().await;
            }
            return Err(refusal);
        }
        tracing::debug!(pid = peer.pid, uid = peer.uid, profile = %profile, program = request.program, "app launched");
        drop(changing);
        self.settle(&profile).await;
        let notices = self.notices(&profile);
        Ok(RunAnswer {
            profile: profile.to_string(),
            label: app.into(),
            notices,
        })
    }

    async fn switch(&self, peer: &Peer, request: SwitchRequest) -> Result<SwitchAnswer, Refusal> {
        let _changing = self.shared.changing.lock().await;
        let policy = self.shared.policy();
        let may = |owner: Option<u32>| peer.is_root() || owner == Some(peer.uid);
        let mut off = self.shared.off();
        let mut changed = Vec::new();
        for (id, active) in &policy.active {
            match &request.profile {
                Some(wanted) if wanted != id.as_str() => continue,
                Some(_) if !may(active.owner) => {
                    return Err(Refusal::new(
                        Code::NotPermitted,
                        format!("only root may switch {id}"),
                    ));
                }
                None if !may(active.owner) => continue,
                _ => {}
            }
            let was = if request.on {
                off.remove(id)
            } else {
                off.insert(id.clone())
            };
            if was {
                changed.push(id.to_string());
                if !request.on {
                    active.link().cut();
                }
            }
        }
        if let Some(wanted) = &request.profile
            && !policy.active.contains_key(&ProfileId::new(wanted))
        {
            return Err(Refusal::new(
                Code::NotFound,
                format!("there is no enabled profile {wanted}"),
            ));
        }
        self.state.set_off(&off).map_err(|error| {
            let folder = self.shared.config.state.display();
            Refusal::new(
                Code::Unavailable,
                format!("cannot write the state folder {folder}: {error}"),
            )
        })?;
        self.shared.set_off(off);
        self.shared.publish().await;
        Ok(SwitchAnswer { changed })
    }

    async fn profiles(&self, peer: &Peer) -> Result<Vec<ProfileStatus>, Refusal> {
        Ok(self.visible(peer))
    }

    async fn profile(&self, peer: &Peer, identifier: String) -> Result<ProfileText, Refusal> {
        let id = ProfileId::new(&identifier);
        let policy = self.shared.policy();
        let owned = policy
            .active
            .get(&id)
            .filter(|active| active.owner.is_some_and(|uid| sees(peer, uid)));
        let profile = policy
            .loaded
            .find(&id)
            .or_else(|| owned.map(|active| &active.profile));
        let profile = profile.ok_or_else(|| {
            Refusal::new(Code::NotFound, format!("there is no profile {identifier}"))
        })?;
        let text = profile.source.text.to_string();
        Ok(ProfileText {
            status: self.describe(profile, &policy, scope(peer)),
            text,
        })
    }

    async fn install_profile(&self, peer: &Peer, text: String) -> Result<StoreAnswer, Refusal> {
        root(peer, "install a profile")?;
        let config = &self.shared.config.config;
        let changed = match offramp_profile::install(config, Layer::Managed, &text) {
            Ok(Installed::Installed(_)) => true,
            Ok(Installed::Unchanged(_)) => false,
            Err(ChangeError::Invalid(problems)) => return Err(invalid(&problems)),
            Err(error) => return Err(Refusal::new(Code::Unavailable, crate::chain(&error))),
        };
        let read =
            offramp_profile::read(&text, None, Layer::Managed).map_err(|found| invalid(&found))?;
        let identifier = read
            .first()
            .map(|profile| profile.id().to_string())
            .unwrap_or_default();
        self.shared.reload().await;
        Ok(StoreAnswer {
            identifier,
            changed,
            problems: Vec::new(),
        })
    }

    async fn remove_profile(
        &self,
        peer: &Peer,
        identifier: String,
    ) -> Result<StoreAnswer, Refusal> {
        root(peer, "remove a profile")?;
        offramp_profile::remove(&self.shared.config.config, &identifier)
            .map_err(|error| Refusal::new(Code::NotFound, crate::chain(&error)))?;
        self.shared.reload().await;
        Ok(StoreAnswer {
            identifier,
            changed: true,
            problems: Vec::new(),
        })
    }

    async fn doctor(&self, peer: &Peer) -> Result<Vec<Check>, Refusal> {
        Ok(doctor::examine(&self.shared, self.visible(peer)).await)
    }

    async fn reload(&self, peer: &Peer) -> Result<ReloadAnswer, Refusal> {
        root(peer, "reload")?;
        let changed = self.shared.reload().await;
        let problems = self
            .shared
            .policy()
            .loaded
            .problems
            .iter()
            .map(problem)
            .collect();
        Ok(ReloadAnswer { changed, problems })
    }

    async fn metrics(&self, peer: &Peer) -> Result<String, Refusal> {
        root(peer, "read the metrics")?;
        let mut text = String::new();
        for (name, value) in self.counters() {
            text += &format!("# TYPE offramp_{name} counter\nofframp_{name}_total {value}\n");
        }
        text += "# TYPE offramp_map_entries gauge\n";
        for (map, entries) in self.shared.capture.map_entries() {
            text += &format!("offramp_map_entries{{map=\"{map}\"}} {entries}\n");
        }
        let live = self.shared.flows.count();
        text += &format!("# TYPE offramp_flows gauge\nofframp_flows {live}\n# EOF\n");
        Ok(text)
    }
}

/// Whose things this user sees; none means everybody's.
fn scope(peer: &Peer) -> Option<u32> {
    (!peer.is_root()).then_some(peer.uid)
}

fn sees(peer: &Peer, owner: u32) -> bool {
    peer.is_root() || peer.uid == owner
}

fn root(peer: &Peer, what: &str) -> Result<(), Refusal> {
    if peer.is_root() {
        return Ok(());
    }
    Err(Refusal::new(
        Code::NotPermitted,
        format!("only root may {what}"),
    ))
}

fn layer(profile: &Profile, made_by_run: bool) -> &'static str {
    match profile.rules.layer {
        _ if made_by_run => "run",
        Layer::Managed => "managed",
        Layer::User => "user",
        Layer::Recommended => "recommended",
        Layer::Vendor => "vendor",
    }
}

fn invalid(problems: &[Problem]) -> Refusal {
    let first = problems
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    let mut refusal = Refusal::new(Code::Invalid, first);
    refusal.problems = problems.iter().map(problem).collect();
    refusal
}

fn problem(found: &Problem) -> control::Problem {
    control::Problem {
        severity: match found.code {
            ProblemCode::Superseded => Severity::Warning,
            _ => Severity::Error,
        },
        code: Some(found.code.to_string()),
        file: found.file.as_ref().map(|file| file.display().to_string()),
        line: u32::try_from(found.line).ok().filter(|line| *line > 0),
        column: u32::try_from(found.column)
            .ok()
            .filter(|column| *column > 0),
        key: Some(found.key_path.clone()).filter(|key| !key.is_empty()),
        message: found.message.clone(),
        hint: found.hint.clone(),
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
