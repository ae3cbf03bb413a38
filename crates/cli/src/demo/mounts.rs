//! The file systems that the daemon needs, mounted for the demo alone where they are missing.

use std::path::Path;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Where each is looked for, and how it is mounted.
const NEEDED: [(&str, &str); 2] = [("bpf", "/sys/fs/bpf"), ("cgroup2", "/sys/fs/cgroup")];

/// Mounts what is missing, in a mount namespace of the demo's own; to be called before threads.
pub(super) fn complete() -> anyhow::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read mounts")?;
    let missing: Vec<_> = NEEDED
        .into_iter()
        .filter(|(kind, place)| !is_mounted(&mounts, kind, place) && Path::new(place).is_dir())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    // What others mount is still seen here; what is mounted here is not seen by others.
    let slave = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)
        .context("cannot keep the demo's mounts to itself")?;
    for (kind, place) in missing {
        mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("cannot mount {kind} at {place}"))?;
        eprintln!("offramp: {place} is not mounted here: mounted for the demo alone");
    }
    Ok(())
}

/// The daemon finds cgroup2 wherever it is; bpffs has one place.
fn is_mounted(mounts: &str, kind: &str, place: &str) -> bool {
    mounts
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .any(|(mount, facts)| {
            facts.split(' ').next() == Some(kind)
                && (kind == "cgroup2" || mount.split(' ').nth(4) == Some(place))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_told_by_its_kind() {
        let mounts = "\
30 24 0:26 / /sys/fs/bpf rw,nosuid shared:5 - bpf none rw
31 24 0:27 / /sys/fs/cgroup rw - tmpfs cgroup2 rw
32 31 0:28 / /sys/fs/cgroup/unified rw - cgroup2 none rw
";
        assert!(is_mounted(mounts, "bpf", "/sys/fs/bpf"));
        assert!(!is_mounted(mounts, "bpf", "/mnt"));
        assert!(is_mounted(mounts, "cgroup2", "/sys/fs/cgroup"));
        assert!(!is_mounted(mounts, "tmp", "/sys/fs/cgroup"));
    }
}
