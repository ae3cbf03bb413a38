//! `offramp apps`.

use offramp_control::{AppClaim, ClaimedBy, Client, RunningApp, Way};

use crate::arguments::Json;
use crate::failure::Failure;
use crate::output::{self, Cell, Table, Tone};

pub(crate) async fn run(client: &Client, arguments: Json) -> Result<(), Failure> {
    let apps = client.apps().await?;
    if arguments.json {
        output::print_json(&apps)
    } else if apps.is_empty() {
        output::print("No running app is under a profile.\n")
    } else {
        output::print(&render(&apps, output::colour()))
    }
}

/// Apps as a table; processes of which everything is equal share a row.
fn render(apps: &[RunningApp], colour: bool) -> String {
    let mut table = Table::new([
        "APP",
        "USER",
        "PID",
        "PROCESSES",
        "CLASS",
        "CLAIMED BY",
        "VERDICT",
    ]);
    for group in groups(apps) {
        let first = group[0];
        let class = first.class.map(|class| class.to_string());
        table.row([
            name(first).into(),
            user(first).into(),
            first.pid.to_string().into(),
            group.len().to_string().into(),
            output::or_dash(class.as_deref()).into(),
            claims(first).into(),
            Cell::toned(first.verdict.as_str(), tone(first.way)),
        ]);
    }
    table.render(colour)
}

/// In the order of their first processes.
fn groups(apps: &[RunningApp]) -> Vec<Vec<&RunningApp>> {
    let mut groups: Vec<Vec<&RunningApp>> = Vec::new();
    for app in apps {
        match groups.iter_mut().find(|group| is_alike(group[0], app)) {
            Some(group) => group.push(app),
            None => groups.push(vec![app]),
        }
    }
    groups
}

fn is_alike(one: &RunningApp, other: &RunningApp) -> bool {
    let of = |app: &RunningApp| RunningApp {
        pid: 0,
        ..app.clone()
    };
    of(one) == of(other)
}

fn name(app: &RunningApp) -> String {
    match &app.script {
        Some(script) => format!("{script} ({})", basename(&app.program)),
        None => app.program.clone(),
    }
}

fn basename(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn user(app: &RunningApp) -> String {
    app.user.clone().unwrap_or_else(|| app.uid.to_string())
}

fn claims(app: &RunningApp) -> String {
    let claims: Vec<_> = app.claims.iter().map(claim).collect();
    output::or_dash(Some(&claims.join(", ")))
}

fn claim(claim: &AppClaim) -> String {
    let rule = claim.rule.as_deref().unwrap_or_default();
    match claim.by {
        ClaimedBy::Rule => format!("{}: {rule}", claim.profile),
        ClaimedBy::Inheritance => format!("{}: {rule} (inherited)", claim.profile),
        ClaimedBy::Wrapper => format!("{}: offramp run", claim.profile),
        ClaimedBy::Tools => format!("{}: {rule} (its tools alone)", claim.profile),
    }
}

pub(crate) fn tone(way: Way) -> Tone {
    match way {
        Way::Relay => Tone::Good,
        Way::Direct => Tone::Doubtful,
        Way::Refused => Tone::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(pid: u32) -> RunningApp {
        RunningApp {
            pid,
            uid: 1000,
            user: Some("alice".into()),
            program: "/usr/bin/curl".into(),
            script: None,
            claims: vec![AppClaim {
                profile: "work".into(),
                rule: Some("exe:curl".into()),
                by: ClaimedBy::Rule,
            }],
            class: Some(3),
            way: Way::Relay,
            verdict: "relay through work".into(),
        }
    }

    #[test]
    fn processes_that_are_alike_share_a_row() {
        let mut script = app(9);
        script.program = "/usr/bin/python3".into();
        script.script = Some("/home/alice/x.py".into());
        script.claims[0].by = ClaimedBy::Wrapper;
        (script.user, script.class, script.way) = (None, None, Way::Refused);
        script.verdict = "refuse: work is off".into();
        let expected = "\
APP                         USER   PID  PROCESSES  CLASS  CLAIMED BY         VERDICT
/usr/bin/curl               alice  7    2          3      work: exe:curl     relay through work
/home/alice/x.py (python3)  1000   9    1          -      work: offramp run  refuse: work is off
";
        assert_eq!(render(&[app(7), script, app(8)], false), expected);
    }

    #[test]
    fn every_claim_says_how_it_came() {
        let mut app = app(7);
        let mut other = app.claims[0].clone();
        (other.profile, other.by) = ("home".into(), ClaimedBy::Inheritance);
        app.claims.push(other.clone());
        other.by = ClaimedBy::Tools;
        app.claims.push(other);
        let expected =
            "work: exe:curl, home: exe:curl (inherited), home: exe:curl (its tools alone)";
        assert_eq!(claims(&app), expected);
    }
}
