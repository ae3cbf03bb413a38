//! The control group of a process.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use offramp_rules::Cgroup;

use super::process::Running;

/// The kind of handle by which the kernel finds a control group.
const BY_ID: libc::c_int = 0xfe;

/// Where a running process is.
pub(super) fn of_process(process: &Running) -> Option<Cgroup> {
    Some(Cgroup::new(&process.cgroup()?))
}

/// Where a process was when it was in the group with this number.
pub(super) fn of_start(process: Option<&Running>, number: u64) -> Option<Cgroup> {
    let now = process.and_then(Running::cgroup);
    let Some(mount) = mount() else {
        return now.as_deref().map(Cgroup::new);
    };
    let is_there = |path: &str| {
        let folder = mount.join(path.trim_start_matches('/'));
        fs::metadata(folder).is_ok_and(|found| found.ino() == number)
    };
    if let Some(path) = &now
        && is_there(path)
    {
        return Some(Cgroup::new(path));
    }
    match by_number(&mount, number) {
        Ok(path) => Some(Cgroup::new(path.to_str()?)),
        // The group is gone with its last process, or this kernel does not tell.
        Err(_) => now.as_deref().map(Cgroup::new),
    }
}

/// Where the whole tree is mounted.
fn mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (about, kind) = line.split_once(" - ")?;
        let mut about = about.split(' ').skip(3);
        let (root, point) = (about.next()?, about.next()?);
        (root == "/" && kind.starts_with("cgroup2 ")).then(|| PathBuf::from(point))
    })
}

#[repr(C)]
struct Handle {
    head: libc::file_handle,
    number: u64,
}

/// The path below the mount of the group with this number.
#[expect(unsafe_code, reason = "calls open_by_handle_at")]
fn by_number(mount: &Path, number: u64) -> io::Result<PathBuf> {
    let folder = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(mount)?;
    let mut handle = Handle {
        head: libc::file_handle {
            handle_bytes: size_of::<u64>() as libc::c_uint,
            handle_type: BY_ID,
            f_handle: [],
        },
        number,
    };
    // SAFETY: the handle lives, and has as many octets behind its head as the head says.
    let opened = unsafe {
        libc::open_by_handle_at(
            folder.as_raw_fd(),
            (&raw mut handle).cast(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor just now, and nobody else has it.
    let group = unsafe { File::from_raw_fd(opened) };
    let path = fs::read_link(format!("/proc/self/fd/{}", group.as_raw_fd()))?;
    match path.strip_prefix(mount) {
        Ok(below) => Ok(below.to_owned()),
        Err(_) => Err(io::Error::from(io::ErrorKind::NotFound)),
    }
}
