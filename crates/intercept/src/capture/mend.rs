//! Puts back what others take away: devices, addresses, routes, rules, settings.

use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use super::{Capture, StartError};
use crate::network::{Broken, Change, ClassRoutes, Conflict, Lost, NetworkError, Wanted};
use crate::network::{broken, summary};

/// How often a look and a repair follow each other at once.
const ROUNDS: usize = 3;

/// What was put back since the start.
#[derive(Clone, Debug, Default)]
pub struct Repairs {
    /// How many times something was.
    pub times: u64,
    /// What it was last, in words, and when.
    pub last: Option<(String, SystemTime)>,
    /// What could not be put back; flows that need it are refused meanwhile.
    pub missing: Option<String>,
}

/// What a look at the network came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// What was put back, in words; none where nothing was.
    pub what: Option<String>,
    /// Whether something was lost again at once: the flows that need it are refused until the next
    /// look finds it in its place.
    pub contested: bool,
}

/// What is known of the network's state.
#[derive(Default)]
pub(super) struct Health {
    repairs: Mutex<Repairs>,
    broken: Mutex<Broken>,
}

impl Capture {
    /// Waits until somebody else changes the network: what is ours, or the host's.
    pub async fn network_changed(&self) -> Change {
        self.changes.lock().await.next().await
    }

    /// Whether something is lost that no change tells of.
    pub async fn is_quietly_lost(&self) -> bool {
        let network = self.network.lock().await;
        network.is_quietly_lost(&self.namespace)
    }

    /// Refuses all flows until [`Capture::mend`] has found everything in its place.
    pub async fn suspect(&self) -> Result<(), StartError> {
        let _network = self.network.lock().await;
        self.say_broken(Broken::ALL)
    }

    /// Looks whether everything of ours is as it should be, and puts back what is not. Flows that
    /// need it are refused from the moment that it is seen until it is whole.
    pub async fn mend(&self) -> Result<Mended, StartError> {
        let mended = self.try_mend().await?;
        let mut repairs = self.health.repairs();
        if let Some(what) = &mended.what {
            repairs.times += 1;
            repairs.last = Some((what.clone(), SystemTime::now()));
        }
        if !mended.contested {
            repairs.missing = None;
        }
        Ok(mended)
    }

    async fn try_mend(&self) -> Result<Mended, StartError> {
        // In this order everywhere.
        let classes = self.classes.lock().await;
        let approvals = self.approvals.lock().await;
        let mut network = self.network.lock().await;
        let wanted: Wanted = classes
            .iter()
            .map(|(id, class)| {
                let singles = approvals.get(id).into_iter().flatten();
                let throws = class.direct.iter().chain(singles).copied().collect();
                (*id, ClassRoutes { throws })
            })
            .collect();
        let mut what = None;
        for _ in 0..ROUNDS {
            let lost = network.inspect(&self.namespace, &wanted).await?;
            self.say_broken(broken(&lost))?;
            // Where that failed the last time.
            self.use_pair(network.device(), network.inner_device())?;
            if lost.is_empty() {
                let contested = false;
                return Ok(Mended { what, contested });
            }
            self.health.repairs().missing = Some(summary(&lost));
            what.get_or_insert_with(|| summary(&lost));
            if lost.contains(&Lost::Pair) {
                network.restore_pair(&self.namespace).await?;
                self.use_pair(network.device(), network.inner_device())?;
            }
            network.restore(&self.namespace, &lost).await?;
        }
        let contested = true;
        Ok(Mended { what, contested })
    }

    fn use_pair(&self, device: u32, inner_device: u32) -> Result<(), StartError> {
        let mut settings = self.maps.settings()?;
        if (settings.device, settings.inner_device) != (device, inner_device) {
            self.returning.attach(device)?;
            settings.device = device;
            settings.inner_device = inner_device;
            self.maps.set_settings(&settings)?;
        }
        Ok(())
    }

    /// Tells the kernel programs which flows to refuse. To be called with the network locked.
    fn say_broken(&self, broken: Broken) -> Result<(), StartError> {
        let mut said = self.health.broken.lock().expect("nothing panics with it");
        if *said != broken {
            let mut settings = self.maps.settings()?;
            settings.broken = broken.bits();
            self.maps.set_settings(&settings)?;
            *said = broken;
        }
        Ok(())
    }

    /// What [`Capture::mend`] has done since the start.
    pub fn repairs(&self) -> Repairs {
        self.health.repairs().clone()
    }

    /// Whether the Unix sockets of resolvers are closed to apps.
    pub fn closes_doors(&self) -> bool {
        self.pins.join("links/on_connect_unix").exists()
    }

    /// What of the host's routing rules stands in the way.
    pub async fn conflicts(&self) -> Result<Vec<Conflict>, NetworkError> {
        let classes: Vec<_> = self.classes.lock().await.keys().copied().collect();
        self.network.lock().await.tables().conflicts(&classes).await
    }
}

impl Health {
    /// What the kernel programs were told is no longer so.
    pub(super) fn forget(&self) {
        *self.broken.lock().expect("nothing panics with it") = Broken::default();
    }

    fn repairs(&self) -> MutexGuard<'_, Repairs> {
        self.repairs.lock().expect("nothing panics with it")
    }
}
