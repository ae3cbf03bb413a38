//! What the process gives up, so that whoever gets hold of it has less.
//!
//! In two steps: rights that it never needs go before the first thread starts, and system calls that
//! only a start needs go once it serves.

use std::collections::BTreeMap;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// What stays, each for what fails without it.
const KEPT: [Capability; 9] = [
    // The private namespace: reply sockets are opened in it (setns), and its mount is removed.
    Capability::CAP_SYS_ADMIN,
    // Devices, routes, rules, marks, the buffers of sockets.
    Capability::CAP_NET_ADMIN,
    // Maps and programs; tracing ones among them.
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    // Others' /proc/PID/exe and their sockets (pidfd_getfd), when a rule starts for what runs.
    Capability::CAP_SYS_PTRACE,
    // Replies come from the port that an app asked.
    Capability::CAP_NET_BIND_SERVICE,
    // Programs in folders that their users keep to themselves. Nothing of theirs is written.
    Capability::CAP_DAC_READ_SEARCH,
    // One thread takes a user's file rights to answer that user (setfsuid, setfsgid, setgroups).
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
];

/// Has the kernel write no core dump, which would hold the credentials of proxies, and keep debuggers
/// of lesser rights away. A thread that takes another user's rights undoes this for all.
pub(crate) fn keep_memory() {
    let _ = prctl::set_dumpable(false);
}

/// Gives up what neither start nor work needs. To be called while there is one thread: the others
/// have what that one has.
pub fn before_threads() {
    keep_memory();
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    if let Err(error) = prctl::set_no_new_privs() {
        tracing::warn!(error = %error, "programs that are started may gain rights");
    }
    if let Err(error) = drop_capabilities() {
        tracing::warn!(error = %error, "capabilities not dropped");
    }
}

fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    let kept: CapsHashSet = KEPT.into();
    // First the bounding set, which takes a right that goes with the others.
    for capability in caps::all() {
        if !kept.contains(&capability) && caps::has_cap(None, CapSet::Bounding, capability)? {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    caps::clear(None, CapSet::Inheritable)?;
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = permitted.intersection(&kept).copied().collect();
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// Closes the system calls that a daemon which serves has no use for, in all threads. They fail with
/// EPERM: one that a library tries costs that attempt and not the daemon, whose end refuses all
/// apps. What is left open is not listed, because that differs by kernel, libc and allocator; the
/// systemd unit does that with lists that are kept up to date for it.
pub(crate) fn after_start() {
    let closed = filter(&CLOSED).and_then(|filter| {
        seccompiler::apply_filter_all_threads(&filter).map_err(|error| error.to_string())
    });
    if let Err(error) = closed {
        tracing::warn!(error, "system calls not closed");
    }
}

fn filter(closed: &[libc::c_long]) -> Result<BpfProgram, String> {
    let architecture = std::env::consts::ARCH
        .try_into()
        .map_err(|_| "no filter for this architecture".to_owned())?;
    let everywhere = closed.iter().flat_map(|call| [Some(*call), x32(*call)]);
    let rules: BTreeMap<i64, _> = everywhere
        .flatten()
        .map(|call| (call, Vec::new()))
        .collect();
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, denied, architecture)
        .and_then(BpfProgram::try_from)
        .map_err(|error| error.to_string())
}

/// The same call by the other numbers that kernels of x86-64 may have: those of x32.
fn x32(call: libc::c_long) -> Option<libc::c_long> {
    const X32: libc::c_long = 0x4000_0000;
    if !cfg!(target_arch = "x86_64") {
        return None;
    }
    let own = match call {
        libc::SYS_execve => 520,
        libc::SYS_ptrace => 521,
        libc::SYS_kexec_load => 528,
        libc::SYS_process_vm_readv => 539,
        libc::SYS_process_vm_writev => 540,
        libc::SYS_execveat => 545,
        other => other,
    };
    Some(own | X32)
}

const CLOSED: [libc::c_long; 47] = [
    // The daemon starts no program, and is taken over by one that somebody else starts.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes' memory.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_personality,
    // Mounts and namespaces are made at the start; that of the private one is removed at the stop.
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_mknodat,
    // Goes past the folders that a file lies in.
    libc::SYS_open_by_handle_at,
    // Goes past filters such as this one.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    // Keys, clocks, names.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // The process stays root's; one thread takes a user's rights to files, no more.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_filter_for_this_machine() {
        let filter = filter(&CLOSED).unwrap();
        assert!(filter.len() > CLOSED.len());
    }
}
