//! What the daemon does for those who ask on the control socket.

mod apps;
mod as_user;
mod dns;
mod explain;
mod instance;
mod launch;
mod user;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use offramp_control::{
    Check, Code, ExplainRequest, Explanation, Flow, FlowEvent, LookupEvent, NamesAnswer,
    NamesRequest, ProfileStatus, ProfileText, Refusal, ReloadAnswer, RunAnswer, RunRequest,
    RunningApp, Status, StoreAnswer, SwitchAnswer, SwitchRequest, UserAnswer, UserFiles,
};
use offramp_profile::{ChangeError, Installed, Problem};
use offramp_rules::{Claims, Layer, ProfileId};
use tokio::sync::mpsc;

use self::view::problem;
use crate::api::{Api, Peer};
use crate::shared::Shared;
use crate::state::State;
use crate::{doctor, ephemeral};

/// Commands with a server of their own that a user may have at one time.
const RUNS: usize = 64;

/// Serves the control socket.
pub(crate) struct Desk {
    shared: Arc<Shared>,
    state: State,
}

impl Desk {
    pub(crate) fn new(shared: Arc<Shared>, state: State) -> Self {
        Self { shared, state }
    }
}

impl Api for Desk {
    async fn status(&self, peer: &Peer) -> Result<Status, Refusal> {
        let policy = self.shared.policy();
        let mut problems: Vec<_> = match peer.is_root() {
            true => policy.loaded.problems.iter().map(problem).collect(),
            false => self.problems_of(peer.uid),
        };
        problems.extend(self.limits_reached(peer));
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
        Ok(self.shared.flows.followers.follow(scope(peer)))
    }

    async fn names(&self, peer: &Peer, request: NamesRequest) -> Result<NamesAnswer, Refusal> {
        self.known_names(peer, request).await
    }

    async fn follow_lookups(&self, peer: &Peer) -> Result<mpsc::Receiver<LookupEvent>, Refusal> {
        Ok(self.shared.followed_lookups.follow(scope(peer)))
    }

    async fn apps(&self, peer: &Peer) -> Result<Vec<RunningApp>, Refusal> {
        Ok(self.running_apps(peer).await)
    }

    async fn explain(&self, peer: &Peer, request: ExplainRequest) -> Result<Explanation, Refusal> {
        self.explanation(peer, request).await
    }

    async fn take_user_files(&self, peer: &Peer, files: UserFiles) -> Result<UserAnswer, Refusal> {
        self.take_files(peer, files).await
    }

    async fn run(&self, peer: &Peer, request: RunRequest) -> Result<RunAnswer, Refusal> {
        let changing = self.shared.changing.lock().await;
        let profile = match &request.server {
            Some(_) if request.profile.is_some() => {
                return Err(Refusal::new(
                    Code::BadRequest,
                    "a profile and a server are named: name one",
                ));
            }
            Some(server) => {
                if self.running(peer.uid) >= RUNS {
                    let message = format!("{RUNS} commands with a server of their own are running");
                    return Err(Refusal::new(Code::LimitReached, message)
                        .hint("install a profile and use `offramp run --profile`"));
                }
                let id = format!("run-{}", self.shared.next_run());
                let folder = self.shared.config.ephemeral();
                let made =
                    ephemeral::create(&folder, &id, peer.uid, &server.url, server.ca_pem.clone())
                        .map_err(|found| invalid(&[found]))?;
                let id = ProfileId::new(&id);
                self.shared.add_ephemeral(id.clone(), made);
                // With a class from here on: it is swept away too where the client leaves meanwhile.
                let _ = self
                    .shared
                    .class_of(&Claims {
                        wrapper: Some(id.clone()),
                        ..Claims::default()
                    })
                    .await;
                self.shared.reload_ephemeral().await;
                id
            }
            None => self.chosen(peer, &request)?,
        };
        let labelled = self.label(peer, &profile).await;
        let class = match labelled {
            Ok(class) => class,
            Err(refusal) => {
                if self.shared.remove_ephemeral(&profile) {
                    ephemeral::forget(&self.shared.config.ephemeral(), &profile);
                    self.shared.reload_ephemeral().await;
                }
                return Err(refusal);
            }
        };
        tracing::debug!(pid = peer.pid, uid = peer.uid, profile = %profile, program = request.program, "app launched");
        drop(changing);
        self.settle(&profile).await;
        let mut notices = self.notices(&profile);
        notices.extend(self.instances(peer, &request.program, class).await);
        Ok(RunAnswer {
            profile: profile.to_string(),
            label: class.number().into(),
            notices,
        })
    }

    async fn switch(&self, peer: &Peer, request: SwitchRequest) -> Result<SwitchAnswer, Refusal> {
        let _changing = self.shared.changing.lock().await;
        let policy = self.shared.policy();
        let may = |owner: Option<u32>| peer.is_root() || owner == Some(peer.uid);
        let mut off = self.shared.off();
        let mut changed = Vec::new();
        let wanted = request.profile.as_ref().map(|name| self.meant(peer, name));
        for (id, active) in &policy.active {
            match &wanted {
                Some(wanted) if wanted != id => continue,
                Some(_) if !may(active.owner()) => {
                    return Err(Refusal::new(
                        Code::NotPermitted,
                        format!("only root may switch {id}"),
                    ));
                }
                None if !may(active.owner()) => continue,
                _ => {}
            }
            let was = if request.on {
                off.remove(id)
            } else {
                off.insert(id.clone())
            };
            if was {
                changed.push(active);
            }
        }
        if let Some(wanted) = &wanted
            && !policy.active.contains_key(wanted)
        {
            return Err(Refusal::new(
                Code::NotFound,
                format!("there is no enabled profile {wanted}"),
            ));
        }
        // What a command made ends with it.
        let lasting = off.iter().filter(|id| policy.loaded.find(id).is_some());
        let lasting = lasting.cloned().collect();
        self.state.set_off(&lasting).map_err(|error| {
            let folder = self.shared.config.state.display();
            Refusal::new(
                Code::Unavailable,
                format!("cannot write the state folder {folder}: {error}"),
            )
        })?;
        self.shared.set_off(off);
        self.shared.publish().await;
        if !request.on {
            changed.iter().for_each(|active| active.link().cut());
        }
        let changed = changed.iter().map(|active| active.profile.id().to_string());
        Ok(SwitchAnswer {
            changed: changed.collect(),
        })
    }

    async fn profiles(&self, peer: &Peer) -> Result<Vec<ProfileStatus>, Refusal> {
        Ok(self.visible(peer))
    }

    async fn profile(&self, peer: &Peer, identifier: String) -> Result<ProfileText, Refusal> {
        let id = self.meant(peer, &identifier);
        let policy = self.shared.policy();
        let owned = policy
            .active
            .get(&id)
            .filter(|active| active.owner.is_some_and(|uid| sees(peer, uid)));
        let profile = policy
            .loaded
            .find(&id)
            .filter(|profile| user::may_see(peer, profile))
            .or_else(|| owned.map(|active| &active.profile));
        let profile = profile.ok_or_else(|| {
            Refusal::new(Code::NotFound, format!("there is no profile {identifier}"))
        })?;
        let text = profile.source.text.to_string();
        Ok(ProfileText {
            status: self.describe(profile, &policy, &self.apps(), scope(peer)),
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
        Ok(doctor::examine(&self.shared, self.visible(peer), scope(peer)).await)
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

fn invalid(problems: &[Problem]) -> Refusal {
    let first = problems
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    let mut refusal = Refusal::new(Code::Invalid, first);
    refusal.problems = problems.iter().map(problem).collect();
    refusal
}
