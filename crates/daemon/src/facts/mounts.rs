//! The mounts that the daemon sees.

use std::fs::{self, File};
use std::os::fd::AsRawFd;

/// Whether a file was opened on a mount that the daemon sees. Numbers of mounts are unique as long
/// as something is open there.
pub(super) fn is_of_host(file: &File) -> bool {
    let Some(mount) = mount_of(file) else {
        return false;
    };
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    mounts
        .split(|octet| *octet == b'\n')
        .any(|line| line.split(|octet| *octet == b' ').next() == Some(mount.as_bytes()))
}

fn mount_of(file: &File) -> Option<String> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let line = about
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))?;
    Some(line.trim().to_owned())
}
