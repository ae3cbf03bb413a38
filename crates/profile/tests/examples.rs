//! The examples in `rules/` are read, decide as the table beside them says, and the schema there
//! is the one that the reader's table makes.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use offramp_profile::{
    Directories, UserFile, UserFiles, install, install_user, load, read, schema,
};
use offramp_rules::{
    App, Cgroup, Claims, DomainName, Host, Layer, ProfileId, Profiles, Program, Reason, State,
    Target, User, World, claims, decide,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Expected {
    /// The profile of the `offramp run` that started it.
    app: Option<String>,
    process: Option<Process>,
    target: String,
    state: Option<String>,
    verdict: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Process {
    executable: PathBuf,
    script: Option<PathBuf>,
    /// The login name of the user whose file the executable is.
    owner: Option<String>,
    cgroup: Option<String>,
    #[serde(default)]
    user: u32,
    #[serde(default)]
    groups: BTreeSet<String>,
    parent: Option<Box<Process>>,
}

impl Process {
    /// What rules find in it, with what they found in its ancestors.
    fn claims(&self, rules: &Profiles) -> Claims {
        let program = |path: &PathBuf| Program {
            name: path
                .file_name()
                .and_then(|name| name.to_str())
                .map(str::to_owned),
            path: Some(path.clone()),
            owner: Some(if self.owner.as_deref() == Some("root") {
                0
            } else {
                1000
            }),
            owner_name: self.owner.clone(),
            ..Program::default()
        };
        let app = App {
            user: User {
                id: self.user,
                group_names: self.groups.clone(),
                ..User::default()
            },
            executable: Some(program(&self.executable)),
            script: self.script.as_ref().map(program),
            cgroup: self.cgroup.as_deref().map(Cgroup::new),
            ..App::default()
        };
        let inherited = self.parent.as_ref().map(|parent| parent.claims(rules));
        claims(rules, &app, &inherited.unwrap_or_default())
    }
}

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules")
}

#[test]
fn examples_decide_as_their_tables_say() {
    let examples = rules().join("examples");
    let mut seen = 0;
    for path in files(&examples) {
        let text = fs::read_to_string(&path).unwrap();
        let profiles = read(&text, Some(&path), Layer::Managed).unwrap();
        let rules = profiles.into_iter().map(|profile| profile.rules).collect();
        check_all(&path, rules);
        seen += 1;
    }
    assert_eq!(seen, 7);
}

/// What users change is laid over the example of the same name.
#[test]
fn what_users_change_decides_as_its_tables_say() {
    const ALICE: u32 = 1000;
    let mut seen = 0;
    for path in files(&rules().join("examples/user")) {
        let machine = tempfile::tempdir().unwrap();
        let managed = machine.path().join("etc/policies/managed");
        fs::create_dir_all(&managed).unwrap();
        for folder in ["etc", "etc/policies", "etc/policies/managed"] {
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(machine.path().join(folder), mode).unwrap();
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let base = fs::read_to_string(rules().join("examples").join(name)).unwrap();
        install(&machine.path().join("etc"), Layer::Managed, &base).unwrap();
        let directories = Directories {
            vendor: None,
            ..Directories::new(machine.path().join("etc")).with_state(machine.path().join("state"))
        };
        let file = UserFile {
            name: name.to_owned(),
            content: fs::read(&path).unwrap(),
        };
        let given = UserFiles {
            policies: vec![file],
            credentials: Vec::new(),
        };
        install_user(directories.users.as_deref().unwrap(), ALICE, &given).unwrap();
        let loaded = load(&directories, None);
        assert_eq!(loaded.problems, []);
        check_all(&path, loaded.rules().iter().cloned().collect());
        seen += 1;
    }
    assert_eq!(seen, 1);
}

/// The examples of a folder, without their tables.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| {
            let name = path.to_str().unwrap();
            name.ends_with(".json") && !name.ends_with(".verdicts.json")
        })
        .collect()
}

fn check_all(path: &Path, profiles: Vec<offramp_rules::Profile>) {
    let table = fs::read_to_string(path.with_extension("verdicts.json")).unwrap();
    let table: Vec<Expected> = serde_json::from_str(&table).unwrap();
    let wrong: Vec<String> = table
        .iter()
        .enumerate()
        .filter_map(|(row, expected)| {
            let verdict = verdict(&profiles, expected);
            let is_wrong = verdict != expected.verdict;
            is_wrong.then(|| format!("row {row}: {:?} is {verdict:?}", expected.verdict))
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{}:\n{}",
        path.display(),
        wrong.join("\n")
    );
}

fn verdict(profiles: &[offramp_rules::Profile], expected: &Expected) -> String {
    let mut world = World::new(["192.168.1.0/24".parse().unwrap()]);
    for profile in profiles {
        world.set_state(profile.id.clone(), state(expected.state.as_deref()));
    }
    let rules = Profiles::new(profiles.iter().cloned());
    let app = App {
        wrapper: expected.app.as_deref().map(ProfileId::new),
        ..App::default()
    };
    let app = match &expected.process {
        Some(process) => process.claims(&rules),
        None => claims(&rules, &app, &Claims::default()),
    };
    let decision = decide(&rules, &app, &target(&expected.target), &world);
    decision.verdict.to_string()
}

fn state(name: Option<&str>) -> State {
    match name {
        None => State::Connected,
        Some("Off") => State::Off,
        Some("Connecting") => State::Connecting,
        Some("Reasserting") => State::Reasserting,
        Some("OnDemand") => State::Disconnected(Reason::OnDemand),
        Some("Unreachable") => State::Disconnected(Reason::Unreachable),
        Some("NotAuthorised") => State::Disconnected(Reason::NotAuthorised),
        Some(other) => panic!("no state {other}"),
    }
}

fn target(text: &str) -> Target {
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return address.into();
    }
    let (name, port) = text.rsplit_once(':').unwrap();
    Target {
        host: Host::Name(DomainName::parse(name).unwrap()),
        port: port.parse().unwrap(),
    }
}

/// Write the file anew with `OFFRAMP_REGENERATE=1 cargo test -p offramp-profile --test examples`.
#[test]
fn the_schema_is_up_to_date() {
    let path = rules().join("profile.schema.json");
    if std::env::var_os("OFFRAMP_REGENERATE").is_some() {
        let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        fs::write(&path, text).unwrap();
    }
    let checked_in: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert!(checked_in == schema(), "write the schema anew");
}
