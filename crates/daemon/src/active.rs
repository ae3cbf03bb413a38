//! A profile at work: its upstream and the task that keeps it warm.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use offramp_profile::{Asset, Credentials, Method, Profile, Server};
use offramp_rules::{Host, Reason, State};
use offramp_upstream::{
    Authorization, Config, Secret, State as UpstreamState, Timeouts, Trust, Upstream,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How many links there have been.
static LINKS: AtomicU64 = AtomicU64::new(0);

/// A profile at work.
pub(crate) struct Active {
    pub(crate) profile: Arc<Profile>,
    /// The user whose command made it, for a profile made by `offramp run --server`.
    pub(crate) owner: Option<u32>,
    link: Arc<Link>,
}

/// The connections of a profile. Flows hold it, so that a changed profile lets those that run go
/// on; with the last of them the connections are closed.
pub(crate) struct Link {
    servers: Result<Vec<offramp_upstream::Server>, String>,
    upstream: Result<Arc<Upstream>, String>,
    flows: Mutex<CancellationToken>,
    number: u64,
    _tasks: JoinSet<()>,
    _stop: tokio_util::sync::DropGuard,
}

impl Active {
    /// Starts reaching for the servers, or goes on with those of `before` where they are the same.
    /// `changed` is notified whenever the state is another.
    pub(crate) fn start(
        profile: Arc<Profile>,
        owner: Option<u32>,
        credentials: &Credentials,
        before: Option<&Active>,
        changed: &Arc<Notify>,
    ) -> Self {
        let servers = servers(&profile, credentials);
        let link = before
            .filter(|before| before.link.upstream.is_ok() && before.link.servers == servers)
            .map_or_else(
                || Arc::new(Link::start(servers, changed)),
                |b| Arc::clone(&b.link),
            );
        if let Err(reason) = &link.upstream {
            tracing::warn!(profile = %profile.id(), error = reason, "profile cannot be used");
        }
        Self {
            profile,
            owner,
            link,
        }
    }

    /// Reaches for nothing: until it is started its apps are refused.
    pub(crate) fn idle(profile: Arc<Profile>, owner: Option<u32>) -> Self {
        let servers = Err("no daemon serves it yet".to_owned());
        Self {
            profile,
            owner,
            link: Arc::new(Link::start(servers, &Arc::default())),
        }
    }

    /// The user whose processes alone it claims.
    pub(crate) fn owner(&self) -> Option<u32> {
        self.owner.or(self.profile.rules.owner)
    }

    /// The connections, or why there are none.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The state as decisions see it.
    pub(crate) fn state(&self) -> State {
        let Ok(upstream) = &self.link.upstream else {
            return State::Disconnected(Reason::MissingAsset);
        };
        match &*upstream.state().borrow() {
            UpstreamState::Connecting => State::Connecting,
            UpstreamState::Connected { .. } => State::Connected,
            UpstreamState::Reasserting { .. } => State::Reasserting,
            UpstreamState::Disconnected { .. } => State::Disconnected(Reason::Unreachable),
        }
    }

    /// The server that is tried first, as people know it.
    pub(crate) fn server(&self) -> String {
        let first = self.profile.servers.first();
        first.map(|server| server.name.clone()).unwrap_or_default()
    }

    /// Why there is no connection, as far as that is known.
    pub(crate) fn reason(&self) -> Option<String> {
        match self.link.upstream() {
            Err(reason) => Some(reason.to_owned()),
            Ok(upstream) => match &*upstream.state().borrow() {
                UpstreamState::Reasserting { reason } | UpstreamState::Disconnected { reason } => {
                    Some(reason.clone())
                }
                UpstreamState::Connecting | UpstreamState::Connected { .. } => None,
            },
        }
    }

    /// Whether UDP can be carried, as far as that is known.
    pub(crate) fn carries_udp(&self) -> bool {
        let Ok(upstream) = &self.link.upstream else {
            return false;
        };
        match &*upstream.state().borrow() {
            UpstreamState::Connected { udp, .. } => *udp,
            // Not known: flows are held or tried.
            UpstreamState::Connecting | UpstreamState::Reasserting { .. } => true,
            UpstreamState::Disconnected { .. } => false,
        }
    }
}

impl Link {
    fn start(
        servers: Result<Vec<offramp_upstream::Server>, String>,
        changed: &Arc<Notify>,
    ) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let upstream = servers.clone().and_then(|servers| {
            Upstream::new(Config {
                servers,
                timeouts: Timeouts::default(),
            })
            .map(Arc::new)
            .map_err(|error| error.to_string())
        });
        if let Ok(upstream) = &upstream {
            keep(upstream, changed, &stop, &mut tasks);
        }
        Self {
            servers,
            upstream,
            flows: Mutex::default(),
            number: LINKS.fetch_add(1, Ordering::Relaxed),
            _tasks: tasks,
            _stop: stop.drop_guard(),
        }
    }

    /// No other link of this daemon has it.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Ends with the flows of this profile; see [`Link::cut`].
    pub(crate) fn flows(&self) -> CancellationToken {
        self.lock().clone()
    }

    /// Ends all flows that run; later ones begin anew.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.lock()).cancel();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, CancellationToken> {
        self.flows.lock().expect("nothing panics with the token")
    }

    pub(crate) fn upstream(&self) -> Result<&Arc<Upstream>, &str> {
        self.upstream.as_ref().map_err(String::as_str)
    }
}

fn keep(
    upstream: &Arc<Upstream>,
    changed: &Arc<Notify>,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) {
    let (runner, stop) = (Arc::clone(upstream), stop.clone());
    tasks.spawn(async move { runner.run(stop).await });
    let (mut state, changed) = (upstream.state(), Arc::clone(changed));
    tasks.spawn(async move {
        while state.changed().await.is_ok() {
            changed.notify_one();
        }
    });
}

fn servers(
    profile: &Profile,
    credentials: &Credentials,
) -> Result<Vec<offramp_upstream::Server>, String> {
    profile
        .servers
        .iter()
        .map(|server| convert(server, credentials))
        .collect()
}

fn convert(server: &Server, credentials: &Credentials) -> Result<offramp_upstream::Server, String> {
    let trust = match &server.anchors {
        None => Trust::System,
        Some(Asset::Inline(pem)) => Trust::Anchors(pem.expose().as_bytes().to_vec()),
        Some(asset) => Trust::Anchors(
            credentials
                .anchors(asset)
                .map_err(|error| error.to_string())?,
        ),
    };
    let authorization = match &server.authentication {
        None => None,
        Some(authentication) => Some(match authentication.method {
            Method::Password => {
                let found = credentials
                    .password(&authentication.asset)
                    .map_err(|error| error.to_string())?;
                let password = Secret::new(found.password.expose());
                Authorization::Password {
                    user: found.user,
                    password,
                }
            }
            Method::Bearer => {
                let token = credentials
                    .bearer(&authentication.asset)
                    .map_err(|error| error.to_string())?;
                Authorization::Bearer(Secret::new(token.expose()))
            }
        }),
    };
    let server_name = match &server.server_name {
        Host::Name(name) => Some(name.clone()),
        Host::Address(_) => None,
    };
    Ok(offramp_upstream::Server {
        name: server.name.clone(),
        host: server.host.clone(),
        port: server.port,
        server_name,
        trust,
        authorization,
    })
}
