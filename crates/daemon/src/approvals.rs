//! The addresses of excluded names: which classes reach them directly, for how long, for whom.

mod journal;
mod rules;
mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use offramp_intercept::{Capture, ClassId, StartError};
use offramp_rules::DomainName;
use tokio::sync::Mutex;

use self::journal::{Journal, Kept};
pub(crate) use self::rules::is_openable;
pub(crate) use self::shown::Shown;
use crate::budget::{Budget, Reached, Share};

/// Addresses at one time, of all classes; each is a route.
const ADDRESSES: usize = 16_384;
/// Names that are remembered for one address of a class: by them it is known whether it stays
/// approved when rules change.
const NAMES: usize = 8;
/// How long an address has to have been unused, and how often it is looked whether it is.
const IDLE: Duration = Duration::from_secs(60);
/// How often somebody who may have no more addresses has it looked which are not used.
const RECLAIM: Duration = Duration::from_secs(1);

/// One for the whole daemon.
pub(crate) struct Approvals {
    budget: Arc<Budget>,
    /// Held while the kernel programs are told.
    ledger: Mutex<Ledger>,
}

struct Ledger {
    held: BTreeMap<Single, Approval>,
    journal: Journal,
    /// When somebody was out of addresses last.
    reclaimed: Duration,
}

/// A target of a class.
pub(crate) type Single = (ClassId, IpAddr);

/// Why an address is approved, and until when. Times are those of CLOCK_MONOTONIC.
struct Approval {
    names: BTreeSet<DomainName>,
    users: BTreeMap<u32, Share>,
    answered: Duration,
    until: Duration,
}

/// An answer that an app gets.
pub(crate) struct Answered<'a> {
    pub(crate) class: ClassId,
    pub(crate) uid: u32,
    pub(crate) name: &'a DomainName,
}

/// Why an address is not approved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotApproved {
    #[error("{0}")]
    Limit(Reached),
    #[error(transparent)]
    Kernel(#[from] StartError),
}

impl Approvals {
    /// No addresses yet; what is approved is written down in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            budget: Budget::new(ADDRESSES),
            ledger: Mutex::new(Ledger {
                held: BTreeMap::new(),
                journal: Journal::new(folder),
                reclaimed: Duration::ZERO,
            }),
        }
    }

    /// Approves the address of a name for as long as the answer lives.
    pub(crate) async fn approve(
        &self,
        capture: &Capture,
        answered: &Answered<'_>,
        address: IpAddr,
        life: Duration,
    ) -> Result<(), NotApproved> {
        let mut ledger = self.ledger.lock().await;
        let single = (answered.class, address);
        let known = ledger.held.get(&single);
        let share = match known.is_some_and(|known| known.users.contains_key(&answered.uid)) {
            true => None,
            false => Some(self.share(capture, &mut ledger, answered.uid).await?),
        };
        if !capture.approve(answered.class, address).await? {
            ledger.held.remove(&single);
            return Ok(());
        }
        ledger.note(single, answered, share, life);
        Ok(())
    }

    /// Room for one more address of this user, where need be that of one that is not used.
    async fn share(
        &self,
        capture: &Capture,
        ledger: &mut Ledger,
        uid: u32,
    ) -> Result<Share, NotApproved> {
        let limit = match self.budget.take(uid) {
            Ok(share) => return Ok(share),
            Err(limit) => limit,
        };
        let now = monotonic();
        if now < ledger.reclaimed + RECLAIM {
            return Err(NotApproved::Limit(limit));
        }
        ledger.reclaimed = now;
        let own = |approval: &Approval| {
            approval.users.keys().eq([&uid]) && approval.answered + IDLE <= now
        };
        ledger.retire(capture, own).await?;
        self.budget.take(uid).map_err(NotApproved::Limit)
    }

    /// Takes back what no answer and no flow needs any more.
    pub(crate) async fn retire(&self, capture: &Capture) -> Result<(), StartError> {
        let now = monotonic();
        let mut ledger = self.ledger.lock().await;
        let retired = ledger.retire(capture, |approval| approval.until <= now);
        retired.await?;
        ledger.write();
        Ok(())
    }

    /// Takes back the addresses that `stays` says no to for all of their names.
    pub(crate) async fn recheck(
        &self,
        capture: &Capture,
        stays: impl Fn(ClassId, &DomainName) -> bool,
    ) -> Result<(), StartError> {
        let mut ledger = self.ledger.lock().await;
        let goes = |(single, approval): (&Single, &Approval)| {
            let mut names = approval.names.iter();
            (!names.any(|name| stays(single.0, name))).then_some(*single)
        };
        let gone: Vec<Single> = ledger.held.iter().filter_map(goes).collect();
        capture.disapprove(&gone).await?;
        ledger.forget(&gone);
        ledger.write();
        Ok(())
    }

    /// Approves for another class of the same processes what one has; `stays` as above.
    pub(crate) async fn carry(
        &self,
        capture: &Capture,
        (from, to): (ClassId, ClassId),
        stays: impl Fn(ClassId, &DomainName) -> bool,
    ) -> Result<(), StartError> {
        let mut ledger = self.ledger.lock().await;
        let of_class = |(single, _): &(&Single, &Approval)| single.0 == from;
        let carried: Vec<Kept> = ledger
            .held
            .iter()
            .filter(of_class)
            .map(|((_, address), approval)| Kept::of((to, *address), approval))
            .filter(|kept| !ledger.held.contains_key(&(to, kept.address)))
            .collect();
        for kept in carried {
            let names = kept.names().filter(|name| stays(to, name)).collect();
            if let Some(approval) = self.take_up(&kept, names)
                && capture.approve(to, kept.address).await?
            {
                ledger.held.insert((to, kept.address), approval);
                ledger.journal.stale();
            }
        }
        Ok(())
    }

    /// Forgets those of a class that is gone.
    pub(crate) async fn forget(&self, class: ClassId) {
        let mut ledger = self.ledger.lock().await;
        ledger.held.retain(|(of, _), _| *of != class);
        ledger.journal.stale();
    }

    /// Goes on with what an earlier run, or another daemon, has written down and the kernel
    /// programs have. To be called before any class is defined.
    pub(crate) async fn restore(&self, capture: &Capture) -> Result<(), StartError> {
        let mut ledger = self.ledger.lock().await;
        ledger.held.clear();
        let left: BTreeSet<Single> = capture.left_approvals().into_iter().collect();
        for kept in ledger.journal.read() {
            let Some(single) = kept.single().filter(|single| left.contains(single)) else {
                continue;
            };
            if let Some(approval) = self.take_up(&kept, kept.names().collect()) {
                ledger.add(single, approval);
            }
        }
        let singles: Vec<Single> = ledger.held.keys().copied().collect();
        capture.adopt_approvals(&singles).await?;
        ledger.journal.stale();
        Ok(())
    }

    /// None: no name is left, or nobody has room for it.
    fn take_up(&self, kept: &Kept, names: BTreeSet<DomainName>) -> Option<Approval> {
        let shares = kept.users.iter().map(|uid| (*uid, self.budget.take(*uid)));
        let users: BTreeMap<u32, Share> = shares
            .filter_map(|(uid, share)| Some((uid, share.ok()?)))
            .collect();
        (!names.is_empty() && !users.is_empty()).then(|| Approval {
            names,
            users,
            answered: Duration::from_secs(kept.answered),
            until: Duration::from_secs(kept.until),
        })
    }
}

impl Ledger {
    fn note(
        &mut self,
        single: Single,
        answered: &Answered<'_>,
        share: Option<Share>,
        life: Duration,
    ) {
        let now = monotonic();
        let is_new_user = share.is_some();
        let approval = self.held.entry(single).or_insert_with(|| Approval {
            names: BTreeSet::new(),
            users: BTreeMap::new(),
            answered: now,
            until: now,
        });
        approval.answered = now;
        approval.until = approval.until.max(now + life);
        approval
            .users
            .extend(share.map(|share| (answered.uid, share)));
        let is_new_name = approval.names.len() < NAMES && !approval.names.contains(answered.name);
        if is_new_name {
            approval.names.insert(answered.name.clone());
        }
        // At once: a daemon that is killed must not forget why an address is approved.
        match is_new_user || is_new_name {
            true => self.journal.append(&Kept::of(single, approval)),
            false => self.journal.stale(),
        }
    }

    fn add(&mut self, single: Single, approval: Approval) {
        match self.held.entry(single) {
            std::collections::btree_map::Entry::Vacant(free) => drop(free.insert(approval)),
            std::collections::btree_map::Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.until = known.until.max(approval.until);
                known.answered = known.answered.max(approval.answered);
                known.names.extend(approval.names);
                known.users.extend(approval.users);
            }
        }
    }

    /// Takes back those of the chosen ones that nobody uses.
    async fn retire(
        &mut self,
        capture: &Capture,
        choose: impl Fn(&Approval) -> bool,
    ) -> Result<(), StartError> {
        let chosen = self.held.iter().filter(|(_, approval)| choose(approval));
        let chosen: Vec<Single> = chosen.map(|(single, _)| *single).collect();
        if chosen.is_empty() {
            return Ok(());
        }
        let gone = capture.retire(&chosen, IDLE).await?;
        self.forget(&gone);
        let next = monotonic() + IDLE;
        for single in &chosen {
            if let Some(used) = self.held.get_mut(single) {
                used.until = used.until.max(next);
            }
        }
        Ok(())
    }

    fn forget(&mut self, gone: &[Single]) {
        for single in gone {
            self.held.remove(single);
            self.journal.stale();
        }
    }

    fn write(&mut self) {
        let held = self.held.iter();
        self.journal
            .write(held.map(|(single, approval)| Kept::of(*single, approval)));
    }
}

/// Forgets what earlier runs have written down.
pub(crate) fn remove(folder: &Path) {
    journal::remove(folder);
}

/// The time since the machine has started, without that of sleep.
fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock exists since Linux 2.6");
    now.into()
}
