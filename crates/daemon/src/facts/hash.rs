//! The SHA-256 of files.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use offramp_intercept::FileId;

use super::file::Opened;

/// Larger files are not read.
const LARGEST: u64 = 1 << 30;
/// How many files are remembered.
const REMEMBERED: usize = 1024;
const CHUNK: usize = 128 << 10;

/// The hashes of files that have not changed since.
#[derive(Default)]
pub(super) struct Hashes(Mutex<HashMap<Version, [u8; 32]>>);

/// A file as it is between two changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Version {
    file: FileId,
    size: u64,
    changed: (i64, i64),
}

impl Hashes {
    /// The hash of a file that may be read and is at most 1 GiB.
    pub(super) fn of(&self, opened: &Opened) -> Option<[u8; 32]> {
        let metadata = opened.metadata()?;
        let version = Version {
            file: opened.id?,
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        if version.size > LARGEST {
            return None;
        }
        if let Some(hash) = self.lock().get(&version) {
            return Some(*hash);
        }
        let hash = read(opened, version.size)?;
        let mut known = self.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(version, hash);
        Some(hash)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Version, [u8; 32]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// None where the file is not as long as it was.
fn read(opened: &Opened, size: u64) -> Option<[u8; 32]> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at <= size {
        match opened.read_at(&mut buffer, at).ok()? {
            0 => break,
            length => {
                context.update(&buffer[..length]);
                at += length as u64;
            }
        }
    }
    if at != size {
        return None;
    }
    context.finish().as_ref().try_into().ok()
}
