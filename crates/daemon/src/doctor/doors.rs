//! The names part of `doctor`: ways of name resolution that lead past the proxy on this machine.

use std::path::Path;

use offramp_control::Check;

use super::warning;
use crate::shared::Shared;

/// Unix sockets behind which others look names up; shut to apps from Linux 6.7 on.
const SOCKETS: [&str; 3] = [
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/nscd/socket",
    "/run/avahi-daemon/socket",
];
const NSSWITCH: &str = "/etc/nsswitch.conf";
/// NSS modules that ask for names where they ask for users and groups, too.
const SHARED_MODULES: [&str; 3] = ["wins", "sss", "ldap"];

pub(super) fn examine(shared: &Shared) -> Vec<Check> {
    let nsswitch = std::fs::read_to_string(NSSWITCH).unwrap_or_default();
    let checks = [sockets(shared.capture.closes_doors()), modules(&nsswitch)];
    checks.into_iter().flatten().collect()
}

fn sockets(are_shut: bool) -> Option<Check> {
    let there = SOCKETS.into_iter().filter(|door| Path::new(door).exists());
    let there: Vec<_> = there.collect();
    if are_shut || there.is_empty() {
        return None;
    }
    let detail = format!(
        "apps can ask {} past the proxy: this kernel has no hook for it",
        there.join(" and ")
    );
    Some(warning(
        "resolvers",
        detail,
        "boot a kernel from 6.7 on; or stop nscd, and take `resolve` and `mdns` out of \
            /etc/nsswitch.conf",
    ))
}

fn modules(nsswitch: &str) -> Option<Check> {
    let open = open_modules(nsswitch);
    if open.is_empty() {
        return None;
    }
    let detail = format!(
        "`hosts` in {NSSWITCH} has {}: names that an app does not find elsewhere are asked there, \
            past the proxy",
        open.join(" and ")
    );
    let remedy = "take it out of that line, or write `dns [NOTFOUND=return]` before it";
    Some(warning("name modules", detail, remedy))
}

/// The modules of the `hosts` line whose sockets cannot be shut, as far as a lookup gets to them
/// that finds nothing by DNS.
fn open_modules(nsswitch: &str) -> Vec<&str> {
    let lines = nsswitch.lines();
    let lines = lines.map(|line| line.split('#').next().unwrap_or_default().trim());
    let Some(modules) = lines.filter_map(|line| line.strip_prefix("hosts:")).next() else {
        return Vec::new();
    };
    let asked = modules.split_once("dns [NOTFOUND=return]");
    let asked = asked.map_or(modules, |(before, _)| before);
    let words = asked.split_whitespace();
    words.filter(|word| SHARED_MODULES.contains(word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_that_may_hear_a_name_are_told() {
        for (line, expected) in [
            ("hosts: files dns", &[][..]),
            (
                "hosts: files mdns4_minimal [NOTFOUND=return] dns wins",
                &["wins"],
            ),
            (
                "passwd: files sss\nhosts:files sss ldap dns # wins",
                &["sss", "ldap"],
            ),
            ("hosts: files dns [NOTFOUND=return] wins", &[]),
            ("hosts: wins dns [NOTFOUND=return] sss", &["wins"]),
            ("passwd: sss", &[]),
        ] {
            assert_eq!(open_modules(line), expected, "{line}");
        }
    }
}
