//! What is known of an app, for people.

use offramp_control::Fact;
use offramp_rules::{App, Claims, Program};

/// In the order in which a person reads it.
pub(super) fn facts(app: &App, inherited: &Claims) -> Vec<Fact> {
    let mut facts = vec![fact("user", &user(app))];
    if let Some(executable) = &app.executable {
        program("executable", executable, &mut facts);
    }
    if let Some(script) = &app.script {
        program("script", script, &mut facts);
    }
    if let Some(cgroup) = &app.cgroup {
        facts.push(fact("control group", &cgroup.to_string()));
    }
    if !app.bundles.is_empty() {
        let bundles: Vec<_> = app.bundles.iter().map(ToString::to_string).collect();
        facts.push(fact("installed as", &bundles.join(", ")));
    }
    if let Some(wrapper) = &inherited.wrapper {
        let value = format!("offramp run, under {wrapper}");
        facts.push(fact("started by", &value));
    }
    facts
}

pub(super) fn fact(label: &str, value: &str) -> Fact {
    Fact {
        label: label.to_owned(),
        value: value.to_owned(),
    }
}

fn program(label: &str, program: &Program, facts: &mut Vec<Fact>) {
    let value = match (&program.path, &program.name) {
        (Some(path), _) => path.display().to_string(),
        (None, Some(name)) => format!("{name}, which this machine does not see at any path"),
        (None, None) => "not known".to_owned(),
    };
    facts.push(fact(label, &value));
    let others: Vec<_> = program
        .known_as
        .iter()
        .filter(|path| program.path.as_ref() != Some(path))
        .map(|path| path.display().to_string())
        .collect();
    if !others.is_empty() {
        facts.push(fact("known as", &others.join(", ")));
    }
    if let Some(owner) = program.owner.filter(|owner| *owner != 0) {
        facts.push(fact("its owner", &named(owner, program.owner_name.clone())));
    }
    if let Some(hash) = &program.sha256 {
        let digits: String = hash.iter().map(|octet| format!("{octet:02x}")).collect();
        facts.push(fact("its sha256", &digits));
    }
}

fn user(app: &App) -> String {
    named(app.user.id, app.user.name.clone())
}

fn named(uid: u32, name: Option<String>) -> String {
    match name.or_else(|| login(uid)) {
        Some(name) => format!("{name} ({uid})"),
        None => uid.to_string(),
    }
}

/// The login name of a user.
pub(in crate::control) fn login(uid: u32) -> Option<String> {
    let found = nix::unistd::User::from_uid(uid.into());
    Some(found.ok()??.name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use offramp_rules::{Bundle, Cgroup, ProfileId, User};

    use super::*;

    fn lines(app: &App, inherited: &Claims) -> Vec<String> {
        let facts = facts(app, inherited);
        let line = |fact: &Fact| format!("{}: {}", fact.label, fact.value);
        facts.iter().map(line).collect()
    }

    #[test]
    fn everything_that_is_known_is_told_in_order() {
        let app = App {
            user: User {
                id: 1000,
                name: Some("alice".into()),
                ..User::default()
            },
            executable: Some(Program {
                name: Some("python3.11".into()),
                path: Some("/usr/bin/python3.11".into()),
                known_as: BTreeSet::from(["/usr/bin/python3.11".into(), "/usr/bin/python3".into()]),
                owner: Some(0),
                ..Program::default()
            }),
            script: Some(Program {
                path: Some("/home/alice/x.py".into()),
                owner: Some(1000),
                owner_name: Some("alice".into()),
                sha256: Some([0xab; 32]),
                ..Program::default()
            }),
            cgroup: Some(Cgroup::new("/user.slice/a.scope")),
            bundles: BTreeSet::from([Bundle::Desktop("x".into())]),
            ..App::default()
        };
        let inherited = Claims {
            wrapper: Some(ProfileId::new("work")),
            ..Claims::default()
        };
        let told = lines(&app, &inherited);
        assert_eq!(told[0], "user: alice (1000)");
        assert_eq!(told[1], "executable: /usr/bin/python3.11");
        assert_eq!(told[2], "known as: /usr/bin/python3");
        assert_eq!(told[3], "script: /home/alice/x.py");
        assert_eq!(told[4], "its owner: alice (1000)");
        assert_eq!(told[5], format!("its sha256: {}", "ab".repeat(32)));
        assert_eq!(told[6], "control group: /user.slice/a.scope");
        assert_eq!(told[8], "started by: offramp run, under work");
    }

    #[test]
    fn a_program_without_a_path_says_so() {
        let app = App {
            executable: Some(Program {
                name: Some("memfd:x".into()),
                ..Program::default()
            }),
            ..App::default()
        };
        let told = lines(&app, &Claims::default());
        assert_eq!(
            told[1],
            "executable: memfd:x, which this machine does not see at any path"
        );
    }
}
