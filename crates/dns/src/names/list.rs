use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

use offramp_rules::DomainName;

use super::table::{ROOT, Table};
use super::{Family, Names};

/// How many names are looked at with the lock held.
const AT_A_TIME: usize = 1024;

/// A name with its address, as far as the asking user may know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The name.
    pub name: DomainName,
    /// The address that stands for it.
    pub address: IpAddr,
    /// Who has asked for it, in ascending order; of others than root alone root knows.
    pub askers: Vec<u32>,
    /// How long ago it was asked for, or used; of users other than root by themselves.
    pub unused: Duration,
    /// Flows to the address; of users other than root their own.
    pub holders: usize,
}

/// Names, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Those that were asked for, held ones first, then the latest used ones.
    pub names: Vec<Known>,
    /// How many the user has asked for, IPv4 and IPv6; of root, how many there are.
    pub counts: [usize; 2],
    /// How many there may be of that in each family.
    pub most: usize,
    /// There are more than were wanted.
    pub is_cut: bool,
}

impl Names {
    /// The names that `asker` may see and that are `wanted`, at most `most` of them.
    pub fn list(
        &self,
        asker: u32,
        most: usize,
        wanted: impl Fn(&DomainName, IpAddr) -> bool,
    ) -> Listed {
        let mut listed = Listed::default();
        for (number, family) in [Family::V4, Family::V6].into_iter().enumerate() {
            let mut tables = self.lock();
            let Some(table) = tables.family(family) else {
                continue;
            };
            listed.counts[number] = table.share(asker);
            listed.most = match asker {
                ROOT => table.capacity(),
                _ => table.capacity() / 4,
            };
            drop(tables);
            self.list_family(family, asker, most, &wanted, &mut listed);
        }
        listed
    }

    fn list_family(
        &self,
        family: Family,
        asker: u32,
        most: usize,
        wanted: &impl Fn(&DomainName, IpAddr) -> bool,
        listed: &mut Listed,
    ) {
        let now = Instant::now();
        // What root asked for, everybody sees.
        let users = if asker == ROOT {
            vec![None]
        } else {
            vec![Some(asker), Some(ROOT)]
        };
        for (user, is_held) in users
            .into_iter()
            .flat_map(|user| [(user, true), (user, false)])
        {
            let mut before = Some(u64::MAX);
            while let Some(last) = before {
                let mut tables = self.lock();
                let Some(table) = tables.family(family) else {
                    return;
                };
                let some = table.some(user, is_held, 0..=last);
                before = some.last().and_then(|(turn, _)| turn.checked_sub(1));
                for (_, place) in some {
                    let Some(known) = table.known(place, user, asker, now) else {
                        continue;
                    };
                    if !wanted(&known.name, known.address) {
                        continue;
                    }
                    if listed.names.len() >= most {
                        listed.is_cut = true;
                        return;
                    }
                    listed.names.push(known);
                }
            }
        }
    }
}

impl Table {
    /// How many names a user has asked for; of root, how many there are.
    fn share(&self, uid: u32) -> usize {
        match uid {
            ROOT => self.entries.len(),
            uid => self.askers.share(uid),
        }
    }

    /// Some places of a user, or of all, with these turns; the latest used first.
    fn some(
        &self,
        user: Option<u32>,
        is_held: bool,
        turns: RangeInclusive<u64>,
    ) -> Vec<(u64, u128)> {
        let Some(uid) = user else {
            return self.order.some(is_held, turns, AT_A_TIME);
        };
        let keys = (uid, *turns.start())..=(uid, *turns.end());
        let some = self.askers.uses.some(is_held, keys, AT_A_TIME);
        some.into_iter()
            .map(|((_, turn), place)| (turn, place))
            .collect()
    }

    /// What `asker` may know of a place that was found by the part of `user` in it; none where it is
    /// found by the asker's own too.
    fn known(&self, place: u128, user: Option<u32>, asker: u32, now: Instant) -> Option<Known> {
        let entry = self.entries.get(&place)?;
        let of = |uid| entry.claims.iter().find(|claim| claim.uid == uid);
        if user.is_some_and(|user| user != asker) && of(asker).is_some() {
            return None;
        }
        let (used, holders) = match (asker, of(asker), of(ROOT)) {
            (ROOT, ..) => (entry.used, entry.holders),
            (_, Some(own), _) => (own.used, own.holders),
            (_, None, root) => (root?.used, 0),
        };
        let askers = entry.claims.iter().map(|claim| claim.uid);
        let mut askers: Vec<_> = askers
            .filter(|uid| asker == ROOT || *uid == asker || *uid == ROOT)
            .collect();
        askers.sort_unstable();
        Some(Known {
            name: entry.name.clone(),
            address: self.address_at(place),
            askers,
            unused: match holders {
                0 => now.saturating_duration_since(used),
                _ => Duration::ZERO,
            },
            holders,
        })
    }
}
