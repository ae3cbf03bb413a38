mod events;
mod mounts;
mod places;
mod programs;
mod scripts;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use offramp_rules::{Identity, Layer, Profile, ProfileId, Rule, UnavailableAction};
use tempfile::TempDir;

use super::*;

/// A program that runs until it is dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().expect("it starts"))
    }

    /// A program that says a line when it is as it is to be looked at.
    fn start_and_wait(command: &mut Command) -> Self {
        let mut running = Self::start(command);
        running.wait_for_line();
        running
    }

    fn wait_for_line(&mut self) {
        let output = self.0.stdout.as_mut().expect("it is piped");
        let mut octet = [0];
        loop {
            io::Read::read_exact(output, &mut octet).expect("it says a line");
            if octet[0] == b'\n' {
                return;
            }
        }
    }

    fn say(&mut self, line: &str) {
        let input = self.0.stdin.as_mut().expect("it is piped");
        io::Write::write_all(input, format!("{line}\n").as_bytes()).expect("it listens");
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder, links resolved, as the kernel tells it.
struct Folder {
    path: PathBuf,
    _owned: TempDir,
}

impl Folder {
    fn new() -> Self {
        let owned = tempfile::tempdir().expect("there is room");
        let path = owned.path().canonicalize().expect("it is there");
        Self {
            path,
            _owned: owned,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        let parent = path.parent().expect("it is below a folder");
        fs::create_dir_all(parent).expect("it can be made");
        path
    }

    /// A program that waits for the end of its input.
    fn program(&self, name: &str) -> PathBuf {
        let path = self.at(name);
        fs::copy("/usr/bin/cat", &path).expect("there is cat");
        path
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.at(name);
        fs::write(&path, text).expect("there is room");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        path
    }
}

fn rule(identity: &str) -> Rule {
    Rule::new(identity.parse::<Identity>().expect("an identity"))
}

fn profiles(rules: Vec<Rule>) -> Profiles {
    Profiles::new([Profile {
        layer: Layer::Managed,
        order: 0,
        id: ProfileId::new("work"),
        owner: None,
        enabled: true,
        rules,
        excluded_domains: Vec::new(),
        excluded_fqdns: Vec::new(),
        excluded_routes: Vec::new(),
        exclude_local_networks: false,
        unavailable: UnavailableAction::Drop,
        real_addresses: false,
        refuse_encrypted: false,
        encrypted_resolvers: Vec::new(),
        overlays: std::collections::BTreeMap::new(),
    }])
}

/// What is known where these rules are in force.
fn facts(rules: &[&str]) -> (Facts, Interest) {
    let facts = Facts::new();
    let interest = facts.learn(&profiles(rules.iter().map(|text| rule(text)).collect()));
    (facts, interest)
}

fn exe(path: &Path) -> String {
    format!("exe:{}", path.display())
}

fn id_of(path: &Path) -> FileId {
    Opened::at(path)
        .expect("it is there")
        .id
        .expect("it has one")
}
