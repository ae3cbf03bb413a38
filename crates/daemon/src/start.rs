//! Start and stop of the daemon.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use nix::sys::socket::Backlog;
use offramp_control::Lifecycle;
use offramp_intercept::{Capture, ClassId, Label, Sockets};
use offramp_relay::{Limit, serve};
use offramp_rules::{Identity, Layer, Profile, Profiles, Rule};
use tokio::net::UnixListener;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::control::Desk;
use crate::policy::{Policy, Sources};
use crate::shared::{Shared, TCP_FLOWS};
use crate::state::State;
use crate::{Config, DRAIN, api, classes, ephemeral, files, keeper, roam, tcp, udp, watcher};

/// Ends of UDP sockets that wait to be acted on.
const CLOSED: usize = 16_384;

/// Runs until `stop`; `reload` is notified by SIGHUP. Ends with what was added to the machine
/// removed, unless managed apps still run or managed rules name apps: these stay refused.
pub async fn run(
    config: Config,
    stop: CancellationToken,
    reload: Arc<Notify>,
) -> anyhow::Result<()> {
    check_requirements(&config)?;
    let (state, synthetic_v6) = open_state(&config)?;
    make_runtime(&config)?;
    let (capture, sockets) = match Capture::start(&config.capture()).await {
        Ok(started) => started,
        Err(error) => return Err(anyhow::Error::new(error).context("cannot capture")),
    };
    let shared = assemble(config, capture, &sockets, &state, synthetic_v6, true);
    let listener = match prepare(&shared, &state).await {
        Ok(listener) => listener,
        Err(error) => {
            // What has just been added goes again, unless apps that an earlier run left refused would
            // go direct.
            let is_first = shared.capture.is_first();
            if is_first && shared.labelled().is_ok_and(|found| found.is_empty()) {
                let _ = shared.capture.stop().await;
            }
            return Err(error);
        }
    };
    let mut tasks = JoinSet::new();
    let work = CancellationToken::new();
    begin(&shared, sockets, &work, &mut tasks);
    let desk = Arc::new(Desk::new(
        Arc::clone(&shared),
        State::open(&shared.config.state)?,
    ));
    let control_stop = work.clone();
    tasks.spawn(async move {
        let clients = Limit::refuse(api::MOST);
        let stop = control_stop.clone();
        serve(listener, clients, &control_stop, DRAIN, move |stream, _| {
            api::serve_connection(stream, Arc::clone(&desk), stop.clone())
        })
        .await;
    });
    shared.lifecycle.send_replace(Lifecycle::Ready);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(instance = shared.config.instance, socket = %shared.config.socket().display(), "ready");
    let ended = wait(&shared, &stop, &reload, &mut tasks).await;
    finish(&shared, &state, work, tasks).await?;
    ended
}

fn open_state(config: &Config) -> anyhow::Result<(State, offramp_rules::Prefix)> {
    let failed = || format!("cannot write the state folder {}", config.state.display());
    let state = State::open(&config.state).with_context(failed)?;
    let synthetic_v6 = state.synthetic_v6().with_context(failed)?;
    Ok((state, synthetic_v6))
}

/// Makes the folder of what survives a restart, for all to enter.
pub(crate) fn make_runtime(config: &Config) -> anyhow::Result<()> {
    let folder = config.runtime.display();
    fs::create_dir_all(&config.runtime)
        .with_context(|| format!("cannot make the folder {folder}"))?;
    fs::set_permissions(&config.runtime, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot open the folder {folder} to clients"))?;
    files::write(&config.name_file(), config.instance.as_bytes(), 0o644)
        .with_context(|| format!("cannot write into the folder {folder}"))
}

async fn prepare(shared: &Arc<Shared>, state: &State) -> anyhow::Result<UnixListener> {
    let listener = control_socket(&shared.config)?;
    let own = free_self(shared)?;
    tracing::debug!(threads = own, "the daemon itself is no app");
    restore(shared).await?;
    shared.reload().await;
    shared.begin_recognising().await;
    state.load_names(&shared.policy());
    Ok(listener)
}

/// Removes what a daemon that is no longer there left on the machine.
pub async fn uninstall(mut config: Config) -> anyhow::Result<()> {
    let named = fs::read_to_string(config.name_file()).unwrap_or_default();
    if !named.trim().is_empty() {
        config.instance = named.trim().to_owned();
    }
    Capture::uninstall(&config.capture())
        .await
        .context("cannot remove everything")?;
    let _ = fs::remove_file(config.socket());
    forget(&config);
    Ok(())
}

/// Removes the files of an instance that has ended.
fn forget(config: &Config) {
    let _ = fs::remove_dir_all(config.ephemeral());
    classes::remove(&config.runtime);
    // Last: it tells whose all the rest is.
    files::remove(&config.name_file());
}

/// Before anything is written: what the machine lacks would undo it.
pub(crate) fn check_requirements(config: &Config) -> anyhow::Result<()> {
    let found = offramp_intercept::requirements(&config.capture().bpffs);
    for missing in found {
        if let Some(remedy) = missing.remedy {
            bail!(
                "cannot capture: {}: {}; {remedy}",
                missing.name,
                missing.detail
            );
        }
    }
    Ok(())
}

/// `reaches`: whether the servers of profiles are reached for.
pub(crate) fn assemble(
    config: Config,
    capture: Capture,
    sockets: &Sockets,
    state: &State,
    synthetic_v6: offramp_rules::Prefix,
    reaches: bool,
) -> Arc<Shared> {
    let changed = Arc::new(Notify::new());
    let ephemeral = ephemeral::load(&config.ephemeral());
    let directories = config.directories();
    let sources = Sources {
        directories: &directories,
        ephemeral: &ephemeral,
        synthetic_v6,
        changed: &changed,
        reaches,
    };
    let policy = Policy::read(&sources, &Policy::default());
    for problem in &policy.loaded.problems {
        tracing::warn!(problem = %problem, "profile problem");
    }
    let replies = Arc::clone(&sockets.replies);
    let off = state.off();
    Arc::new(Shared::new(
        config,
        capture,
        replies,
        policy,
        ephemeral,
        off,
        synthetic_v6,
        changed,
    ))
}

fn control_socket(config: &Config) -> anyhow::Result<UnixListener> {
    let path = config.socket();
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        bail!("another offrampd answers at {}", path.display());
    }
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen on the control socket {}", path.display()))?;
    // One user who connects without end must not fill it before others.
    nix::sys::socket::listen(&listener, Backlog::MAXCONN)
        .with_context(|| format!("cannot listen on the control socket {}", path.display()))?;
    // Rights come from who the peer is, not from the mode.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
        .with_context(|| format!("cannot open the control socket {} to users", path.display()))?;
    Ok(listener)
}

/// How many rules of the administrator's name apps by themselves, not by `offramp run`.
fn managed_rules(rules: &Profiles) -> usize {
    let managed = |profile: &&Profile| profile.enabled && profile.layer == Layer::Managed;
    let names = |rule: &&Rule| !matches!(rule.identity, Identity::Wrapper(_));
    let all = rules
        .iter()
        .filter(managed)
        .flat_map(|profile| &profile.rules);
    all.filter(names).count()
}

/// A rule that names any program names the daemon too, which would wait for itself.
fn free_self(shared: &Shared) -> anyhow::Result<usize> {
    let own = std::process::id();
    let labelled = shared.capture.labelled()?;
    let labels: Vec<_> = labelled
        .iter()
        .filter(|process| process.pid == own)
        .map(|process| (process.pid, process.raw, None))
        .collect();
    Ok(shared.capture.relabel(&labels)?)
}

/// Takes over the apps that an earlier run labelled.
pub(crate) async fn restore(shared: &Shared) -> anyhow::Result<()> {
    let left = "cannot read what an earlier run left";
    let labelled = shared.labelled().context(left)?;
    let known = shared.capture.known_classes().context(left)?;
    // What a program was before it was asked about says what it inherits.
    let before: BTreeSet<ClassId> = labelled
        .values()
        .flatten()
        .filter_map(|process| match process.label {
            Label::Undecided { from, .. } => from,
            Label::Class(_) => None,
        })
        .collect();
    let (used, unused): (Vec<_>, Vec<_>) = known
        .into_iter()
        .filter(|class| *class != ClassId::UNDECIDED)
        .partition(|class| labelled.contains_key(class) || before.contains(class));
    for class in unused {
        let removed = shared.capture.remove_class(class).await;
        removed.context("cannot remove an old class")?;
    }
    shared.restore_classes(used);
    for id in shared.ephemeral().into_keys() {
        if !shared.is_used(&id) {
            shared.remove_ephemeral(&id);
            ephemeral::forget(&shared.config.ephemeral(), &id);
        }
    }
    // Seconds since 1970 are more than the runs of any earlier daemon.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = u32::try_from(now.as_secs()).unwrap_or(u32::MAX / 2);
    shared.runs_begin_behind(now);
    Ok(())
}

/// Starts everything that works in the background.
fn begin(
    shared: &Arc<Shared>,
    sockets: Sockets,
    work: &CancellationToken,
    tasks: &mut JoinSet<()>,
) {
    let (closed, _) = broadcast::channel(CLOSED);
    let [udp_v4, udp_v6] = sockets.udp;
    for intake in [udp_v4, udp_v6] {
        let closed = closed.subscribe();
        tasks.spawn(udp::serve(Arc::clone(shared), intake, closed, work.clone()));
    }
    for listener in sockets.tcp {
        let (shared, work) = (Arc::clone(shared), work.clone());
        tasks.spawn(async move {
            let stop = work.clone();
            let handler =
                move |stream, source| tcp::serve(Arc::clone(&shared), stream, source, stop.clone());
            // Flows that run may end by themselves within the drain; then they are cut.
            serve(listener, Limit::refuse(TCP_FLOWS), &work, DRAIN, handler).await;
        });
    }
    tasks.spawn(keeper::beat(Arc::clone(shared), work.clone()));
    tasks.spawn(keeper::follow_states(Arc::clone(shared), work.clone()));
    tasks.spawn(watcher::follow_network(Arc::clone(shared), work.clone()));
    tasks.spawn(roam::follow_sleep(Arc::clone(shared), work.clone()));
    tasks.spawn(keeper::follow_events(
        Arc::clone(shared),
        closed,
        work.clone(),
    ));
    tasks.spawn(keeper::follow_files(Arc::clone(shared), work.clone()));
}

async fn wait(
    shared: &Arc<Shared>,
    stop: &CancellationToken,
    reload: &Notify,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = reload.notified() => {
                let changed = shared.reload().await;
                tracing::info!(changed, "profiles read again");
            }
            Some(ended) = tasks.join_next() => {
                ended.context("a part of the daemon broke")?;
                bail!("a part of the daemon ended by itself");
            }
        }
    }
}

async fn finish(
    shared: &Arc<Shared>,
    state: &State,
    work: CancellationToken,
    mut tasks: JoinSet<()>,
) -> anyhow::Result<()> {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    shared.lifecycle.send_replace(Lifecycle::Stopping);
    tracing::info!(flows = shared.flows.count(), "stopping");
    work.cancel();
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(error = %error, "a part of the daemon broke");
        }
    }
    state.save_names(&shared.policy());
    let _ = fs::remove_file(shared.config.socket());
    let running = shared
        .labelled()
        .map_or(1, |found| found.values().map(Vec::len).sum());
    let rules = managed_rules(&shared.policy().rules);
    if running > 0 || rules > 0 {
        tracing::warn!(
            apps = running,
            rules,
            "apps that run under a profile, and those that managed rules name, stay refused; `offramp uninstall` lets them go"
        );
        return Ok(());
    }
    shared
        .capture
        .stop()
        .await
        .context("cannot remove everything that was added")?;
    forget(&shared.config);
    tracing::info!("stopped");
    Ok(())
}
