//! Looks at everything that the daemon's work depends on, and says what to do about what is wrong.

mod doors;
mod network;

use std::path::Path;

use offramp_control::{Check, Outcome, ProfileState, ProfileStatus};
use offramp_intercept::Counter;

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
    checks.extend(network::examine(shared).await);
    checks.extend(doors::examine(shared));
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

fn failure(name: &str, detail: impl Into<String>, remedy: &str) -> Check {
    Check {
        name: name.into(),
        outcome: Outcome::Failure,
        detail: detail.into(),
        remedy: Some(remedy.into()),
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
