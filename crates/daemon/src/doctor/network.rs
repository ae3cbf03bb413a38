//! The network part of `doctor`: what is ours in it, and what others do to it.

use std::time::Duration;

use offramp_control::Check;
use offramp_intercept::{Conflict, DEVICE, Neighbour, Probe, Way};

use super::{failure, ok, warning};
use crate::shared::Shared;

/// How long something that was put back is worth a warning.
const RECENTLY: Duration = Duration::from_secs(600);

/// Who may take away what is ours.
const TAKERS: &str = "find out what removes it: systemd-networkd (ManageForeignRoutes=no and \
    ManageForeignRoutingPolicyRules=no in networkd.conf), NetworkManager \
    (unmanaged-devices=interface-name:offramp0), a script with `ip rule flush`";

pub(super) async fn examine(shared: &Shared) -> Vec<Check> {
    let mut checks = vec![whole(shared), rules(shared).await];
    checks.extend(way(shared).await);
    checks.push(ipv6(shared).await);
    checks.push(neighbours());
    checks
}

/// Whether everything of ours is in its place.
fn whole(shared: &Shared) -> Check {
    let name = "network";
    let repairs = shared.capture.repairs();
    if let Some(missing) = repairs.missing {
        let detail = format!("not in place: {missing}; flows that need it are refused");
        return failure(name, detail, TAKERS);
    }
    let Some((what, when)) = repairs.last else {
        return ok(name, "device, addresses, rules and routes are in place");
    };
    let ago = when.elapsed().unwrap_or_default();
    let detail = format!(
        "in place; put back {} times, the last time {} s ago: {what}",
        repairs.times,
        ago.as_secs()
    );
    if ago < RECENTLY {
        warning(name, detail, TAKERS)
    } else {
        ok(name, detail)
    }
}

async fn rules(shared: &Shared) -> Check {
    let name = "routing rules";
    let conflicts = match shared.capture.conflicts().await {
        Ok(conflicts) => conflicts,
        Err(error) => {
            return warning(name, crate::chain(&error), "start offrampd as root");
        }
    };
    match conflicts.first() {
        None => ok(name, "nothing comes before ours"),
        Some(Conflict::ComesFirst { rule, ipv6 }) => failure(
            name,
            format!(
                "the {} rule `{rule}` is asked before ours and takes the flows of apps, which are refused",
                family(*ipv6)
            ),
            "give it a preference of 10 or more: ours go before it by themselves",
        ),
        Some(Conflict::SharesMark { rule, ipv6 }) => warning(
            name,
            format!(
                "the {} rule `{rule}` is for packets with a mark that offramp gives to its apps: \
                 such packets of others are dropped",
                family(*ipv6)
            ),
            "give it a mark without the bits 0xfff00000",
        ),
    }
}

/// Whether a flow comes through the device and back. Tried, not guessed: any part of the machine
/// may stop it.
async fn way(shared: &Shared) -> Vec<Check> {
    let name = "way to the daemon";
    let probes = match shared.capture.probe().await {
        Ok(probes) => probes,
        Err(error) => {
            let detail = crate::chain(&error);
            return vec![warning(name, detail, "restart offrampd")];
        }
    };
    let stopped = |way| -> Vec<_> { probes.iter().filter(|probe| probe.way == way).collect() };
    let out = stopped(Way::NotOut);
    let back = stopped(Way::NotBack);
    let mut checks = Vec::new();
    if !out.is_empty() {
        checks.push(failure(
            name,
            format!(
                "{} of apps is stopped before {DEVICE}: a firewall drops it on the way out",
                list(&out)
            ),
            "let out what leaves by offramp0, before the rule that drops: \
             nft insert rule inet filter output oifname offramp0 accept, or \
             iptables -I OUTPUT -o offramp0 -j ACCEPT (and ip6tables)",
        ));
    }
    if !back.is_empty() {
        checks.push(failure(
            name,
            format!(
                "{} of apps goes into {DEVICE} and nothing comes back: a firewall drops what enters by it",
                list(&back)
            ),
            "let in what comes by offramp0, before the rule that drops: \
             nft insert rule inet filter input iifname offramp0 accept, or \
             iptables -I INPUT -i offramp0 -j ACCEPT (and ip6tables)",
        ));
    }
    if checks.is_empty() {
        let all: Vec<_> = probes.iter().collect();
        checks.push(ok(name, format!("{} went and came back", list(&all))));
    }
    checks
}

/// Such as `TCP over IPv4, UDP over IPv4`.
fn list(probes: &[&Probe]) -> String {
    let protocol = |udp| if udp { "UDP" } else { "TCP" };
    let texts: Vec<_> = probes
        .iter()
        .map(|probe| format!("{} over {}", protocol(probe.udp), family(probe.ipv6)))
        .collect();
    texts.join(", ")
}

fn family(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}

async fn ipv6(shared: &Shared) -> Check {
    let off = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    let detail = match off.as_deref().map(str::trim) {
        _ if shared.capture.survey().await.ipv6 => "managed apps have IPv6",
        Ok("0") => "this machine has no global IPv6 address: managed apps use IPv4 alone",
        Ok(_) => "IPv6 is off (net.ipv6.conf.all.disable_ipv6): managed apps use IPv4 alone",
        Err(_) => "this kernel has no IPv6: managed apps use IPv4 alone",
    };
    ok("ipv6", detail)
}

fn neighbours() -> Check {
    let name = "other programs";
    let all = match offramp_intercept::neighbours() {
        Ok(all) => all,
        Err(error) => return warning(name, crate::chain(&error), "start offrampd as root"),
    };
    if all.is_empty() {
        return ok(name, "none at the hooks of the root control group");
    }
    let show = |one: &Neighbour| format!("{} (id {}) at {}", one.name, one.id, one.hook);
    let all: Vec<_> = all.iter().map(show).collect();
    ok(
        name,
        format!(
            "at the root control group, asked about every flow beside ours: {}",
            all.join(", ")
        ),
    )
}
