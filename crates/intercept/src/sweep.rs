//! Brings under the labels what was there before them: running processes and their open sockets.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use libbpf_rs::{MapCore, MapHandle};
use socket2::SockRef;

use crate::capture::StartError;
use crate::label::Swept;
use crate::maps::{MapError, bytes, delete, get, open, put, to_word, value};
use crate::programs::{self, skeleton::types};

/// How many processes get a label in one run of the iterator.
const AT_ONCE: usize = 16_384;

/// Sockets of captured processes are put under their class.
const CLAIM: u32 = 0;
/// Sockets that no captured process holds are given back where their class ends.
const RELEASE: u32 = 1;
/// Sockets that captured processes alone have open, and none had before, are theirs.
const DOOM: u32 = 2;
/// What is left to do is told.
const REPORT: u32 = 3;

/// The maps of the iterators. One change at a time.
pub(crate) struct Sweeper {
    relabels: MapHandle,
    sweeps: MapHandle,
    wholes: MapHandle,
    pins: PathBuf,
    running: Mutex<()>,
}

/// `struct remark` of the kernel programs.
struct Remark {
    cookie: u64,
    process: u32,
    descriptor: u32,
    mark: u32,
    ended: bool,
}

impl Sweeper {
    pub(crate) fn open(pins: &Path) -> Result<Self, MapError> {
        Ok(Self {
            relabels: open(pins, "relabels")?,
            sweeps: open(pins, "sweeps")?,
            wholes: open(pins, "wholes")?,
            pins: pins.to_owned(),
            running: Mutex::new(()),
        })
    }

    /// Changes labels; see [`crate::Capture::relabel`].
    pub(crate) fn relabel(
        &self,
        changes: &[(u32, u64, types::label)],
    ) -> Result<usize, StartError> {
        let _running = self.lock();
        let mut changed = BTreeSet::new();
        for changes in changes.chunks(AT_ONCE) {
            for (pid, expected, label) in changes {
                let entry = types::relabel {
                    expected: *expected,
                    label: to_word(*label),
                };
                put(&self.relabels, "relabels", pid, bytes(&entry))?;
            }
            let written = programs::iterate(&self.pins, "relabel");
            for (pid, ..) in changes {
                delete(&self.relabels, "relabels", pid)?;
            }
            let written = written?;
            changed.extend(written.chunks_exact(4).filter_map(value::<u32>));
        }
        Ok(changed.len())
    }

    /// Brings sockets under what their processes carry; see [`crate::Capture::sweep`].
    pub(crate) fn sweep(&self) -> Result<Swept, StartError> {
        let _running = self.lock();
        let before: types::sweep = get(&self.sweeps, "sweeps", &0u32)?.unwrap_or_default();
        let fresh = types::sweep {
            // Never zero, in the 24 bits that owners have for it.
            number: before.number % 0xff_fffe + 1,
            ..types::sweep::default()
        };
        put(&self.sweeps, "sweeps", &0u32, bytes(&fresh))?;
        self.forget_wholes()?;
        self.pass(CLAIM)?;
        self.pass(RELEASE)?;
        self.pass(DOOM)?;
        programs::iterate(&self.pins, "mend_tcp")?;
        programs::iterate(&self.pins, "mend_udp")?;
        for remark in self.pass(REPORT)?.chunks_exact(24).filter_map(read) {
            if let Err(error) = remark.apply() {
                // Its next use of the socket goes to the same end by the hooks.
                tracing::debug!(pid = remark.process, error = %error, "mark of a socket not set");
            }
        }
        self.forget_wholes()?;
        let done: types::sweep = get(&self.sweeps, "sweeps", &0u32)?.unwrap_or_default();
        Ok(Swept {
            ended: done.ended,
            claimed: done.claimed,
            released: done.released,
        })
    }

    fn pass(&self, pass: u32) -> Result<Vec<u8>, StartError> {
        let now: types::sweep = get(&self.sweeps, "sweeps", &0u32)?.unwrap_or_default();
        let next = types::sweep { pass, ..now };
        put(&self.sweeps, "sweeps", &0u32, bytes(&next))?;
        Ok(programs::iterate(&self.pins, "claim_sockets")?)
    }

    fn forget_wholes(&self) -> Result<(), MapError> {
        let limit = self.wholes.max_entries() as usize;
        let known: Vec<u64> = self
            .wholes
            .keys()
            .take(limit)
            .filter_map(|key| value(&key))
            .collect();
        known
            .iter()
            .try_for_each(|address| delete(&self.wholes, "wholes", address))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ()> {
        self.running.lock().expect("nothing panics while it sweeps")
    }
}

fn read(line: &[u8]) -> Option<Remark> {
    Some(Remark {
        cookie: value(line)?,
        process: value(line.get(8..)?)?,
        descriptor: value(line.get(12..)?)?,
        mark: value(line.get(16..)?)?,
        ended: value::<u32>(line.get(20..)?)? != 0,
    })
}

impl Remark {
    /// Sets the mark through a descriptor of our own for the same socket.
    fn apply(&self) -> io::Result<()> {
        let process = open_process(self.process)?;
        let socket = take(&process, self.descriptor)?;
        let socket = SockRef::from(&socket);
        // Its process may have closed it meanwhile, and have opened another.
        if socket.cookie()? != self.cookie {
            return Ok(());
        }
        socket.set_mark(self.mark)?;
        if self.ended {
            disconnect(&socket)?;
        }
        Ok(())
    }
}

/// An MPTCP socket whose flows are gone waits for others: this is what tells its program.
#[expect(unsafe_code, reason = "calls connect")]
fn disconnect(socket: &SockRef<'_>) -> io::Result<()> {
    // SAFETY: zeroes are an address of no family, which connect() takes for the end.
    let result = unsafe {
        let nowhere: libc::sockaddr = std::mem::zeroed();
        let length = libc::socklen_t::try_from(size_of_val(&nowhere)).expect("16 fits");
        libc::connect(socket.as_raw_fd(), &raw const nowhere, length)
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[expect(unsafe_code, reason = "calls pidfd_getfd")]
fn take(process: &OwnedFd, descriptor: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), descriptor, 0) };
    match i32::try_from(taken) {
        // SAFETY: the kernel has just opened it for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[expect(unsafe_code, reason = "calls pidfd_open")]
fn open_process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(opened) {
        // SAFETY: the kernel has just opened it for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
