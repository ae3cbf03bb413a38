//! Follows what changes around the daemon: states, networks, files, programs that start and end.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use offramp_intercept::Event;
use tokio::sync::broadcast;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::closing::Closing;
use crate::hosts;
use crate::recognise::{Next, Questions};
use crate::shared::Shared;
use crate::state::State;

const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often it is looked which classes have processes left.
const CENSUS: Duration = Duration::from_secs(5);
/// Processes are moved, and end, one after another.
const BURST: Duration = Duration::from_millis(50);
/// Processes are looked at no more often than this: somebody may move them without end.
const LOOK: Duration = Duration::from_secs(1);
/// How long sockets may be another's than the verdict on a program that was started says.
const SWEEP: Duration = Duration::from_secs(1);
/// How often new names are saved.
const NAMES: Duration = Duration::from_secs(1);
/// How long programs that were started may take to be recognised at the end.
const DECIDED: Duration = Duration::from_secs(5);

/// Says that the daemon is well: to the kernel programs for as long as its runtime runs tasks, to the
/// service manager for as long as no part is stuck.
pub(crate) async fn beat(shared: Arc<Shared>, stop: CancellationToken) {
    let mut tick = interval(HEARTBEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut known = None;
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if let Err(error) = shared.capture.beat() {
            tracing::error!(error = %error, "heartbeat not written");
        }
        let stuck = shared.pulse.stuck();
        match stuck {
            None => drop(sd_notify::notify(&[sd_notify::NotifyState::Watchdog])),
            Some(part) if known != stuck => tracing::error!(part, "a part of the daemon is stuck"),
            Some(_) => {}
        }
        known = stuck;
        shared.flows.tell_what_is_due();
        // Few datagrams, or what was lost on the way, are counted for a second at most.
        shared.capture.took_all(false);
        shared.capture.took_all(true);
    }
}

/// Follows the states of the upstreams.
pub(crate) async fn follow_states(shared: Arc<Shared>, stop: CancellationToken) {
    while stop
        .run_until_cancelled(shared.changed.notified())
        .await
        .is_some()
    {
        let _changing = shared.changing.lock().await;
        shared.publish().await;
    }
}

/// The same where another daemon tells the kernel programs.
pub(crate) async fn follow_states_alone(shared: Arc<Shared>, stop: CancellationToken) {
    while stop
        .run_until_cancelled(shared.changed.notified())
        .await
        .is_some()
    {
        let world = shared.survey().await;
        shared.world.send_replace(Arc::new(world));
    }
}

/// Follows what ends in the kernel.
pub(crate) async fn follow_events(
    shared: Arc<Shared>,
    closed: broadcast::Sender<u64>,
    stop: CancellationToken,
) {
    let mut tick = interval(CENSUS);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut closing = Closing::default();
    let mut deciding = JoinSet::new();
    // When to look at processes that were moved, at classes that may have ended, and at sockets.
    let (mut moved, mut ended, mut unswept) = (None, None, None);
    let mut looked = Instant::now();
    let mut questions = Questions::default();
    loop {
        begin_turns(&shared, &mut questions, &mut deciding);
        tokio::select! {
            () = stop.cancelled() => break,
            event = shared.capture.event() => match event {
                Some(Event::SocketClosed { cookie }) => close(&shared, &closed, cookie),
                Some(Event::Ended) => {
                    ended.get_or_insert_with(|| Instant::now() + BURST);
                }
                Some(Event::Exec { number, asker }) => questions.add(number, asker),
                Some(Event::Moved { .. }) => {
                    moved.get_or_insert_with(|| (looked + LOOK).max(Instant::now() + BURST));
                }
                None => return,
            },
            Some(decided) = deciding.join_next() => match decided {
                Ok(Next::Sweep) => {
                    unswept.get_or_insert_with(|| Instant::now() + SWEEP);
                }
                Ok(Next::Recognise) => {
                    moved.get_or_insert_with(|| looked + LOOK);
                }
                Ok(Next::Ask(open)) => questions.add_found(&open),
                _ => {}
            },
            () = until(unswept), if unswept.is_some() => {
                unswept = None;
                let shared = Arc::clone(&shared);
                deciding.spawn(async move {
                    let _changing = shared.changing.lock().await;
                    shared.sweep().await;
                    Next::Nothing
                });
            }
            () = until(ended), if ended.is_some() => {
                ended = None;
                closing.sweep(&shared).await;
            }
            () = until(moved), if moved.is_some() => {
                moved = None;
                looked = Instant::now();
                deciding.spawn(Arc::clone(&shared).follow_moves());
            }
            _ = tick.tick() => {
                closing.sweep(&shared).await;
                questions.tidy();
                deciding.spawn(Arc::clone(&shared).find_questions());
                deciding.spawn(Arc::clone(&shared).decide_lost());
                deciding.spawn(Arc::clone(&shared).retire_approvals());
            }
        }
    }
    // Who reads the ring from here on does not see what has been taken out of it.
    for event in shared.capture.taken_events().await {
        match event {
            Event::SocketClosed { cookie } => close(&shared, &closed, cookie),
            Event::Exec { number, asker } => questions.add(number, asker),
            // Both are looked at from time to time.
            Event::Ended | Event::Moved { .. } => {}
        }
    }
    let decided = async {
        loop {
            begin_turns(&shared, &mut questions, &mut deciding);
            if deciding.join_next().await.is_none() {
                return;
            }
        }
    };
    if timeout(DECIDED, decided).await.is_err() {
        tracing::warn!("programs that were started are not recognised yet");
    }
}

fn begin_turns(shared: &Arc<Shared>, questions: &mut Questions, deciding: &mut JoinSet<Next>) {
    while let Some(turn) = questions.next(deciding.len()) {
        let shared = Arc::clone(shared);
        deciding.spawn(async move {
            let next = shared.answer(turn.exec).await;
            drop(turn);
            next
        });
    }
}

fn close(shared: &Shared, closed: &broadcast::Sender<u64>, cookie: u64) {
    // Nobody waits for it where there is no desk.
    let _ = closed.send(cookie);
    shared.before.close(cookie);
}

async fn until(time: Option<Instant>) {
    if let Some(time) = time {
        sleep_until(time).await;
    }
}

/// Puts changed profiles in force soon after their files change.
pub(crate) async fn follow_files(shared: Arc<Shared>, stop: CancellationToken) {
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut seen = fingerprint(&shared);
    let pulse = shared.pulse.changes("changes of rules");
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let now = fingerprint(&shared);
        if now != seen {
            seen = now;
            shared.reload().await;
        } else {
            shared.follow_browsers().await;
            shared.follow_places().await;
        }
        // Whoever changes something lets go of these some time.
        drop(shared.reloading.lock().await);
        drop(shared.changing.lock().await);
        pulse.beat();
    }
}

/// Keeps the names that synthetic addresses stand for, for a start after whatever end.
pub(crate) async fn follow_names(shared: Arc<Shared>, stop: CancellationToken) {
    let mut tick = interval(NAMES);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let shared = Arc::clone(&shared);
        let saved = spawn_blocking(move || {
            State::at(&shared.config.state).save_new_names(&shared.policy());
        });
        // To its end: two must not write at one time.
        if let Err(error) = saved.await {
            tracing::error!(error = %error, "names not saved");
        }
    }
}

/// Names of all files that profiles come from, and when each was changed in any way.
fn fingerprint(shared: &Shared) -> Vec<(std::path::PathBuf, i64, i64)> {
    let config = &shared.config.config;
    let folders = [
        config.join("policies/managed"),
        config.join("policies/recommended"),
        config.join("credentials"),
        "/usr/lib/offramp/policies/managed".into(),
        "/usr/lib/offramp/policies/recommended".into(),
    ];
    let mut found = Vec::new();
    if let Ok(metadata) = std::fs::metadata(hosts::PATH) {
        found.push((hosts::PATH.into(), metadata.ctime(), metadata.ctime_nsec()));
    }
    for entry in folders
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .flatten()
    {
        if let Ok(metadata) = entry.metadata() {
            found.push((entry.path(), metadata.ctime(), metadata.ctime_nsec()));
        }
    }
    found.sort();
    found
}
