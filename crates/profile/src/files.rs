//! Files and directories that only root, or the user of this process, may have written.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

/// Why a file is not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It cannot be read.
    Unreadable(std::io::Error),
    /// Others might have written it, or may read what they should not.
    Exposed(String),
}

/// Opens a regular file whose mode has none of the `forbidden` bits. Never waits, whatever is there.
pub(crate) fn open(path: &Path, forbidden: u32) -> Result<File, Refused> {
    // Opening a device may do something, so that it is looked at before, too.
    let found = std::fs::metadata(path).map_err(Refused::Unreadable)?;
    exposure(&found, forbidden)?;
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
        .map_err(Refused::Unreadable)?;
    exposure(&file.metadata().map_err(Refused::Unreadable)?, forbidden)?;
    is_linked_safely(path)?;
    Ok(file)
}

/// Reads at most `most` bytes and one more, which tells that it was too long.
pub(crate) fn read(path: &Path, forbidden: u32, most: usize) -> Result<Vec<u8>, Refused> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    open(path, forbidden)?
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(Refused::Unreadable)?;
    Ok(bytes)
}

/// Checks that nobody else may put files into a directory, or take them out.
pub(crate) fn is_directory_guarded(path: &Path) -> Result<(), Refused> {
    let metadata = std::fs::metadata(path).map_err(Refused::Unreadable)?;
    if !metadata.is_dir() {
        return Err(Refused::Unreadable(ErrorKind::NotADirectory.into()));
    }
    is_ours(&metadata, 0o022)
}

fn exposure(metadata: &Metadata, forbidden: u32) -> Result<(), Refused> {
    match metadata.is_file() {
        true => is_ours(metadata, forbidden),
        false => Err(Refused::Exposed("is no regular file".to_owned())),
    }
}

fn is_ours(metadata: &Metadata, forbidden: u32) -> Result<(), Refused> {
    let owner = metadata.uid();
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Err(Refused::Exposed(format!("belongs to user {owner}")));
    }
    let mode = metadata.mode() & 0o7777;
    match mode & forbidden {
        0 => Ok(()),
        _ => Err(Refused::Exposed(format!("has mode {mode:04o}"))),
    }
}

/// Where a link leads, nobody else may put another file of root's in the place of this one.
fn is_linked_safely(path: &Path) -> Result<(), Refused> {
    let link = std::fs::symlink_metadata(path).map_err(Refused::Unreadable)?;
    if !link.is_symlink() {
        return Ok(());
    }
    let real = std::fs::canonicalize(path).map_err(Refused::Unreadable)?;
    let Some(parent) = real.parent() else {
        return Ok(());
    };
    let metadata = std::fs::metadata(parent).map_err(Refused::Unreadable)?;
    // In a sticky directory, such as /nix/store, what is root's stays.
    let sticky = metadata.mode() & 0o1000 != 0;
    is_ours(&metadata, if sticky { 0 } else { 0o022 }).map_err(|refused| match refused {
        Refused::Exposed(what) => {
            Refused::Exposed(format!("leads into {}, which {what}", parent.display()))
        }
        unreadable => unreadable,
    })
}
