//! The capabilities that a launched command goes without.

use std::str::FromStr;

use caps::{CapSet, Capability};
use nix::unistd::{geteuid, getuid};

use crate::failure::{Failure, NOT_PERMITTED};

/// What undoes a capture, or goes past it, by itself.
///
/// `CAP_NET_RAW` opens packet sockets, which no hook sees. `CAP_NET_ADMIN` changes devices, routes
/// and rules, `CAP_BPF` maps and programs, `CAP_SYS_ADMIN` both, and mounts and namespaces besides.
/// `CAP_SYS_MODULE` and `CAP_SYS_RAWIO` reach into the kernel. `CAP_SYS_PTRACE` makes an unmanaged
/// program of root's do or hand over any of this; without it a process with more capabilities than
/// ours cannot be traced.
///
/// Those about files (`CAP_DAC_OVERRIDE` and its kin) stay, or nothing could be installed under
/// `run`; so root can still remove what is pinned. `CAP_PERFMON` reads alone, and `CAP_SYS_BOOT`
/// ends apps together with their capture.
const GIVEN_UP: [Capability; 7] = [
    Capability::CAP_NET_RAW,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_BPF,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_MODULE,
    Capability::CAP_SYS_RAWIO,
    Capability::CAP_SYS_PTRACE,
];

/// What `--keep-capabilities` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    All,
    One(Capability),
}

impl FromStr for Kept {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("all") {
            return Ok(Self::All);
        }
        let name = caps::to_canonical(text);
        Capability::from_str(&name)
            .map(Self::One)
            .map_err(|_| "no such capability: a name as in capabilities(7), or all".to_owned())
    }
}

/// Gives them up for good: neither a child nor a program that has them from its file gets them back.
///
/// That takes `CAP_SETPCAP`. Who is not root goes without it, and has none of them after exec but
/// by a setuid program or one with file capabilities.
pub(super) fn give_up(kept: &[Kept]) -> Result<(), Failure> {
    let unwanted = GIVEN_UP
        .into_iter()
        .filter(|capability| !kept.contains(&Kept::All) && !kept.contains(&Kept::One(*capability)));
    for capability in unwanted {
        for set in [
            CapSet::Bounding,
            CapSet::Ambient,
            CapSet::Inheritable,
            CapSet::Effective,
            CapSet::Permitted,
        ] {
            // Of those that a kernel does not know nobody has any.
            if !caps::has_cap(None, set, capability).unwrap_or(false) {
                continue;
            }
            if let Err(error) = caps::drop(None, set, capability)
                && gets_all_at_exec()
            {
                return Err(refusal(capability, &error));
            }
        }
    }
    Ok(())
}

/// Whether exec gives the process all that its bounding set has.
fn gets_all_at_exec() -> bool {
    geteuid().is_root() || getuid().is_root()
}

fn refusal(capability: Capability, error: &dyn std::error::Error) -> Failure {
    Failure::new(
        NOT_PERMITTED,
        format!("cannot take {capability} from the command: {error}"),
    )
    .hint("with it the command can go past its capture; --keep-capabilities all lets it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_people_write_them() {
        for (text, kept) in [
            ("all", Ok(Kept::All)),
            ("ALL", Ok(Kept::All)),
            ("net_raw", Ok(Kept::One(Capability::CAP_NET_RAW))),
            ("NET_ADMIN", Ok(Kept::One(Capability::CAP_NET_ADMIN))),
            ("CAP_SYS_ADMIN", Ok(Kept::One(Capability::CAP_SYS_ADMIN))),
            ("cap_bpf", Ok(Kept::One(Capability::CAP_BPF))),
            ("", Err(())),
            ("none", Err(())),
            ("net-raw", Err(())),
        ] {
            assert_eq!(text.parse().map_err(|_: String| ()), kept, "{text}");
        }
    }
}
