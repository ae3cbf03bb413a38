//! The daemon as a process: who it is, and its end.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::failure::{FAILED, Failure};

/// The daemon lets flows end for 5 s before it cuts them.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// How long a daemon that does not accept is waited for.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// A daemon that listens.
#[derive(Debug)]
pub(super) struct Daemon {
    pid: Pid,
    /// Readable when the process has ended.
    pidfd: OwnedFd,
}

impl Daemon {
    /// The process that listens at this socket; none where nobody does.
    pub(super) async fn at(socket: &Path) -> Result<Option<Self>, Failure> {
        let Ok(Ok(stream)) = timeout(CONNECT_LIMIT, UnixStream::connect(socket)).await else {
            return Ok(None);
        };
        let unknown = |error: std::io::Error| {
            Failure::new(
                FAILED,
                format!(
                    "cannot tell which process listens at {}: {error}",
                    socket.display()
                ),
            )
            .hint("stop the daemon, then run this again")
        };
        let pid = getsockopt(&stream, sockopt::PeerCredentials)
            .map_err(|errno| unknown(errno.into()))?
            .pid();
        if pid <= 0 {
            return Err(unknown(std::io::Error::other(
                "it is in another PID namespace",
            )));
        }
        let pidfd =
            getsockopt(&stream, sockopt::PeerPidfd).map_err(|errno| unknown(errno.into()))?;
        Ok(Some(Self {
            pid: Pid::from_raw(pid),
            pidfd,
        }))
    }

    /// What is removed is that of the network namespace of the caller.
    pub(super) fn check_namespace(&self) -> Result<(), Failure> {
        let namespace = |process: String| {
            let path = PathBuf::from("/proc").join(process).join("ns/net");
            std::fs::metadata(path).map(|facts| (facts.dev(), facts.ino()))
        };
        match (namespace("self".into()), namespace(self.pid.to_string())) {
            (Ok(own), Ok(its)) if own != its => Err(Failure::new(
                FAILED,
                format!(
                    "the daemon (process {}) serves another network namespace",
                    self.pid
                ),
            )
            .hint(format!(
                "run this there: nsenter --net --target {} …",
                self.pid
            ))),
            _ => Ok(()),
        }
    }

    /// Asks it to end, and waits until it has.
    pub(super) fn stop(self) -> Result<(), Failure> {
        eprintln!(
            "offramp: stopping the daemon (process {}); its flows have 5 s to end...",
            self.pid
        );
        // The pidfd tells below whether it has ended already.
        if let Err(error) = kill(self.pid, Signal::SIGTERM)
            && error != nix::Error::ESRCH
        {
            return Err(Failure::new(
                FAILED,
                format!("cannot stop the daemon (process {}): {error}", self.pid),
            ));
        }
        match ended(&self.pidfd) {
            Ok(true) => Ok(()),
            Err(error) => Err(Failure::new(
                FAILED,
                format!("cannot wait for the daemon (process {}): {error}", self.pid),
            )),
            Ok(false) => Err(Failure::new(
                FAILED,
                format!(
                    "the daemon (process {}) does not end within {} s; nothing is removed",
                    self.pid,
                    STOP_LIMIT.as_secs()
                ),
            )
            .hint(format!(
                "end it with `kill -9 {}`, then run this again",
                self.pid
            ))),
        }
    }
}

/// Waits until the process has ended; false when the time is over.
fn ended(pidfd: &OwnedFd) -> nix::Result<bool> {
    let deadline = Instant::now() + STOP_LIMIT;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(pidfd, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX);
        match epoll.wait(&mut [EpollEvent::empty()], left) {
            Err(nix::Error::EINTR) => {}
            waited => return waited.map(|count| count > 0),
        }
    }
}
