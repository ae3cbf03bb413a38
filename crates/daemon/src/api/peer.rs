use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::UnixStream;

/// The process that asks, as it was when it connected.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Process id; 0 where it lives in a PID namespace that this one cannot see.
    pub pid: u32,
    /// Effective user id.
    pub uid: u32,
    /// A handle that stays with this process, whoever has its number later.
    pub pidfd: OwnedFd,
}

impl Peer {
    /// Who is at the other end; fails with ESRCH where the process is gone.
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = getsockopt(stream, sockopt::PeerCredentials)?;
        let pidfd = match getsockopt(stream, sockopt::PeerPidfd) {
            Ok(pidfd) => pidfd,
            // Kernels before 6.5 do not know the option.
            Err(Errno::ENOPROTOOPT) => open(credentials.pid())?,
            Err(errno) => return Err(errno.into()),
        };
        Ok(Self {
            pid: credentials.pid().try_into().unwrap_or(0),
            uid: credentials.uid(),
            pidfd,
        })
    }

    /// True for root, who may see and do everything.
    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0
    }
}

#[expect(unsafe_code, reason = "no safe wrapper of pidfd_open in the tree")]
fn open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    use std::os::fd::{FromRawFd, RawFd};

    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
