//! The side of the new daemon: it gets ready, and takes everything in one step.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::socket::{Backlog, listen};
use offramp_intercept::Handed;
use offramp_rules::ProfileId;
use offramp_upstream::State as UpstreamState;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::give::{ended, word};
use super::wire::{self, FORMAT, Message, State};
use super::{TAKE, Takeover, WORD};
use crate::Config;
use crate::api::Peer;
use crate::policy::Policy;
use crate::shared::Shared;

/// How long proxy servers may take to answer.
const CONNECT: Duration = Duration::from_secs(20);
/// How long it may take until a daemon that says no more has ended.
const DEATH: Duration = Duration::from_secs(3);

/// A daemon that is ready to hand over.
pub(crate) struct Asked {
    stream: UnixStream,
    peer: Peer,
    /// The profiles that are connected there.
    pub(crate) connected: Vec<ProfileId>,
    passed: Option<(Handed, OwnedFd)>,
}

/// Asks the daemon that runs to hand over. None: no daemon runs.
pub(crate) async fn ask(config: &Config, takeover: Takeover) -> anyhow::Result<Option<Asked>> {
    let path = config.takeover_socket();
    let mut stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            if UnixStream::connect(config.socket()).await.is_ok() {
                bail!("the daemon that runs cannot hand over: stop it, then start this one");
            }
            tracing::info!("no daemon runs: starting as usual");
            return Ok(None);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot ask at {}", path.display()));
        }
    };
    let failed = "cannot take over from the daemon that runs";
    let peer = Peer::of(&stream).context(failed)?;
    let drain = takeover.drain.as_secs();
    let hello = Message::Hello {
        format: FORMAT,
        drain,
    };
    timeout(WORD, wire::say(&mut stream, &hello))
        .await
        .context(failed)?
        .context(failed)?;
    let connected = match word(&mut stream, WORD).await.context(failed)? {
        Message::Offer { connected } => connected,
        Message::Refused { why } => bail!("{failed}: {why}"),
        _ => bail!("{failed}: it does not make an offer"),
    };
    let passed = timeout(WORD, wire::receive(&stream)).await;
    let [tcp_v4, tcp_v6, udp_v4, udp_v6, control, lock] =
        passed.context(failed)?.context(failed)?;
    let sockets = [tcp_v4, tcp_v6, udp_v4, udp_v6];
    Ok(Some(Asked {
        stream,
        peer,
        connected: connected.iter().map(|id| ProfileId::new(id)).collect(),
        passed: Some((Handed { sockets, lock }, control)),
    }))
}

impl Asked {
    /// The process of the other one.
    pub(crate) fn pid(&self) -> u32 {
        self.peer.pid
    }

    /// Has the other one stop taking work. What comes waits in the sockets from here on.
    pub(crate) async fn take(&mut self) -> anyhow::Result<(State, Handed)> {
        wire::say(&mut self.stream, &Message::Take).await?;
        // A call of a client may be finished first.
        let Message::State(state) = word(&mut self.stream, TAKE).await? else {
            bail!("the other daemon does not say what it has");
        };
        let handed = match &self.passed {
            Some((handed, _)) => Handed {
                sockets: clone(&handed.sockets)?,
                lock: handed.lock.try_clone()?,
            },
            None => bail!("everything is taken already"),
        };
        Ok((*state, handed))
    }

    /// Everything is here: the other one is not to go on. Returns what is heard from it later, and
    /// the control socket.
    pub(crate) async fn have(mut self) -> anyhow::Result<(UnixStream, UnixListener)> {
        let Some((_, control)) = self.passed.take() else {
            bail!("everything is taken already");
        };
        let control = UnixListener::from_std(control.into())?;
        let said = wire::say(&mut self.stream, &Message::Have).await;
        let answer = match said {
            Ok(()) => word(&mut self.stream, TAKE).await,
            Err(error) => Err(error.into()),
        };
        match answer {
            Ok(Message::Yours) => {}
            // Nobody else has it where the other one has just died.
            _ if timeout(DEATH, ended(&self.peer.pidfd)).await.is_ok() => {
                tracing::warn!("the daemon before has died while it handed over");
            }
            Ok(_) => bail!("the other daemon goes on"),
            Err(error) => return Err(error.context("the other daemon goes on")),
        }
        // Clients see as their peer who has called this last.
        let _ = listen(&control, Backlog::MAXCONN);
        Ok((self.stream, control))
    }
}

fn clone(sockets: &[OwnedFd; 4]) -> std::io::Result<[OwnedFd; 4]> {
    let [a, b, c, d] = sockets;
    Ok([
        a.try_clone()?,
        b.try_clone()?,
        c.try_clone()?,
        d.try_clone()?,
    ])
}

/// Waits until the servers of these profiles answer, so that no flow has to.
pub(crate) async fn wait_until_connected(
    policy: &Policy,
    wanted: &[ProfileId],
) -> anyhow::Result<()> {
    let deadline = Instant::now() + CONNECT;
    for id in wanted {
        // What the files do not have any more is not to be connected.
        let Some(active) = policy.active.get(id) else {
            continue;
        };
        let connected = match active.link().upstream() {
            Ok(upstream) => {
                let mut state = upstream.state();
                let connected =
                    |state: &UpstreamState| matches!(state, UpstreamState::Connected { .. });
                timeout_at(deadline, state.wait_for(connected))
                    .await
                    .is_ok_and(|state| state.is_ok())
            }
            Err(_) => false,
        };
        if !connected {
            let why = active.reason();
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            bail!(
                "not taking over: the profile {id} is connected in the daemon that runs, and not \
                 in this one{why}"
            );
        }
    }
    Ok(())
}

/// Goes on with what the other one knew. To be called before anything is put in force.
pub(crate) fn adopt(shared: &Arc<Shared>, known: &State) {
    for (exec, claims) in &known.verdicts {
        let verdict = claims.as_ref().map(|claims| Arc::new(claims.to_claims()));
        shared.verdicts.put(*exec, verdict);
    }
    shared.flows.go_on_behind(known.last_flow);
}
