use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use offramp_rules::{DomainName, Prefix};

pub use self::list::{Known, Listed};
pub use self::table::NoAddress;
use self::table::{ROOT, Table};

mod askers;
pub(crate) mod file;
mod list;
mod table;
mod uses;

/// Which of the two kinds of address is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4, an A record.
    V4,
    /// IPv6, an AAAA record.
    V6,
}

/// Which name a synthetic address stands for.
///
/// An address keeps its name for at least ten minutes after the last answer or use, and as long
/// as a [`Held`] lives. It stands for a name to the users who asked for it, to root, and where root
/// asked to everybody; to others it is like one that stands for nothing. The lock is held for map
/// operations only.
#[derive(Debug)]
pub struct Names {
    tables: Mutex<Tables>,
    v4: Prefix,
    v6: Option<Prefix>,
}

#[derive(Debug)]
struct Tables {
    v4: Table,
    v6: Option<Table>,
}

/// A flow's claim on a synthetic address, which is not given to another name while this lives.
#[derive(Debug)]
pub struct Held {
    names: Arc<Names>,
    address: IpAddr,
    name: DomainName,
    /// The user whose part in the entry it is; none: root's, who has none.
    by: Option<u32>,
}

impl Names {
    /// Addresses come from the two blocks without the first and last 256 of each; at most
    /// `capacity` names per family are known at a time. Capacities of up to half a block keep
    /// the search for a free address short.
    pub fn new(v4: Prefix, v6: Option<Prefix>, capacity: usize) -> Self {
        Self {
            tables: Mutex::new(Tables {
                v4: Table::new(v4, capacity),
                v6: v6.map(|block| Table::new(block, capacity)),
            }),
            v4,
            v6,
        }
    }

    /// The address that stands for `name`: the same one while it is known, and mostly the same
    /// after a restart. `asker` is the user who asks: one other than root has a quarter of the names
    /// at most, those that others have asked for too included.
    pub fn address_for(
        &self,
        name: &DomainName,
        family: Family,
        asker: u32,
    ) -> Result<IpAddr, NoAddress> {
        let now = Instant::now();
        let mut tables = self.lock();
        let table = tables.family(family).ok_or(NoAddress::NoBlock)?;
        table.address_for(name, asker, now)
    }

    /// The name that `address` stands for as far as `asker` may know; asking counts as use.
    pub fn name_of(&self, address: IpAddr, asker: u32) -> Option<DomainName> {
        let now = Instant::now();
        self.lock().of(address)?.name_of(address, asker, now)
    }

    /// The same, and asking changes nothing.
    pub fn peek(&self, address: IpAddr, asker: u32) -> Option<DomainName> {
        self.lock().of(address)?.peek(address, asker).cloned()
    }

    /// The addresses that stand for `name` as far as `asker` may know; asking changes nothing.
    pub fn addresses_of(&self, name: &DomainName, asker: u32) -> Vec<IpAddr> {
        let tables = self.lock();
        let v4 = tables.v4.find(name, asker);
        let v6 = tables.v6.as_ref().and_then(|v6| v6.find(name, asker));
        v4.into_iter().chain(v6).collect()
    }

    /// Whether `address` lies in a synthetic block, known or not. A v4-mapped IPv6 address
    /// counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.v4.contains(address) || self.v6.is_some_and(|block| block.contains(address))
    }

    /// Claims `address` for a flow of `asker`'s; `None` when it stands for nothing to that user.
    pub fn hold(self: &Arc<Self>, address: IpAddr, asker: u32) -> Option<Held> {
        let address = address.to_canonical();
        let (name, by) = self.lock().of(address)?.hold(address, asker)?;
        Some(Held {
            names: Arc::clone(self),
            address,
            name,
            by,
        })
    }

    /// Claims the address of `name` for a flow of `asker`'s that uses it already.
    pub fn hold_name(
        self: &Arc<Self>,
        name: &DomainName,
        family: Family,
        asker: u32,
    ) -> Option<Held> {
        let address = self.lock().family(family)?.find(name, ROOT)?;
        self.hold(address, asker)
            .or_else(|| self.hold(address, ROOT))
    }

    /// Writes one line per known address: name, address, seconds without use, and the users who
    /// asked, each with seconds without use; the latest used first.
    pub fn save(&self, writer: impl Write) -> io::Result<()> {
        let now = Instant::now();
        let lines = {
            let mut tables = self.lock();
            let mut lines = tables.v4.latest_first(now);
            let v6 = tables.v6.as_mut();
            lines.extend(v6.into_iter().flat_map(|table| table.latest_first(now)));
            lines
        };
        file::write(writer, &lines)
    }

    /// Writes lines for what is new since the last call, or since [`Names::save`]; the latest last.
    /// False: there is more than is remembered, and `save` is to be called.
    pub fn save_new(&self, writer: impl Write) -> io::Result<bool> {
        let now = Instant::now();
        let lines = {
            let mut tables = self.lock();
            let v4 = tables.v4.take_unsaved(now);
            let v6 = tables.v6.as_mut().map(|table| table.take_unsaved(now));
            match (v4, v6.unwrap_or_else(|| Some(Vec::new()))) {
                (Some(mut lines), Some(v6)) => {
                    lines.extend(v6);
                    lines
                }
                _ => return Ok(false),
            }
        };
        file::write(writer, &lines)?;
        Ok(true)
    }

    /// Takes over what [`Names::save`] and then [`Names::save_new`] wrote, and returns how many
    /// names that were. Lines that are torn, not ours or too many are passed over; what is known
    /// already stays.
    pub fn load(&self, saved: impl Read, new: impl Read) -> io::Result<usize> {
        let limit = {
            let tables = self.lock();
            let v6 = tables.v6.as_ref().map_or(0, Table::capacity);
            tables.v4.capacity().saturating_add(v6)
        };
        // The longest unused first, as they were saved.
        let mut lines = file::read(saved, limit)?;
        lines.reverse();
        lines.extend(file::read(new, limit)?);
        Ok(self.restore(&lines, Instant::now()))
    }

    /// The longest unused first.
    fn restore(&self, lines: &[file::Line], now: Instant) -> usize {
        let mut tables = self.lock();
        let before = tables.count();
        // Of two lines for one address or name the later one is true.
        let mut true_ones: Vec<_> = lines.iter().rev().collect();
        true_ones.retain(|line| {
            let table = tables.of(line.address);
            table.is_some_and(|table| table.restore(line, now))
        });
        let mut askers = Vec::new();
        for line in true_ones.into_iter().rev() {
            if let Some(table) = tables.of(line.address) {
                table.settle(line, now);
            }
            let of_line = line.askers.iter();
            askers.extend(of_line.map(|(uid, unused)| (*unused, *uid, line)));
        }
        askers.sort_by_key(|(unused, ..)| std::cmp::Reverse(*unused));
        for (unused, uid, line) in askers {
            if let Some(table) = tables.of(line.address) {
                table.restore_asker(line, uid, unused, now);
            }
        }
        tables.count() - before
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Every change of the table is complete or not begun when something could panic.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn count(&self) -> usize {
        let v6 = self.v6.as_ref().map_or(0, |table| table.entries.len());
        self.v4.entries.len() + v6
    }

    fn family(&mut self, family: Family) -> Option<&mut Table> {
        match family {
            Family::V4 => Some(&mut self.v4),
            Family::V6 => self.v6.as_mut(),
        }
    }

    fn of(&mut self, address: IpAddr) -> Option<&mut Table> {
        self.family(match address.to_canonical() {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        })
    }
}

impl Held {
    /// The name that the address stands for.
    pub fn name(&self) -> &DomainName {
        &self.name
    }

    /// The synthetic address.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let now = Instant::now();
        if let Some(table) = self.names.lock().of(self.address) {
            table.release(self.address, self.by, now);
        }
    }
}

#[cfg(test)]
mod tests;
