//! Files that are whole or not there, whenever the daemon is killed.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Replaces what is in `path`: readers see the old text or the new one. A power failure may undo it.
pub(crate) fn write(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    replace(path, text, mode, |_| Ok(()))
}

/// The same, and a power failure leaves the old text or the new one, never half.
pub(crate) fn write_to_last(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    replace(path, text, mode, File::sync_all)
}

/// Adds to what is in `path`, and returns its size then. Readers may see a torn end.
pub(crate) fn append(path: &Path, text: &[u8], mode: u32) -> io::Result<u64> {
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).mode(mode).open(path)?;
    file.write_all(text)?;
    Ok(file.metadata()?.len())
}

fn replace(
    path: &Path,
    text: &[u8],
    mode: u32,
    settle: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let fresh = fresh(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&fresh)?;
    file.write_all(text)?;
    settle(&file)?;
    fs::rename(fresh, path)
}

/// Removes what [`write`] has written, also where that was cut short.
pub(crate) fn remove(path: &Path) {
    let _ = fs::remove_file(fresh(path));
    let _ = fs::remove_file(path);
}

/// Where a text is until it is whole.
fn fresh(path: &Path) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}
