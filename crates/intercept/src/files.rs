//! Files as the kernel programs know them.
//!
//! What stat says will not do: overlayfs shows programs other devices and inodes than the kernel
//! works with. `/proc/self/fdinfo` has the kernel's inode and the mount, whose device is in
//! `mountinfo`. On btrfs it is stat's that tells subvolumes apart.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, XFS_SUPER_MAGIC, fstatfs};

use crate::label::FileId;

/// Not among those that nix names.
const F2FS_SUPER_MAGIC: FsType = FsType(0xF2F5_2010);

/// The identity of an open file of a mount that `mounts` (a mountinfo) lists.
pub(crate) fn identify(file: &File, mounts: &str) -> io::Result<FileId> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let field = |name: &str| {
        let found = info.lines().find_map(|line| line.strip_prefix(name));
        found.and_then(|text| text.trim().parse::<u64>().ok())
    };
    let listed = field("mnt_id:").zip(field("ino:"));
    let kind = fstatfs(file)?.filesystem_type();
    let listed = listed.filter(|_| kind != BTRFS_SUPER_MAGIC);
    let known = listed.and_then(|(mount, inode)| Some((device(mounts, mount)?, inode)));
    let (device, inode) = match known {
        Some(known) => known,
        // Of another mount namespace: right for all but overlayfs.
        None => stat(file)?,
    };
    Ok(FileId {
        device,
        inode,
        generation: generation(file, kind),
    })
}

fn device(mounts: &str, mount: u64) -> Option<u32> {
    let id = mount.to_string();
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.next()? == id).then(|| fields.nth(1))?
    })?;
    let (major, minor) = found.split_once(':')?;
    Some(encode(major.parse().ok()?, minor.parse().ok()?))
}

fn encode(major: u32, minor: u32) -> u32 {
    major << 20 | minor
}

#[expect(unsafe_code, reason = "calls statx")]
fn stat(file: &File) -> io::Result<(u32, u64)> {
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is empty and ends with a zero, and the kernel writes one statx.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_INO,
            found.as_mut_ptr(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroes are a value, and the call succeeded.
    let found = unsafe { found.assume_init() };
    let device = encode(found.stx_dev_major, found.stx_dev_minor);
    Ok((device, found.stx_ino))
}

/// Where the kernel programs look at it, and a program can read it; 0 elsewhere.
fn generation(file: &File, kind: FsType) -> u32 {
    let known = [
        BTRFS_SUPER_MAGIC,
        EXT4_SUPER_MAGIC,
        XFS_SUPER_MAGIC,
        F2FS_SUPER_MAGIC,
    ];
    if known.contains(&kind) {
        version(file)
    } else {
        0
    }
}

#[expect(unsafe_code, reason = "calls ioctl")]
fn version(file: &File) -> u32 {
    let mut version: libc::c_long = 0;
    // SAFETY: the kernel writes an int or a long to a long that lives.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETVERSION, &raw mut version) } {
        // File systems write 32 bits, whatever the request says.
        0 => version as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod fuzz {
    use offramp_fuzz::fuzz;

    #[test]
    fn mounts() {
        let seed =
            b"36 35 98:0 /a\\040b /mnt rw - ext4 /dev/sda1 rw\n37 35 0:21 / / rw - tmpfs x rw\n";
        fuzz(
            "mounts",
            &[seed, b"36 35 : /", b"36 35 4096:1048576 /"],
            |input| {
                let text = String::from_utf8_lossy(input);
                super::device(&text, 36);
            },
        );
    }
}
