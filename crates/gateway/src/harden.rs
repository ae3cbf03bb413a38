//! What the process gives up, so that whoever gets hold of it has less: it reads files, answers
//! those who connect and connects to others, and nothing else.

use std::collections::BTreeMap;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// For the start: ports below 1024, and files that root may read whoever owns them.
const AT_START: [Capability; 2] = [
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_DAC_READ_SEARCH,
];
/// For as long as it serves: certificate, key and users are read again when they change.
const SERVING: [Capability; 1] = [Capability::CAP_DAC_READ_SEARCH];

/// To be called while there is one thread: the others have what that one has.
pub(crate) fn before_threads() {
    // The memory holds the key of the certificate: no core dump, and no debugger of lesser rights.
    let _ = prctl::set_dumpable(false);
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    if let Err(error) = prctl::set_no_new_privs() {
        tracing::warn!(%error, "programs that are started may gain rights");
    }
    for capability in caps::all() {
        // Others than root have no say in this, and nothing to give up.
        let _ = caps::drop(None, CapSet::Bounding, capability);
    }
    keep(&AT_START);
}

/// To be called by each thread but the first.
pub(crate) fn thread() {
    keep(&SERVING);
}

/// Once everything is bound: the first thread keeps no more than the others, and all of them lose the
/// system calls that serving has no use for. These fail with EPERM: one that a library tries costs
/// that attempt and not all flows.
pub(crate) fn after_start() {
    keep(&SERVING);
    let closed = filter().and_then(|filter| {
        seccompiler::apply_filter_all_threads(&filter).map_err(|error| error.to_string())
    });
    if let Err(error) = closed {
        tracing::warn!(error, "system calls not closed");
    }
}

fn keep(kept: &[Capability]) {
    let reduced = caps::read(None, CapSet::Permitted).and_then(|permitted| {
        let kept = kept.iter().copied();
        let kept: CapsHashSet = kept.filter(|one| permitted.contains(one)).collect();
        caps::clear(None, CapSet::Inheritable)?;
        caps::set(None, CapSet::Effective, &kept)?;
        caps::set(None, CapSet::Permitted, &kept)
    });
    if let Err(error) = reduced {
        tracing::warn!(%error, "capabilities not dropped");
    }
}

fn filter() -> Result<BpfProgram, String> {
    let architecture = std::env::consts::ARCH
        .try_into()
        .map_err(|_| "no filter for this architecture".to_owned())?;
    let told = |error: seccompiler::BackendError| error.to_string();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in CLOSED.iter().chain(&CLOSED_HERE) {
        rules.insert(*call, Vec::new());
    }
    // Files are read, not written.
    rules.insert(libc::SYS_openat, writing().map_err(told)?);
    if cfg!(target_arch = "x86_64") {
        let x32 = rules.clone().into_iter();
        let x32: Vec<_> = x32.map(|(call, rule)| (call | X32, rule)).collect();
        rules.extend(x32);
        rules.extend([520, 545].map(|call| (call | X32, Vec::new())));
    }
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, denied, architecture)
        .and_then(BpfProgram::try_from)
        .map_err(told)
}

/// `openat` for writing, or for both.
fn writing() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let mode = SeccompCmpOp::MaskedEq(libc::O_ACCMODE.unsigned_abs().into());
    [libc::O_WRONLY, libc::O_RDWR]
        .into_iter()
        .map(|flag| {
            let flag = flag.unsigned_abs().into();
            let is = SeccompCondition::new(2, SeccompCmpArgLen::Dword, mode.clone(), flag)?;
            SeccompRule::new(vec![is])
        })
        .collect()
}

/// The other numbers that calls may have on x86-64.
const X32: i64 = 0x4000_0000;

const CLOSED: [libc::c_long; 66] = [
    // Other programs, and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_kill,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    // The kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
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
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    // Users.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    // Files.
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmodat,
];

/// What newer architectures have no more.
#[cfg(target_arch = "x86_64")]
const CLOSED_HERE: [libc::c_long; 12] = [
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_unlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_mknod,
    libc::SYS_chmod,
    libc::SYS_chown,
];
#[cfg(not(target_arch = "x86_64"))]
const CLOSED_HERE: [libc::c_long; 0] = [];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_filter_for_this_machine() {
        let filter = filter().unwrap();
        assert!(filter.len() > CLOSED.len());
    }
}
