//! The programs of others at the root control group.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libbpf_rs::ProgramAttachType as Kind;
use libbpf_rs::libbpf_sys;
use libbpf_rs::query::ProgInfoIter;

use crate::requirements::cgroup_root;

/// As many as the kernel lets one hook have.
const MOST: usize = 64;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// Our programs with their hooks, by the names that bpftool gives them.
const HOOKS: [(&str, &str, Kind); 16] = [
    ("on_egress", "cgroup_inet_egress", Kind::CgroupInetEgress),
    ("on_ingress", "cgroup_inet_ingress", Kind::CgroupInetIngress),
    (
        "on_create",
        "cgroup_inet_sock_create",
        Kind::CgroupInetSockCreate,
    ),
    (
        "on_release",
        "cgroup_inet_sock_release",
        Kind::CgroupInetSockRelease,
    ),
    ("on_setsockopt", "cgroup_setsockopt", Kind::CgroupSetsockopt),
    ("on_bind4", "cgroup_inet4_bind", Kind::CgroupInet4Bind),
    ("on_bind6", "cgroup_inet6_bind", Kind::CgroupInet6Bind),
    (
        "on_connect4",
        "cgroup_inet4_connect",
        Kind::CgroupInet4Connect,
    ),
    (
        "on_connect6",
        "cgroup_inet6_connect",
        Kind::CgroupInet6Connect,
    ),
    (
        "on_sendmsg4",
        "cgroup_udp4_sendmsg",
        Kind::CgroupUdp4Sendmsg,
    ),
    (
        "on_sendmsg6",
        "cgroup_udp6_sendmsg",
        Kind::CgroupUdp6Sendmsg,
    ),
    (
        "on_recvmsg4",
        "cgroup_udp4_recvmsg",
        Kind::CgroupUdp4Recvmsg,
    ),
    (
        "on_recvmsg6",
        "cgroup_udp6_recvmsg",
        Kind::CgroupUdp6Recvmsg,
    ),
    (
        "on_getpeername4",
        "cgroup_inet4_getpeername",
        Kind::CgroupInet4Getpeername,
    ),
    (
        "on_getpeername6",
        "cgroup_inet6_getpeername",
        Kind::CgroupInet6Getpeername,
    ),
    (
        "on_connect_unix",
        "cgroup_unix_connect",
        Kind::CgroupUnixConnect,
    ),
];

/// A program of somebody else's at the root control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The hook, as bpftool calls it.
    pub hook: &'static str,
    /// Its number, for bpftool.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// It suffers no other program beside it.
    pub is_alone: bool,
}

/// Every program at a hook of ours that is not ours.
pub fn neighbours() -> io::Result<Vec<Neighbour>> {
    let Some(root) = cgroup_root() else {
        return Ok(Vec::new());
    };
    let root = File::open(root)?;
    let mut found = Vec::new();
    for (_, hook, kind) in HOOKS {
        // A kernel without this hook has nobody there.
        let Ok((ids, flags)) = query(root.as_fd(), kind) else {
            continue;
        };
        for id in ids {
            let program = ProgInfoIter::default().find(|program| program.id == id);
            let name = program.map(|program| program.name.to_string_lossy().into_owned());
            // It may have ended meanwhile. Other instances have programs of the same names.
            let Some(name) = name.filter(|name| !is_ours(name)) else {
                continue;
            };
            found.push(Neighbour {
                hook,
                id,
                name,
                is_alone: flags & BPF_F_ALLOW_MULTI == 0,
            });
        }
    }
    Ok(found)
}

/// The program that keeps ours of this name from being attached.
pub(crate) fn occupant(ours: &str) -> Option<Neighbour> {
    let (_, hook, _) = HOOKS.iter().find(|(name, ..)| *name == ours)?;
    let mut all = neighbours().ok()?.into_iter();
    all.find(|neighbour| neighbour.is_alone && neighbour.hook == *hook)
}

fn is_ours(name: &str) -> bool {
    HOOKS.iter().any(|(ours, ..)| *ours == name)
}

/// The numbers of the programs at a hook, and how they are attached.
#[expect(unsafe_code, reason = "calls into libbpf")]
fn query(cgroup: BorrowedFd<'_>, kind: Kind) -> io::Result<(Vec<u32>, u32)> {
    let mut ids = [0; MOST];
    let mut count = u32::try_from(MOST).expect("64 fits");
    let mut flags = 0;
    // SAFETY: the kernel writes `count` numbers at most and says how many there are.
    let error = unsafe {
        libbpf_sys::bpf_prog_query(
            cgroup.as_raw_fd(),
            kind as u32,
            0,
            &raw mut flags,
            ids.as_mut_ptr(),
            &raw mut count,
        )
    };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(-error));
    }
    let count = usize::try_from(count).unwrap_or(MOST).min(MOST);
    Ok((ids[..count].to_vec(), flags))
}
