//! One instance for a network namespace.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::StartError;

/// The lock of a network namespace, in a folder where only root can make files.
pub(super) struct Claim {
    _lock: Flock<File>,
    path: PathBuf,
}

impl Claim {
    pub(super) fn take(cookie: u64) -> Result<Self, StartError> {
        let path = PathBuf::from(format!("/run/offramp-{cookie}.lock"));
        let failed = |source| StartError::Lock {
            path: path.clone(),
            source,
        };
        // The daemon that held it may remove the file between our open and our lock.
        for _ in 0..3 {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)
                .map_err(failed)?;
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, Errno::EWOULDBLOCK)) => return Err(StartError::Busy),
                Err((_, errno)) => return Err(failed(errno.into())),
            };
            let ours = lock.metadata().map_err(failed)?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
                return Ok(Self { _lock: lock, path });
            }
        }
        Err(StartError::Busy)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
