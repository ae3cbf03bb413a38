//! Profiles of every format that there has been are read for ever, and mean what they meant.
//!
//! Nothing in `tests/old/` is ever changed. A new format gets new files there; the text beside a
//! new file is written by the first run.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write;
use std::fs;
use std::path::Path;

use offramp_profile::{Asset, Profile, UserOverlay, read, read_user};
use offramp_rules::{Host, Layer, Rule, UnavailableAction};

const ALICE: u32 = 1000;

#[test]
fn machines_profiles_mean_what_they_meant() {
    let count = each("tests/old", |text| {
        let profiles = read(text, None, Layer::Managed).unwrap();
        profiles.iter().map(profile).collect()
    });
    assert!(count >= 5, "only {count} files were found");
}

#[test]
fn users_files_mean_what_they_meant() {
    let count = each("tests/old/user", |text| {
        let (profiles, overlays) = read_user(text.as_bytes(), None, ALICE).unwrap();
        let profiles = profiles.iter().map(profile);
        profiles.chain(overlays.iter().map(overlay)).collect()
    });
    assert!(count >= 1, "only {count} files were found");
}

fn each(folder: &str, describe: impl Fn(&str) -> String) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let found = describe(&fs::read_to_string(&path).unwrap());
        let expected = path.with_extension("txt");
        if !expected.exists() && std::env::var_os("OFFRAMP_REGENERATE").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap();
        assert_eq!(found, expected, "{}", path.display());
        count += 1;
    }
    count
}

fn profile(profile: &Profile) -> String {
    let mut text = format!("profile {}\n", profile.id());
    let rules = &profile.rules;
    let mut line = |key: &str, value: String| writeln!(text, "  {key}: {value}").unwrap();
    line("layer", rules.layer.to_string());
    line("owner", format!("{:?}", rules.owner));
    line("order", rules.order.to_string());
    line("enabled", rules.enabled.to_string());
    line("name", profile.visible_name.clone());
    line("description", format!("{:?}", profile.description));
    line("organization", format!("{:?}", profile.organization));
    line("token", profile.token.clone());
    line("revision", profile.revision.to_string());
    for server in &profile.servers {
        let name = host(&server.server_name);
        line(
            "server",
            format!(
                "{} {} {} as {name}",
                server.name,
                host(&server.host),
                server.port
            ),
        );
        line("  anchors", asset(server.anchors.as_ref()));
        let authentication = server.authentication.as_ref();
        let method = authentication.map(|authentication| authentication.method);
        let used = asset(authentication.map(|authentication| &authentication.asset));
        line("  authentication", format!("{method:?} {used}"));
    }
    line("synthetic IPv4", profile.synthetic_v4.to_string());
    line(
        "synthetic IPv6",
        profile
            .synthetic_v6
            .map_or("the daemon's".to_owned(), |v6| v6.to_string()),
    );
    line("inbound", profile.allow_inbound.to_string());
    line("removal disallowed", profile.removal_disallowed.to_string());
    line("users may change", join(&profile.overridable));
    line("excluded domains", join(&rules.excluded_domains));
    line("excluded routes", join(&rules.excluded_routes));
    line(
        "exclude local networks",
        rules.exclude_local_networks.to_string(),
    );
    line(
        "unavailable",
        unavailable(Some(rules.unavailable)).to_owned(),
    );
    for each in &rules.rules {
        describe(each, "  ", &mut text);
    }
    text
}

fn describe(rule: &Rule, indent: &str, text: &mut String) {
    writeln!(text, "{indent}rule {}: {}", rule.identifier, rule.identity).unwrap();
    let mut line = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            writeln!(text, "{indent}  {key}: {value}").unwrap();
        }
    };
    line(
        "path",
        rule.path.as_ref().map(|path| path.display().to_string()),
    );
    line(
        "requirement",
        rule.requirement.as_ref().map(ToString::to_string),
    );
    line("user", rule.user.as_ref().map(ToString::to_string));
    line(
        "domains",
        (!rule.domains.is_empty()).then(|| join(&rule.domains)),
    );
    for tool in &rule.tools {
        describe(tool, &format!("{indent}  "), text);
    }
}

fn overlay(overlay: &UserOverlay) -> String {
    let changes = &overlay.overlay;
    let mut text = format!("overlay {}\n", overlay.identifier);
    let mut line = |key: &str, value: String| writeln!(text, "  {key}: {value}").unwrap();
    line("excluded domains", join(&changes.excluded_domains));
    line("excluded routes", join(&changes.excluded_routes));
    line(
        "exclude local networks",
        format!("{:?}", changes.exclude_local_networks),
    );
    line("unavailable", unavailable(changes.unavailable).to_owned());
    text
}

fn host(host: &Host) -> String {
    match host {
        Host::Name(name) => name.to_string(),
        Host::Address(address) => address.to_string(),
    }
}

fn asset(asset: Option<&Asset>) -> String {
    match asset {
        None => "none".to_owned(),
        Some(Asset::Credential(name)) => format!("the machine's {name}"),
        Some(Asset::Own { owner, name }) => format!("the user {owner}'s {name}"),
        Some(Asset::Inline(_)) => "given".to_owned(),
    }
}

fn unavailable(action: Option<UnavailableAction>) -> &'static str {
    match action {
        None => "as it was",
        Some(UnavailableAction::Drop) => "drop",
        Some(UnavailableAction::Direct) => "direct",
    }
}

fn join<T: ToString>(list: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = list.into_iter().map(|one| one.to_string()).collect();
    all.join(", ")
}
