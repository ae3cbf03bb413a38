//! What a machine that moves, or sleeps, means for the connections to servers.

use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;

/// How often it is looked whether the machine, or the daemon, has stood still.
const TICK: Duration = Duration::from_secs(1);
/// A daemon that has not run for so long has stood still.
const STILL: Duration = Duration::from_secs(5);
/// A machine that has slept for so long may be somewhere else.
const ASLEEP: Duration = Duration::from_secs(2);

impl Shared {
    /// The network has changed in any way: connections that it concerns are looked at.
    pub(crate) fn follow_ways(&self) {
        for active in self.policy().active.values() {
            if let Ok(upstream) = active.link().upstream() {
                upstream.follow();
            }
        }
    }

    fn doubt_connections(&self) {
        for active in self.policy().active.values() {
            if let Ok(upstream) = active.link().upstream() {
                upstream.probe();
            }
        }
    }
}

/// Notices that the machine was suspended, or the daemon stopped: servers have forgotten
/// connections meanwhile, and the network may be another. The wall clock means nothing here.
pub(crate) async fn follow_sleep(shared: Arc<Shared>, stop: CancellationToken) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = Clocks::now();
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let now = Clocks::now();
        if now.has_stood_still_since(before) {
            tracing::info!("woken up, servers are reached for again");
            shared.doubt_connections();
            // What is suspended misses messages of the kernel.
            shared.changed.notify_one();
        }
        before = now;
    }
}

/// Two clocks that nobody sets.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    /// Stands still while the machine is suspended.
    awake: Duration,
    /// Goes on.
    all: Duration,
}

impl Clocks {
    fn now() -> Self {
        let read = |clock| clock_gettime(clock).map(Duration::from).unwrap_or_default();
        Self {
            awake: read(ClockId::CLOCK_MONOTONIC),
            all: read(ClockId::CLOCK_BOOTTIME),
        }
    }

    fn has_stood_still_since(self, before: Self) -> bool {
        let awake = self.awake.saturating_sub(before.awake);
        let all = self.all.saturating_sub(before.all);
        awake > STILL || all.saturating_sub(awake) > ASLEEP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_and_standstill_are_noticed_and_a_busy_machine_is_not() {
        let at = |awake: u64, all: u64| Clocks {
            awake: Duration::from_millis(awake),
            all: Duration::from_millis(all),
        };
        let before = at(1_000, 61_000);
        for (now, still) in [
            (at(2_000, 62_000), false),
            (at(5_000, 65_000), false),
            (at(2_000, 63_500), false),
            (at(2_000, 64_500), true),
            (at(2_000, 3_600_000), true),
            (at(7_000, 67_000), true),
            (at(1_000, 61_000), false),
        ] {
            assert_eq!(now.has_stood_still_since(before), still, "{now:?}");
        }
    }
}
