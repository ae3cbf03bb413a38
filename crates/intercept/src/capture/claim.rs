use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::StartError;

/// The lock of a network namespace, in a folder where only root can make files.
pub(super) struct Claim {
    /// None: another process has it from this one.
    lock: Mutex<Option<File>>,
    /// Whether the file goes with this claim, and not with the process that has passed it on.
    is_own: AtomicBool,
    path: PathBuf,
}

impl Claim {
    pub(super) fn take(cookie: u64) -> Result<Self, StartError> {
        let path = path(cookie);
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
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(StartError::Busy),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            if is_at(&file, &path).map_err(failed)? {
                return Ok(Self::of(file, path, true));
            }
        }
        Err(StartError::Busy)
    }

    /// The lock as another process holds it and has passed it on: of one open file.
    pub(super) fn adopt(cookie: u64, passed: OwnedFd) -> Result<Self, StartError> {
        let path = path(cookie);
        let failed = |source| StartError::Lock {
            path: path.clone(),
            source,
        };
        let file = File::from(passed);
        match file.try_lock() {
            Ok(()) if is_at(&file, &path).map_err(failed)? => Ok(Self::of(file, path, false)),
            Ok(()) | Err(TryLockError::WouldBlock) => Err(StartError::Busy),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// The same lock for another process.
    pub(super) fn pass(&self) -> io::Result<OwnedFd> {
        let lock = self.lock.lock().expect("nothing panics with the lock");
        let file = lock.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(file.try_clone()?.into())
    }

    /// Leaves the lock to the process that it was passed to: closing does not unlock it there.
    pub(super) fn leave(&self) {
        let mut lock = self.lock.lock().expect("nothing panics with the lock");
        lock.take();
    }

    /// The process that has passed it on has left it.
    pub(super) fn keep(&self) {
        self.is_own.store(true, Ordering::Relaxed);
    }

    fn of(file: File, path: PathBuf, is_own: bool) -> Self {
        Self {
            lock: Mutex::new(Some(file)),
            is_own: is_own.into(),
            path,
        }
    }
}

fn path(cookie: u64) -> PathBuf {
    PathBuf::from(format!("/run/offramp-{cookie}.lock"))
}

fn is_at(file: &File, path: &PathBuf) -> io::Result<bool> {
    let ours = file.metadata()?.ino();
    Ok(fs::metadata(path).is_ok_and(|there| there.ino() == ours))
}

impl Drop for Claim {
    fn drop(&mut self) {
        let lock = self.lock.get_mut();
        if *self.is_own.get_mut() && lock.is_ok_and(|lock| lock.is_some()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
