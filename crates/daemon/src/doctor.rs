//! Looks at everything that the daemon's work depends on, and says what to do about what is wrong.

use std::path::Path;

use offramp_control::{Check, Outcome, ProfileState, ProfileStatus};
use offramp_intercept::{Conflict, Counter, DEVICE};

use crate::shared::Shared;

/// The files and counts of the whole machine are told to root alone, who is no `uid`.
pub(crate) async fn examine(
    shared: &Shared,
    profiles: Vec<ProfileStatus>,
    uid: Option<u32>,
) -> Vec<Check> {
    let mut checks: Vec<_> = offramp_intercept::requirements(Path::new("/sys/fs/bpf"))
        .into_iter()
        .map(|found| Check {
            name: found.name.into(),
            outcome: if found.remedy.is_some() {
                Outcome::Failure
            } else {
                Outcome::Ok
            },
            detail: found.detail,
            remedy: found.remedy,
        })
        .collect();
    checks.push(device());
    checks.push(repairs(shared));
    checks.push(rules(shared).await);
    checks.push(ipv6(shared).await);
    checks.push(limits(shared, uid));
    if uid.is_none() {
        checks.push(dropped(shared));
        checks.push(configuration(shared));
    }
    checks.extend(profiles.iter().map(profile));
    checks
}

fn ok(name: &str, detail: impl Into<String>) -> Check {
    Check {
        name: name.into(),
        outcome: Outcome::Ok,
        detail: detail.into(),
        remedy: None,
    }
}

fn warning(name: &str, detail: impl Into<String>, remedy: &str) -> Check {
    Check {
        name: name.into(),
        outcome: Outcome::Warning,
        detail: detail.into(),
        remedy: Some(remedy.into()),
    }
}

fn device() -> Check {
    let state = std::fs::read_to_string(format!("/sys/class/net/{DEVICE}/operstate"));
    // /sys may show another network namespace than ours; the device then shows in none.
    match state.as_deref().map(str::trim) {
        Ok("up" | "unknown") | Err(_) => ok("device", DEVICE),
        Ok(state) => warning(
            "device",
            format!("{DEVICE} is {state}"),
            "keep network managers off it (unmanaged-devices=interface-name:offramp0) and restart offrampd",
        ),
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
    let family = |ipv6: &bool| if *ipv6 { "IPv6" } else { "IPv4" };
    match conflicts.first() {
        None => ok(name, "ours are in place, and nothing comes before them"),
        Some(Conflict::ComesFirst { rule, ipv6 }) => Check {
            name: name.into(),
            outcome: Outcome::Failure,
            detail: format!(
                "the {} rule `{rule}` is asked before ours and takes the flows of apps: they are refused",
                family(ipv6)
            ),
            remedy: Some(
                "give it a preference of 10 or more: ours go before it by themselves then".into(),
            ),
        },
        Some(Conflict::SharesMark { rule, ipv6 }) => warning(
            name,
            format!(
                "the {} rule `{rule}` looks for a mark that offramp gives to its apps",
                family(ipv6)
            ),
            "give it a mark outside 0xfff00000",
        ),
    }
}

/// What others took away, and whether it is back.
fn repairs(shared: &Shared) -> Check {
    const REMEDY: &str = "find out what removes it: systemd-networkd (ManageForeignRoutes=no and \
        ManageForeignRoutingPolicyRules=no in networkd.conf), a network manager \
        (unmanaged-devices=interface-name:offramp0), a script with `ip rule flush`";
    let name = "network";
    let repairs = shared.capture.repairs();
    if let Some(missing) = repairs.missing {
        return Check {
            name: name.into(),
            outcome: Outcome::Failure,
            detail: format!("missing: {missing}; flows that need it are refused"),
            remedy: Some(REMEDY.into()),
        };
    }
    match repairs.last {
        None => ok(name, "device, addresses, rules and routes are in place"),
        Some((what, when)) => {
            let ago = when.elapsed().unwrap_or_default().as_secs();
            warning(
                name,
                format!(
                    "in place; put back {} times, the last time {ago} s ago: {what}",
                    repairs.times
                ),
                REMEDY,
            )
        }
    }
}

async fn ipv6(shared: &Shared) -> Check {
    if shared.capture.survey().await.ipv6 {
        ok("ipv6", "managed apps have IPv6")
    } else {
        ok(
            "ipv6",
            "this machine has no global IPv6 address: managed apps use IPv4 alone",
        )
    }
}

fn limits(shared: &Shared, uid: Option<u32>) -> Check {
    let reached = shared.flows.refusals.shown(uid, std::time::Instant::now());
    match reached.first() {
        None => ok("limits", "none was reached within the last minutes"),
        Some(first) => warning(
            "limits",
            match reached.len() {
                1 => first.clone(),
                count => format!("{count} were reached, the first: {first}"),
            },
            "open flows go on; end some of them, or find out why there are so many",
        ),
    }
}

fn dropped(shared: &Shared) -> Check {
    let dropped = shared.capture.counter(Counter::EgressDrop);
    match dropped {
        0 => ok("egress guard", "nothing tried to go past the proxy"),
        _ => ok(
            "egress guard",
            format!("{dropped} packets that would have gone past the proxy were dropped"),
        ),
    }
}

fn configuration(shared: &Shared) -> Check {
    let policy = shared.policy();
    match policy.loaded.problems.first() {
        None => ok("profiles", format!("{} in force", policy.active.len())),
        Some(first) => warning(
            "profiles",
            format!(
                "{} problems, the first: {first}",
                policy.loaded.problems.len()
            ),
            "correct the file; `offramp profile check FILE` lists everything",
        ),
    }
}

fn profile(profile: &ProfileStatus) -> Check {
    let name = format!("profile {}", profile.identifier);
    let reason = profile.reason.clone().unwrap_or_default();
    if !profile.on {
        let remedy = format!("offramp on --profile {}", profile.identifier);
        return warning(&name, "switched off: its apps are refused", &remedy);
    }
    match profile.state {
        ProfileState::Connected => ok(
            &name,
            format!(
                "connected to {} by {}",
                profile.server.as_deref().unwrap_or("?"),
                profile.protocol.as_deref().unwrap_or("?")
            ),
        ),
        ProfileState::Connecting => ok(&name, "connecting"),
        ProfileState::Reasserting => {
            warning(&name, format!("reconnecting: {reason}"), "wait a moment")
        }
        ProfileState::Disconnected => warning(
            &name,
            format!("disconnected: {reason}"),
            "its apps are refused until the server answers; check the server, the credentials and the network",
        ),
    }
}
