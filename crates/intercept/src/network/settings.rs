//! The kernel settings of the host that capture changes, and what they were before.

use std::fs;
use std::path::{Path, PathBuf};

use super::DEVICE;

/// What the kernel answers for a dead app socket (RST, ICMP) takes the mark of what it answers and
/// so goes back inside, not onto the wire.
const REFLECT: [&str; 2] = ["net/ipv4/fwmark_reflect", "net/ipv6/fwmark_reflect"];

/// Those of our own device, which goes with them.
const OF_DEVICE: [(&str, &str, &str); 7] = [
    ("ipv4", "src_valid_mark", "1"),
    // Replies to a socket that is bound to a loopback address.
    ("ipv4", "route_localnet", "1"),
    ("ipv6", "disable_ipv6", "0"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "autoconf", "0"),
    ("ipv6", "accept_dad", "0"),
    ("ipv6", "router_solicitations", "0"),
];

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
        // Whole or not at all: what is missing would not be put back.
        let fresh = kept.with_extension("new");
        let written = fs::write(&fresh, before.join("\n")).and_then(|()| fs::rename(&fresh, &kept));
        if let Err(error) = written {
            tracing::warn!(file = %kept.display(), error = %error, "old settings not kept");
        }
    }
    for (name, value) in wanted(ipv6) {
        write(&name, value);
    }
}

/// The settings that are not as capture needs them. One that the kernel does not have is left out.
pub(super) fn lost(ipv6: bool) -> Vec<String> {
    let differs = |(name, value): &(String, &str)| read(name).is_some_and(|is| is != *value);
    let lost = wanted(ipv6).filter(differs);
    lost.map(|(name, _)| name).collect()
}

fn wanted(ipv6: bool) -> impl Iterator<Item = (String, &'static str)> {
    let of_device = OF_DEVICE
        .iter()
        .filter(move |(family, ..)| ipv6 || *family == "ipv4");
    let of_device = of_device
        .map(|(family, name, value)| (format!("net/{family}/conf/{DEVICE}/{name}"), *value));
    REFLECT
        .map(|name| (name.to_owned(), "1"))
        .into_iter()
        .chain(of_device)
}

/// Puts back what was there before.
pub(super) fn restore(runtime: &Path) {
    let kept = kept(runtime);
    let _ = fs::remove_file(kept.with_extension("new"));
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
