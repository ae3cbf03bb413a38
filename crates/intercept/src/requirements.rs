//! What the machine must have, each thing checked by itself so that the answer names it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

/// One thing that capturing needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// A short name, such as `cgroup2`.
    pub name: &'static str,
    /// What was found, or what is missing.
    pub detail: String,
    /// What to do; none where it is met.
    pub remedy: Option<String>,
}

impl Requirement {
    fn met(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            detail: detail.into(),
            remedy: None,
        }
    }

    fn missing(name: &'static str, detail: impl Into<String>, remedy: &str) -> Self {
        Self {
            name,
            detail: detail.into(),
            remedy: Some(remedy.to_owned()),
        }
    }
}

/// Checks all of them.
pub fn requirements(bpffs: &Path) -> Vec<Requirement> {
    vec![rights(), kernel(), btf(), cgroup(), pins(bpffs)]
}

fn rights() -> Requirement {
    const NEEDED: [(u32, &str); 5] = [
        (12, "CAP_NET_ADMIN"),
        (39, "CAP_BPF"),
        (38, "CAP_PERFMON"),
        (21, "CAP_SYS_ADMIN"),
        (19, "CAP_SYS_PTRACE"),
    ];
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let lacking: Vec<_> = NEEDED
        .iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect();
    if lacking.is_empty() {
        Requirement::met("rights", "all capabilities that are needed")
    } else {
        Requirement::missing(
            "rights",
            format!("without {}", lacking.join(", ")),
            "start offrampd as root",
        )
    }
}

fn kernel() -> Requirement {
    match kernel_version() {
        Some((major, minor)) if (major, minor) >= (6, 6) => {
            Requirement::met("kernel", format!("Linux {major}.{minor}"))
        }
        Some((major, minor)) => Requirement::missing(
            "kernel",
            format!("Linux {major}.{minor} is older than 6.6"),
            "boot a kernel from 6.6 on",
        ),
        None => Requirement::missing("kernel", "its version cannot be read", "mount /proc"),
    }
}

/// Major and minor number of the running kernel.
pub(crate) fn kernel_version() -> Option<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn btf() -> Requirement {
    let path = "/sys/kernel/btf/vmlinux";
    if Path::new(path).exists() {
        Requirement::met("btf", path)
    } else {
        Requirement::missing(
            "btf",
            format!("{path} is missing"),
            "boot a kernel that was built with CONFIG_DEBUG_INFO_BTF",
        )
    }
}

fn cgroup() -> Requirement {
    match cgroup_root() {
        Some(path) => Requirement::met("cgroup2", path.display().to_string()),
        None => Requirement::missing(
            "cgroup2",
            "no cgroup2 hierarchy is mounted",
            "mount it: mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        ),
    }
}

/// Where the root of the cgroup2 hierarchy is mounted.
pub(crate) fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let usable = after.starts_with("cgroup2 ") && root == "/";
        let path = PathBuf::from(point.replace("\\040", " "));
        (usable && statfs(&path).ok()?.filesystem_type() == CGROUP2_SUPER_MAGIC).then_some(path)
    })
}

/// Mounts bpffs where none is mounted yet, as early in a boot.
pub fn mount_bpffs(bpffs: &Path) -> io::Result<()> {
    let is_mounted = |found: nix::sys::statfs::Statfs| found.filesystem_type() == BPF_FS_MAGIC;
    if statfs(bpffs).is_ok_and(is_mounted) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(
        Some("bpf"),
        bpffs,
        Some("bpf"),
        flags,
        Some("mode=700"),
    )?)
}

fn pins(bpffs: &Path) -> Requirement {
    match statfs(bpffs) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => {
            Requirement::met("bpffs", bpffs.display().to_string())
        }
        _ => Requirement::missing(
            "bpffs",
            format!("no bpffs is mounted at {}", bpffs.display()),
            "mount it: mount -t bpf bpf /sys/fs/bpf",
        ),
    }
}
