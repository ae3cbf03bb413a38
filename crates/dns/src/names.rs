use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use offramp_rules::{DomainName, Prefix};

pub use self::table::NoAddress;
use self::table::Table;

pub(crate) mod file;
mod table;

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
/// as a [`Held`] lives. The lock is held for map operations only.
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
    /// after a restart. `asker` is the user who asks: one other than root has addresses for a quarter
    /// of the names at most.
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

    /// The name that `address` stands for; asking counts as use.
    pub fn name_of(&self, address: IpAddr) -> Option<DomainName> {
        let now = Instant::now();
        self.lock().of(address)?.name_of(address, now)
    }

    /// Whether `address` lies in a synthetic block, known or not. A v4-mapped IPv6 address
    /// counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.v4.contains(address) || self.v6.is_some_and(|block| block.contains(address))
    }

    /// Claims `address` for a flow; `None` when it stands for nothing.
    pub fn hold(self: &Arc<Self>, address: IpAddr) -> Option<Held> {
        let address = address.to_canonical();
        let name = self.lock().of(address)?.hold(address)?;
        Some(Held {
            names: Arc::clone(self),
            address,
            name,
        })
    }

    /// Writes one line per known address: name, address, seconds without use; the latest used
    /// first.
    pub fn save(&self, writer: impl Write) -> io::Result<()> {
        let now = Instant::now();
        let lines = {
            let tables = self.lock();
            let mut lines = tables.v4.latest_first(now);
            lines.extend(tables.v6.iter().flat_map(|table| table.latest_first(now)));
            lines
        };
        file::write(writer, &lines)
    }

    /// Takes over what [`Names::save`] wrote and returns how many names that were. Lines that
    /// are torn, not ours or too many are passed over; what is known already stays.
    pub fn load(&self, reader: impl Read) -> io::Result<usize> {
        let limit = {
            let tables = self.lock();
            let v6 = tables.v6.as_ref().map_or(0, Table::capacity);
            tables.v4.capacity().saturating_add(v6)
        };
        let lines = file::read(reader, limit)?;
        let now = Instant::now();
        let mut tables = self.lock();
        let taken = lines.iter().rev().filter(|line| {
            tables
                .of(line.address)
                .is_some_and(|table| table.restore(line, now))
        });
        Ok(taken.count())
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Every change of the table is complete or not begun when something could panic.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
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
            table.release(self.address, now);
        }
    }
}

#[cfg(test)]
mod tests;
