//! Users of the client, and the ways that their programs' flows take.

use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::addresses::{CLIENT, CLIENT6};
use crate::lab::Lab;
use crate::process::{Finished, Running, wait_until};
use crate::product::{Daemon, binary};

const LIMIT: Duration = Duration::from_secs(60);

/// A user of the client machine, with a home of its own.
#[derive(Debug)]
pub struct Person<'lab> {
    lab: &'lab Lab,
    /// The user id; 0 is root.
    pub id: u32,
    home: PathBuf,
}

impl<'lab> Person<'lab> {
    /// The user with this id, who need not be in any list of users.
    pub fn new(lab: &'lab Lab, id: u32) -> Self {
        let home = lab.directory().join(format!("home-{id}"));
        let person = Self { lab, id, home };
        person.directory("");
        person
    }

    /// Makes a directory in the home that nobody else may enter, with those above it.
    pub fn directory(&self, path: &str) -> PathBuf {
        let mut directory = self.home.clone();
        for part in std::iter::once("").chain(path.split('/')) {
            directory.push(part);
            std::fs::create_dir_all(&directory).expect("the lab's directory is ours");
            chown(&directory, Some(self.id), Some(self.id)).expect("root may do this");
            let mode = PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(&directory, mode).expect("root may do this");
        }
        directory
    }

    /// Writes a file in the home that nobody else may read.
    pub fn write(&self, path: &str, text: &str) -> PathBuf {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let file = self.directory(folder).join(name);
        std::fs::write(&file, text).expect("the directory is ours");
        chown(&file, Some(self.id), Some(self.id)).expect("root may do this");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("it is ours");
        file
    }

    /// A program that this user will run.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.lab.client().command("setpriv");
        command.arg(format!("--reuid={}", self.id));
        command.arg(format!("--regid={}", self.id));
        command.args(["--clear-groups", "--inh-caps=-all", "--"]);
        command.arg(program.as_ref()).env("HOME", &self.home);
        command.env_remove("XDG_CONFIG_HOME");
        command
    }

    /// Runs `offramp` with these arguments.
    pub fn offramp(&self, daemon: &Daemon<'_>, arguments: &[&str]) -> Finished {
        let mut command = self.command(binary("offramp"));
        command.arg("--socket").arg(daemon.socket()).args(arguments);
        Running::start(command).finish(LIMIT)
    }

    /// Installs a profile and returns what `offramp` said.
    pub fn install(&self, daemon: &Daemon<'_>, profile: &Value) -> Finished {
        let file = self.write("new.json", &profile.to_string());
        self.offramp(daemon, &["profile", "install", &file.display().to_string()])
    }
}

/// The way that a new flow took to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// The target saw the client itself.
    Direct,
    /// The target saw the gateway; with the profile, as the daemon tells.
    Relayed(String),
    /// The program got no flow.
    Refused,
}

/// A program that has opened a flow and keeps it.
#[derive(Debug)]
pub struct Visit {
    /// The way of the flow.
    pub way: Way,
    /// The program.
    pub running: Running,
}

/// Copies the probe to a name of its own in the lab's directory.
pub fn copy_probe(lab: &Lab, name: &str) -> PathBuf {
    let program = lab.directory().join(name);
    if !program.exists() {
        std::fs::copy(binary("offramp-probe"), &program).expect("the directory is ours");
    }
    program
}

impl Visit {
    /// Lets `command`, a copy of the probe, open a flow to an echo that nobody else reaches now.
    pub fn to(lab: &Lab, daemon: &Daemon<'_>, mut command: Command, target: &str) -> Self {
        let address: SocketAddr = target.parse().expect("an address and a port");
        let peer = || {
            let seen = lab.servers().seen();
            let mut here = seen.iter().filter(|seen| seen.target == address);
            here.next_back().map(|seen| seen.peer.ip())
        };
        lab.servers().forget();
        command.args(["open", "1", target]).stdin(Stdio::piped());
        let mut running = Running::start(command);
        wait_until("the flow is open or not", LIMIT, || {
            running.said().contains('\n') || !running.is_running()
        });
        let said = running.said();
        let way = match peer() {
            _ if said.starts_with("open 0") => Way::Refused,
            Some(peer) if peer == CLIENT || peer == CLIENT6 => Way::Direct,
            Some(_) => Way::Relayed(profile_of(daemon, running.id())),
            None => panic!("neither open nor refused: {said}"),
        };
        Self { way, running }
    }
}

/// The profile under which the daemon has a flow of this process.
fn profile_of(daemon: &Daemon<'_>, process: i32) -> String {
    let said = daemon.offramp(&["flows", "--json"]).success();
    let flows: Value = serde_json::from_str(&said).expect("JSON was asked for");
    let mut flows = flows.as_array().into_iter().flatten();
    let flow = flows.find(|flow| flow["app"]["pid"] == process);
    let profile = flow.and_then(|flow| flow["profile"].as_str());
    profile
        .unwrap_or_else(|| panic!("no flow of {process}: {said}"))
        .to_owned()
}
