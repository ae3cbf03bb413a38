//! Looks at files with the rights of a user who asks, not with those of the daemon.

use std::ffi::CString;
use std::io;

use nix::unistd::{Gid, Uid, getgrouplist, setfsgid, setfsuid};

/// Runs `question` on a thread of its own that reaches only those files which this user reaches.
/// Blocks until it is answered.
pub(super) fn ask<T: Send>(uid: u32, question: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            become_user(uid)?;
            Ok(question())
        })?;
        // A panic has been told already.
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the question was not answered")))
    })
}

/// For file access alone, and for this thread alone: with the id, the kernel takes the capabilities
/// that go past the modes of files.
fn become_user(uid: u32) -> io::Result<()> {
    if uid == 0 {
        return Ok(());
    }
    let user = nix::unistd::User::from_uid(Uid::from_raw(uid)).map_err(io::Error::from)?;
    let (gid, groups) = match user {
        Some(user) => {
            let name = CString::new(user.name).map_err(io::Error::other)?;
            (user.gid, getgrouplist(&name, user.gid)?)
        }
        None => (Gid::from_raw(uid), Vec::new()),
    };
    set_groups(&groups)?;
    setfsgid(gid);
    setfsuid(Uid::from_raw(uid));
    crate::harden::keep_memory();
    // They tell the id that was before, and what no id is changes nothing.
    let nobody = u32::MAX;
    let is = (
        setfsuid(Uid::from_raw(nobody)),
        setfsgid(Gid::from_raw(nobody)),
    );
    match is == (Uid::from_raw(uid), gid) {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// The library's call would change all threads.
#[expect(unsafe_code, reason = "the system call has no wrapper for one thread")]
fn set_groups(groups: &[Gid]) -> io::Result<()> {
    let raw: Vec<libc::gid_t> = groups.iter().map(|gid| gid.as_raw()).collect();
    // SAFETY: the kernel reads as many numbers from the vector as it has.
    let done = unsafe { libc::syscall(libc::SYS_setgroups, raw.len(), raw.as_ptr()) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    #[ignore = "needs root and BPF: run scripts/test"]
    fn only_what_the_user_reaches_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "x").unwrap();
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        let nobody = 65_534;
        for (of_folder, of_file, sees, reads) in [
            (0o700, 0o644, false, false),
            (0o755, 0o600, true, false),
            (0o755, 0o640, true, false),
            (0o755, 0o644, true, true),
        ] {
            std::fs::set_permissions(folder.path(), mode(of_folder)).unwrap();
            std::fs::set_permissions(&secret, mode(of_file)).unwrap();
            let seen = ask(nobody, || std::fs::metadata(&secret).is_ok()).unwrap();
            let read = ask(nobody, || std::fs::read(&secret).is_ok()).unwrap();
            assert_eq!((seen, read), (sees, reads), "{of_folder:o} {of_file:o}");
        }
        std::fs::set_permissions(folder.path(), mode(0o700)).unwrap();
        assert!(std::fs::read(&secret).is_ok(), "other threads stay root's");
        assert!(ask(0, || std::fs::read(&secret).is_ok()).unwrap());
    }
}
