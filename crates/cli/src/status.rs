//! `offramp status`.

use std::time::Duration;

use offramp_control::{
    Client, ClientError, Lifecycle, Problem, ProfileState, ProfileStatus, Severity, Status,
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::arguments;
use crate::failure::{FAILED, Failure};
use crate::output::{self, Cell, Table, Tone, or_dash};

const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn run(client: &Client, arguments: arguments::Status) -> Result<(), Failure> {
    let (status, connected) = match arguments.wait {
        None => (client.status().await?, true),
        Some(seconds) => wait(client, Duration::from_secs(seconds)).await?,
    };
    if arguments.json {
        output::print_json(&status)?;
    } else {
        output::print(&render(&status, output::colour()))?;
    }
    if connected {
        Ok(())
    } else {
        Err(Failure::silent(FAILED))
    }
}

/// Asks until a profile is connected; the last answer and false when the time is over.
async fn wait(client: &Client, limit: Duration) -> Result<(Status, bool), Failure> {
    let deadline = Instant::now() + limit;
    let mut last: Result<Status, ClientError> = client.status().await;
    loop {
        if last.as_ref().is_ok_and(is_connected) {
            return Ok((last?, true));
        }
        if timeout_at(deadline, sleep(PAUSE)).await.is_err() {
            return match last {
                Ok(status) => Ok((status, false)),
                Err(error) => Err(Failure::from(error).with_status(FAILED)),
            };
        }
        // A call that the deadline cuts off leaves the answer from before.
        if let Ok(answer) = timeout_at(deadline, client.status()).await {
            last = answer;
        }
    }
}

fn is_connected(status: &Status) -> bool {
    status.lifecycle == Lifecycle::Ready
        && status
            .profiles
            .iter()
            .any(|profile| profile.on && profile.state == ProfileState::Connected)
}

fn render(status: &Status, colour: bool) -> String {
    let lifecycle = match status.lifecycle {
        Lifecycle::Starting => "starting",
        Lifecycle::Ready => "ready",
        Lifecycle::Reloading => "reading its configuration again",
        Lifecycle::Stopping => "stopping",
    };
    let mut text = format!(
        "offramp {}, instance {}: {lifecycle}, up {}\n",
        output::clean(&status.version),
        output::clean(&status.instance),
        output::duration(status.uptime_ms)
    );
    text.push('\n');
    text.push_str(&profiles(&status.profiles, colour));
    for problem in &status.problems {
        text.push_str(&format!("\n{}", describe(problem)));
    }
    if !status.problems.is_empty() {
        text.push('\n');
    }
    text
}

/// The profiles as a table, with the reasons of those that are not well below.
pub(crate) fn profiles(profiles: &[ProfileStatus], colour: bool) -> String {
    if profiles.is_empty() {
        return "No profile is in force. Install one with `offramp profile install FILE`.\n".into();
    }
    let mut table = Table::new([
        "PROFILE", "LAYER", "STATE", "SERVER", "PROTOCOL", "UDP", "APPS", "FLOWS",
    ]);
    for profile in profiles {
        let udp = match profile.udp {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        table.row([
            profile.identifier.as_str().into(),
            profile.layer.as_str().into(),
            state(profile),
            or_dash(profile.server.as_deref()).into(),
            or_dash(profile.protocol.as_deref()).into(),
            udp.into(),
            profile.apps.to_string().into(),
            profile.flows.to_string().into(),
        ]);
    }
    let mut text = table.render(colour);
    let reasons: String = profiles.iter().filter_map(reason).collect();
    if !reasons.is_empty() {
        text.push_str(&format!("\n{reasons}"));
    }
    text
}

/// Why a profile is not well, and what to do where a command does it.
fn reason(profile: &ProfileStatus) -> Option<String> {
    let name = output::clean(&profile.identifier);
    if profile.enabled && !profile.on {
        return Some(format!(
            "{name}: its apps are refused until `offramp on --profile {name}`\n"
        ));
    }
    let reason = profile.reason.as_deref()?;
    Some(format!("{name}: {}\n", output::clean(reason)))
}

fn state(profile: &ProfileStatus) -> Cell {
    if !profile.enabled {
        return Cell::toned("disabled", Tone::Doubtful);
    }
    if !profile.on {
        return Cell::toned("off", Tone::Doubtful);
    }
    match profile.state {
        ProfileState::Connecting => Cell::toned("connecting", Tone::Doubtful),
        ProfileState::Connected => Cell::toned("connected", Tone::Good),
        ProfileState::Reasserting => Cell::toned("reasserting", Tone::Doubtful),
        ProfileState::Disconnected => Cell::toned("disconnected", Tone::Bad),
    }
}

/// A problem on one line: place, what, what to do.
pub(crate) fn describe(problem: &Problem) -> String {
    let mut text = String::new();
    if let Some(file) = &problem.file {
        text.push_str(&format!("{file}:"));
    }
    if let (Some(line), Some(column)) = (problem.line, problem.column) {
        text.push_str(&format!("{line}:{column}:"));
    }
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(match problem.severity {
        Severity::Error => "error: ",
        Severity::Warning => "warning: ",
    });
    if let Some(key) = &problem.key {
        text.push_str(&format!("{key}: "));
    }
    text.push_str(&problem.message);
    if let Some(hint) = &problem.hint {
        text.push_str(&format!(" ({hint})"));
    }
    output::clean(&text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn profile(state: ProfileState) -> ProfileStatus {
        ProfileStatus {
            identifier: "work".into(),
            visible_name: None,
            layer: "managed".into(),
            order: 0,
            enabled: true,
            on: true,
            state,
            reason: None,
            server: Some("https://proxy.example:443".into()),
            protocol: Some("h2".into()),
            udp: Some(true),
            apps: 1,
            flows: 3,
            token: None,
            source: None,
        }
    }

    fn status(profiles: Vec<ProfileStatus>) -> Status {
        Status {
            version: "0.1.0".into(),
            instance: "default".into(),
            lifecycle: Lifecycle::Ready,
            uptime_ms: 180_000,
            profiles,
            problems: Vec::new(),
            counters: BTreeMap::new(),
        }
    }

    #[test]
    fn status_is_a_line_and_a_table() {
        let text = render(&status(vec![profile(ProfileState::Connected)]), false);
        let expected = "\
offramp 0.1.0, instance default: ready, up 3 min

PROFILE  LAYER    STATE      SERVER                     PROTOCOL  UDP  APPS  FLOWS
work     managed  connected  https://proxy.example:443  h2        yes  1     3
";
        assert_eq!(text, expected);
    }

    #[test]
    fn reason_and_problem_are_told() {
        let mut lost = profile(ProfileState::Disconnected);
        lost.reason = Some("connection refused".into());
        let mut status = status(vec![lost]);
        status.problems.push(Problem {
            severity: Severity::Error,
            code: None,
            file: Some("/etc/x.json".into()),
            line: Some(3),
            column: Some(7),
            key: Some("Servers[0].URL".into()),
            message: "is missing".into(),
            hint: Some("add it".into()),
        });
        let text = render(&status, false);
        assert!(text.contains("\nwork: connection refused\n"), "{text}");
        assert!(
            text.ends_with("\n/etc/x.json:3:7: error: Servers[0].URL: is missing (add it)\n"),
            "{text}"
        );
    }

    #[test]
    fn a_profile_that_is_off_comes_with_the_command_for_it() {
        let mut off = profile(ProfileState::Disconnected);
        off.on = false;
        off.reason = Some("it is switched off".into());
        let text = profiles(&[off], false);
        let expected = "\n\nwork: its apps are refused until `offramp on --profile work`\n";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn connected_means_ready_on_and_connected() {
        let good = profile(ProfileState::Connected);
        assert!(is_connected(&status(vec![
            profile(ProfileState::Connecting),
            good.clone()
        ])));
        assert!(!is_connected(&status(vec![])));
        assert!(!is_connected(&status(vec![profile(
            ProfileState::Reasserting
        )])));
        let mut off = good.clone();
        off.on = false;
        assert!(!is_connected(&status(vec![off])));
        let mut starting = status(vec![good]);
        starting.lifecycle = Lifecycle::Starting;
        assert!(!is_connected(&starting));
    }
}
