//! The kernel settings of the host that capture changes, and what they were before.

use std::fs;
use std::path::{Path, PathBuf};

use super::DEVICE;

/// What the kernel answers for a dead app socket (RST, ICMP) takes the mark of what it answers and
/// so goes back inside, not onto the wire.
const REFLECT: [&str; 2] = ["net/ipv4/fwmark_reflect", "net/ipv6/fwmark_reflect"];

/// Settings with a name, such as `net/ipv4/ip_forward`; best effort: a setting that this kernel
/// does not have is not needed on it.
pub(super) fn write(name: &str, value: &str) {
    if let Err(error) = fs::write(format!("/proc/sys/{name}"), value) {
        tracing::debug!(name, value, error = %error, "sysctl not set");
    }
}

pub(super) fn read(name: &str) -> Option<String> {
    Some(
        fs::read_to_string(format!("/proc/sys/{name}"))
            .ok()?
            .trim()
            .to_owned(),
    )
}

/// Sets what capture needs, and keeps what was there before in `runtime`, where a daemon that
/// starts after a crash does not overwrite it.
pub(super) fn apply(runtime: &Path, ipv6: bool) {
    let kept = kept(runtime);
    if !kept.exists() {
        let before: Vec<_> = REFLECT.map(|name| read(name).unwrap_or_default()).into();
        if let Err(error) = fs::write(&kept, before.join("\n")) {
            tracing::warn!(file = %kept.display(), error = %error, "old settings not kept");
        }
    }
    for name in REFLECT {
        write(name, "1");
    }
    write(&format!("net/ipv4/conf/{DEVICE}/src_valid_mark"), "1");
    // Replies to a socket that is bound to a loopback address.
    write(&format!("net/ipv4/conf/{DEVICE}/route_localnet"), "1");
    if ipv6 {
        for setting in [
            "accept_ra",
            "autoconf",
            "accept_dad",
            "router_solicitations",
        ] {
            write(&format!("net/ipv6/conf/{DEVICE}/{setting}"), "0");
        }
    }
}

/// Puts back what was there before.
pub(super) fn restore(runtime: &Path) {
    let kept = kept(runtime);
    let Ok(before) = fs::read_to_string(&kept) else {
        return;
    };
    for (name, value) in REFLECT.iter().zip(before.lines()) {
        if !value.is_empty() {
            write(name, value);
        }
    }
    let _ = fs::remove_file(kept);
}

fn kept(runtime: &Path) -> PathBuf {
    runtime.join("settings")
}
