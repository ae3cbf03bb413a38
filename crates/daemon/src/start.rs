//! Start and stop of the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use offramp_control::Lifecycle;
use offramp_intercept::{Capture, ClassId, Sockets};
use offramp_rules::{Identity, Layer, Prefix, Profile, ProfileId, Profiles, Rule};
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::ephemeral::Ephemeral;
use crate::policy::{Policy, Sources};
use crate::shared::Shared;
use crate::state::State;
use crate::takeover::{self, Asked, Takeover};
use crate::work::{Work, listen_at};
use crate::{Config, approvals, classes, ephemeral, files, harden};

/// Runs until `stop`, or until another daemon has taken over and the flows of this one have ended;
/// `reload` is notified by SIGHUP. Ends with what was added to the machine removed, unless managed
/// apps still run, managed rules name apps, or another daemon has it: these stay as they are.
///
/// With `takeover` it goes on in the place of the daemon that runs, if one does.
pub async fn run(
    config: Config,
    takeover: Option<Takeover>,
    stop: CancellationToken,
    reload: Arc<Notify>,
) -> anyhow::Result<()> {
    check_requirements(&config)?;
    let (state, synthetic_v6) = open_state(&config)?;
    let asked = match takeover {
        Some(takeover) => takeover::ask(&config, takeover).await?,
        None => None,
    };
    let mut work = match asked {
        Some(asked) => take_over(config, &state, synthetic_v6, asked).await?,
        None => start(config, &state, synthetic_v6).await?,
    };
    let shared = Arc::clone(&work.shared);
    harden::after_start();
    shared.lifecycle.send_replace(Lifecycle::Ready);
    notify_ready();
    tracing::info!(instance = shared.config.instance, socket = %shared.config.socket().display(), "ready");
    match wait(&mut work, &stop, &reload).await {
        Ok(Ended::HandedOver) => Ok(()),
        Ok(Ended::Stopped) => finish(&shared, &state, work).await,
        Err(error) => {
            finish(&shared, &state, work).await?;
            Err(error)
        }
    }
}

fn open_state(config: &Config) -> anyhow::Result<(State, Prefix)> {
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

async fn start(config: Config, state: &State, synthetic_v6: Prefix) -> anyhow::Result<Work> {
    make_runtime(&config)?;
    let (capture, sockets) = match Capture::start(&config.capture()).await {
        Ok(started) => started,
        Err(error) => return Err(anyhow::Error::new(error).context("cannot capture")),
    };
    let parts = Parts::read(config, synthetic_v6, true);
    let shared = parts.assemble(capture, &sockets, state);
    let begun = async {
        let listener = control_socket(&shared.config)?;
        prepare(&shared).await?;
        state.load_names(&shared.policy());
        state.take_told(&shared.told);
        let next = takeover_socket(&shared.config)?;
        Work::begin(Arc::clone(&shared), sockets, listener, next)
    };
    let begun = begun.await;
    if begun.is_err() {
        // What has just been added goes again, unless apps that an earlier run left refused would
        // go direct.
        let is_first = shared.capture.is_first();
        if is_first && shared.labelled().is_ok_and(|found| found.is_empty()) {
            let _ = shared.capture.stop().await;
        }
    }
    begun
}

/// Everything is made ready while the daemon that runs goes on, and only then taken from it.
async fn take_over(
    config: Config,
    state: &State,
    synthetic_v6: Prefix,
    mut asked: Asked,
) -> anyhow::Result<Work> {
    let prepared = Capture::prepare(&config.capture()).context("cannot capture")?;
    let parts = Parts::read(config, synthetic_v6, true);
    takeover::wait_until_connected(&parts.policy, &asked.connected).await?;
    let (known, handed) = asked.take().await?;
    let begun = std::time::Instant::now();
    let taken = prepared.take_over(handed).await;
    let (capture, sockets) = taken.context("cannot capture")?;
    let shared = parts.assemble(capture, &sockets, state);
    takeover::adopt(&shared, &known);
    prepare(&shared).await?;
    state.load_names(&shared.policy());
    state.take_told(&shared.told);
    let pid = asked.pid();
    let (stream, control) = asked.have().await?;
    shared.capture.keep();
    let next = takeover_socket(&shared.config)?;
    let before = takeover::begin(&shared, pid, &known);
    let mut work = Work::begin(Arc::clone(&shared), sockets, control, next)?;
    tracing::info!(
        flows = known.flows.len(),
        paused_ms = begun.elapsed().as_millis() as u64,
        "taken over"
    );
    before.go_on(&mut work, stream, known).await;
    Ok(work)
}

/// Says so to the service manager, and whose process the service is from here on.
fn notify_ready() {
    let own = sd_notify::NotifyState::MainPid(std::process::id());
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready, own]);
}

async fn prepare(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let own = free_self(shared)?;
    tracing::debug!(threads = own, "the daemon itself is no app");
    restore(shared).await?;
    shared.reload().await;
    shared.begin_recognising().await;
    Ok(())
}

/// Puts in force again what this daemon knows, after another was about to take over.
pub(crate) async fn regain(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let last = shared.last_run();
    prepare(shared).await?;
    shared.runs_begin_behind(last);
    Ok(())
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
    let _ = fs::remove_file(config.takeover_socket());
    forget(&config);
    Ok(())
}

/// Removes the files of an instance that has ended.
fn forget(config: &Config) {
    let _ = fs::remove_dir_all(config.ephemeral());
    classes::remove(&config.runtime);
    approvals::remove(&config.runtime);
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

/// What is read before anything is captured: profiles, whose servers are reached for at once.
pub(crate) struct Parts {
    config: Config,
    ephemeral: BTreeMap<ProfileId, Ephemeral>,
    policy: Policy,
    changed: Arc<Notify>,
    synthetic_v6: Prefix,
}

impl Parts {
    /// `reaches`: whether the servers of profiles are reached for.
    pub(crate) fn read(config: Config, synthetic_v6: Prefix, reaches: bool) -> Self {
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
        Self {
            config,
            ephemeral,
            policy,
            changed,
            synthetic_v6,
        }
    }

    pub(crate) fn assemble(
        self,
        capture: Capture,
        sockets: &Sockets,
        state: &State,
    ) -> Arc<Shared> {
        Arc::new(Shared::new(
            self.config,
            capture,
            Arc::clone(&sockets.replies),
            self.policy,
            self.ephemeral,
            state.off(),
            self.synthetic_v6,
            self.changed,
        ))
    }
}

fn control_socket(config: &Config) -> anyhow::Result<UnixListener> {
    let path = config.socket();
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        bail!("another offrampd answers at {}", path.display());
    }
    // Rights come from who the peer is, not from the mode.
    listen_at(&path, 0o666)
        .with_context(|| format!("cannot listen on the control socket {}", path.display()))
}

/// Where a new daemon asks for everything; see [`crate::takeover`].
fn takeover_socket(config: &Config) -> anyhow::Result<UnixListener> {
    let path = config.takeover_socket();
    listen_at(&path, 0o600).with_context(|| format!("cannot listen at {}", path.display()))
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
        .filter_map(|process| process.label.before())
        .chain(asked_before(&shared.capture))
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
    let approved = shared.approvals.restore(&shared.capture).await;
    approved.context(left)?;
    for id in shared.ephemeral().into_keys() {
        if !shared.is_used(&id) {
            shared.remove_ephemeral(&id);
            ephemeral::forget(&shared.config.ephemeral(), &id);
        }
    }
    // Seconds since 1970 are more than the runs of any earlier daemon, unless somebody has set the
    // clock back.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = u32::try_from(now.as_secs()).unwrap_or(u32::MAX / 2);
    let number = |id: &ProfileId| id.as_str().strip_prefix("run-")?.parse::<u32>().ok();
    let left = shared.ephemeral().keys().filter_map(number).max();
    shared.runs_begin_behind(left.unwrap_or_default().max(now));
    Ok(())
}

/// What programs were before those that an earlier run gave no answer for.
fn asked_before(capture: &Capture) -> BTreeSet<ClassId> {
    let open = capture.open_questions().into_iter();
    let open = open.filter_map(|(exec, _)| capture.question(exec));
    open.flat_map(|question| {
        let answered = question.before.and_then(|before| capture.answer(before));
        [question.from, answered.flatten()]
    })
    .flatten()
    .collect()
}

enum Ended {
    Stopped,
    /// Everything is another daemon's.
    HandedOver,
}

async fn wait(work: &mut Work, stop: &CancellationToken, reload: &Notify) -> anyhow::Result<Ended> {
    let shared = Arc::clone(&work.shared);
    loop {
        let request = tokio::select! {
            () = stop.cancelled() => return Ok(Ended::Stopped),
            () = reload.notified() => {
                let changed = shared.reload().await;
                tracing::info!(changed, "profiles read again");
                continue;
            }
            request = work.next() => request?,
        };
        if takeover::hand_over(work, request, stop).await? {
            return Ok(Ended::HandedOver);
        }
    }
}

async fn finish(shared: &Arc<Shared>, state: &State, mut work: Work) -> anyhow::Result<()> {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    shared.lifecycle.send_replace(Lifecycle::Stopping);
    tracing::info!(flows = shared.flows.count(), "stopping");
    work.end().await;
    state.save_names(&shared.policy());
    state.save_told(&shared.told);
    let _ = fs::remove_file(shared.config.socket());
    let _ = fs::remove_file(shared.config.takeover_socket());
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
