//! The private network namespace that the app-facing sockets live in.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

/// A network namespace, kept alive by a bind mount so that it outlives the daemon: with nobody in
/// it, flows that arrive are refused.
#[derive(Debug)]
pub(crate) struct Namespace {
    file: File,
    home: File,
    path: PathBuf,
}

impl Namespace {
    /// Whether an earlier run left one at `path`.
    pub(crate) fn exists(path: &Path) -> bool {
        statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
    }

    /// Opens what an earlier run left at `path`, or makes a new one.
    pub(crate) fn open_or_create(path: &Path) -> io::Result<Self> {
        if !Self::exists(path) {
            File::create(path)?;
            // A thread of its own, because unshare moves the thread that calls it.
            std::thread::scope(|scope| scope.spawn(|| create(path)).join())
                .map_err(|_| io::Error::other("the thread that makes the namespace panicked"))??;
        }
        Ok(Self {
            file: File::open(path)?,
            home: File::open("/proc/thread-self/ns/net")?,
            path: path.to_owned(),
        })
    }

    /// Runs `work` inside, on this thread. What it opens stays inside.
    pub(crate) fn within<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let _back = Back(&self.home);
        work()
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether its mount is there, by which the next daemon finds it.
    pub(crate) fn is_named(&self) -> bool {
        let ours = self.file.metadata().map(|file| (file.dev(), file.ino()));
        let named = fs::metadata(&self.path).map(|file| (file.dev(), file.ino()));
        matches!((ours, named), (Ok(ours), Ok(named)) if ours == named)
    }

    /// Mounts it again where the mount was.
    pub(crate) fn name_again(&self) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        File::create(&self.path)?;
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(bind(Path::new(&own), &self.path)?)
    }

    /// Lets go of the mount; the namespace ends with its last socket.
    pub(crate) fn remove(&self) -> io::Result<()> {
        Self::remove_at(&self.path)
    }

    /// The same for what an earlier run left, whole or not.
    pub(crate) fn remove_at(path: &Path) -> io::Result<()> {
        if Self::exists(path) {
            umount2(path, MntFlags::MNT_DETACH)?;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

/// A thread that stayed inside would open upstream sockets there later on.
struct Back<'a>(&'a File);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET)
            .expect("the namespace that this thread came from is held open");
    }
}

fn create(path: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    Ok(bind(Path::new("/proc/thread-self/ns/net"), path)?)
}

fn bind(namespace: &Path, path: &Path) -> nix::Result<()> {
    mount(
        Some(namespace),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
}
