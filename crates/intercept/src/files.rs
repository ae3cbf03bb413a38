//! Files as the kernel programs know them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::label::FileId;

pub(crate) fn identify(file: &File) -> io::Result<FileId> {
    let (device, inode) = stat(file)?;
    Ok(FileId {
        device,
        inode,
        generation: generation(file),
    })
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
    let device = found.stx_dev_major << 20 | found.stx_dev_minor;
    Ok((device, found.stx_ino))
}

#[expect(unsafe_code, reason = "calls ioctl")]
fn generation(file: &File) -> u32 {
    let mut version: libc::c_long = 0;
    // SAFETY: the kernel writes an int or a long to a long that lives.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETVERSION, &raw mut version) } {
        // File systems write 32 bits, whatever the request says.
        0 => version as u32,
        _ => 0,
    }
}
