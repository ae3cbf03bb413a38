//! Single targets that a class reaches directly: the addresses of excluded names.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use offramp_rules::Prefix;

use super::{Capture, StartError, monotonic};
use crate::class::ClassId;
use crate::maps::Approval;
use crate::programs::{LoadError, iterate};

/// A target of a class.
type Single = (ClassId, IpAddr);

impl Capture {
    /// Lets a class reach `target` directly, beyond what [`crate::Class::direct`] lists. False: it
    /// does already by that list, or is gone.
    pub async fn approve(&self, id: ClassId, target: IpAddr) -> Result<bool, StartError> {
        let classes = self.classes.lock().await;
        let covers = |block: &Prefix| block.contains(target);
        if classes
            .get(&id)
            .is_none_or(|class| class.direct.iter().any(covers))
        {
            return Ok(false);
        }
        let mut approvals = self.approvals.lock().await;
        let of_class = approvals.entry(id).or_default();
        let target = Prefix::host(target);
        if !of_class.contains(&target) {
            self.open(id, target).await?;
            of_class.insert(target);
        }
        Ok(true)
    }

    /// Takes back what [`Capture::approve`] gave.
    pub async fn disapprove(&self, singles: &[Single]) -> Result<(), StartError> {
        let mut approvals = self.approvals.lock().await;
        for (id, target) in singles {
            let target = Prefix::host(*target);
            let Some(of_class) = approvals.get_mut(id).filter(|own| own.contains(&target)) else {
                continue;
            };
            self.close(*id, target).await?;
            of_class.remove(&target);
        }
        Ok(())
    }

    /// Takes back those of `singles` that no open flow uses and that nobody has used for `idle`.
    /// Returns what is not approved any more. No flow that goes directly is cut or goes another way.
    pub async fn retire(
        &self,
        singles: &[Single],
        idle: Duration,
    ) -> Result<Vec<Single>, StartError> {
        if self.quiet(singles, idle)?.is_empty() {
            return Ok(Vec::new());
        }
        self.note_uses().await?;
        // Held to the end: who approves one meanwhile waits until it is gone, and has it again.
        let mut approvals = self.approvals.lock().await;
        let mut gone = Vec::new();
        let mut shut = Vec::new();
        for (id, target) in self.quiet(singles, idle)? {
            let single = Prefix::host(target);
            let of_class = approvals.get(&id);
            if of_class.is_some_and(|own| own.contains(&single)) {
                // First: from here on no flow can begin that the look below does not see.
                self.maps.approve(id, single, Approval::Shut)?;
                shut.push((id, target));
            } else {
                gone.push((id, target));
            }
        }
        let looked = match shut.is_empty() {
            true => Ok(()),
            false => self.note_uses().await,
        };
        for (id, target) in shut {
            let single = Prefix::host(target);
            if looked.is_ok() && self.maps.last_use(id, single)?.is_none() {
                self.close(id, single).await?;
                if let Some(of_class) = approvals.get_mut(&id) {
                    of_class.remove(&single);
                }
                gone.push((id, target));
            } else {
                self.maps.approve(id, single, Approval::ByName)?;
            }
        }
        looked.map(|()| gone)
    }

    /// What an earlier run, or another daemon, had approved by [`Capture::approve`].
    pub fn left_approvals(&self) -> Vec<Single> {
        let left = self.maps.approved_by_name().into_iter();
        left.map(|(id, target)| (id, target.address())).collect()
    }

    /// Goes on with these. To be called before any class is defined: what is not among them goes
    /// then.
    pub async fn adopt_approvals(&self, singles: &[Single]) -> Result<(), StartError> {
        let mut known = BTreeMap::<ClassId, BTreeSet<Prefix>>::new();
        for (id, target) in singles {
            let target = Prefix::host(*target);
            self.open(*id, target).await?;
            known.entry(*id).or_default().insert(target);
        }
        *self.approvals.lock().await = known;
        Ok(())
    }

    async fn open(&self, id: ClassId, target: Prefix) -> Result<(), StartError> {
        // The guard first: with the route alone a packet would be dropped.
        self.maps.approve(id, target, Approval::ByName)?;
        let network = self.network.lock().await;
        Ok(network.tables().throw(id, target).await?)
    }

    async fn close(&self, id: ClassId, target: Prefix) -> Result<(), StartError> {
        let network = self.network.lock().await;
        network.tables().unthrow(id, target).await?;
        Ok(self.maps.disapprove(id, target)?)
    }

    fn quiet(&self, singles: &[Single], idle: Duration) -> Result<Vec<Single>, StartError> {
        let now = units(monotonic());
        let idle = units(u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX));
        let mut quiet = Vec::new();
        for (id, target) in singles {
            let used = self.maps.last_use(*id, Prefix::host(*target))?;
            if used.is_none_or(|used| now.saturating_sub(used) >= idle) {
                quiet.push((*id, *target));
            }
        }
        Ok(quiet)
    }

    /// Has the flows that are open noted as uses, also those that say nothing.
    async fn note_uses(&self) -> Result<(), StartError> {
        let pins = self.pins.clone();
        let look = move || {
            iterate(&pins, "note_tcp")?;
            iterate(&pins, "note_udp").map(drop)
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(looked) => Ok(looked?),
            Err(error) => Err(StartError::Load(LoadError::Attach {
                program: "note_tcp".to_owned(),
                source: io::Error::other(error).into(),
            })),
        }
    }
}

/// The time of uses, as the kernel programs have it.
fn units(nanoseconds: u64) -> u32 {
    u32::try_from(nanoseconds >> 30).unwrap_or(u32::MAX)
}
