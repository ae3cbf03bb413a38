//! The names of users and groups.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, getgrouplist};

/// How long a name is believed.
const BELIEVED: Duration = Duration::from_secs(60);
/// How many names of each kind are remembered.
const REMEMBERED: usize = 4096;

type Names = Mutex<HashMap<u32, (Instant, Option<String>)>>;

/// The names that the system's databases have.
#[derive(Default)]
pub(super) struct People {
    users: Names,
    groups: Names,
}

impl People {
    pub(super) fn user(&self, uid: u32) -> Option<String> {
        remember(&self.users, uid, || {
            let user = nix::unistd::User::from_uid(Uid::from_raw(uid)).ok()??;
            Some(user.name)
        })
    }

    pub(super) fn group(&self, gid: u32) -> Option<String> {
        remember(&self.groups, gid, || {
            let group = Group::from_gid(Gid::from_raw(gid)).ok()??;
            Some(group.name)
        })
    }

    /// The primary group and all groups that a user has after a login.
    pub(super) fn groups_of(&self, uid: u32) -> (u32, BTreeSet<u32>) {
        let found = nix::unistd::User::from_uid(Uid::from_raw(uid));
        let Some(user) = found.ok().flatten() else {
            return (uid, BTreeSet::new());
        };
        let name = CString::new(user.name).unwrap_or_default();
        let groups = getgrouplist(&name, user.gid).unwrap_or_default();
        let groups = groups.into_iter().map(Gid::as_raw).collect();
        (user.gid.as_raw(), groups)
    }
}

fn remember(names: &Names, id: u32, ask: impl Fn() -> Option<String>) -> Option<String> {
    if let Some((at, name)) = lock(names).get(&id)
        && at.elapsed() < BELIEVED
    {
        return name.clone();
    }
    let name = ask();
    let mut known = lock(names);
    if known.len() >= REMEMBERED {
        known.clear();
    }
    known.insert(id, (Instant::now(), name.clone()));
    name
}

fn lock(names: &Names) -> MutexGuard<'_, HashMap<u32, (Instant, Option<String>)>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}
