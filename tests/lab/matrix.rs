//! Rules held against programs that are started in many ways: who went where, as the origin saw it.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::addresses::{CLIENT, PROXY, target};
use crate::capture::Transport;
use crate::first::build_first;
use crate::lab::Lab;
use crate::origin::port;
use crate::product::{Daemon, Gateway, binary};

/// Where a flow has to come from, as the origin sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// All flows from the gateway.
    Managed,
    /// All flows from the client itself.
    Direct,
    /// The last flow from the gateway, for what only shows after the start.
    ManagedInTheEnd,
    /// No flow at all.
    Refused,
}

/// Some rules, and programs that are or are not what they name.
///
/// Texts may hold `$name` (a name of this case alone), `$dir` (a directory of its own), `$first` (a
/// program of [`build_first`]), `$sha` (its SHA-256), `$connect` (Python that opens a flow), `$bash`
/// (the same for bash) and the functions of the prelude.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What it is about.
    pub label: &'static str,
    /// The rules, as JSON.
    pub rules: &'static [&'static str],
    /// A script that runs before the daemon starts.
    pub before: &'static str,
    /// What is started, as a script, and what has to come of it.
    pub starts: &'static [(&'static str, &'static str, Expected)],
}

/// `in_group PATH COMMAND…` runs it in that control group, `as_nobody COMMAND…` as that user.
const PRELUDE: &str = r#"
cg=$(findmnt -rnt cgroup2 -o TARGET | head -1)
in_group() {
    group=$cg$1; shift; mkdir -p "$group"
    sh -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$group" "$@"
}
as_nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"; }
"#;

/// Starts everything of `cases` under one daemon that has all their rules, and fails the test with
/// a table of what went elsewhere.
#[track_caller]
pub fn check_matrix(cases: &[Case]) {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let matrix = Matrix::new(&lab);
    let mut rules = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        std::fs::create_dir(matrix.directory(number)).expect("the directory is new");
        if !case.before.is_empty() {
            lab.client().sh(&matrix.script(number, case.before));
        }
        for rule in case.rules {
            let text = matrix.fill(number, rule);
            let mut rule: Value =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            rule["Identifier"] = json!(format!("{}-{}", case.label, rules.len()));
            rules.push(rule);
        }
    }
    let mut profile = Daemon::profile();
    profile["Payload"]["AppRules"] = rules.into();
    let daemon = Daemon::start_with(&lab, &[profile]);
    let mut wrong = String::new();
    for (number, case) in cases.iter().enumerate() {
        for (what, script, expected) in case.starts {
            let seen = matrix.start(&daemon, number, script);
            if !seen.is(*expected) {
                let _ = writeln!(wrong, "{}, {what}: not {expected:?}: {seen:?}", case.label);
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

struct Matrix<'lab> {
    lab: &'lab Lab,
    groups: Groups,
    first: PathBuf,
    sha: String,
}

#[derive(Debug)]
struct Outcome {
    peers: Vec<IpAddr>,
    /// For the person who reads the table.
    #[expect(dead_code, reason = "printed when a case fails")]
    said: String,
}

impl Outcome {
    fn is(&self, expected: Expected) -> bool {
        let all = |peer: IpAddr| !self.peers.is_empty() && self.peers.iter().all(|p| *p == peer);
        match expected {
            Expected::Managed => all(PROXY.into()),
            Expected::Direct => all(CLIENT.into()),
            Expected::ManagedInTheEnd => self.peers.last() == Some(&PROXY.into()),
            Expected::Refused => self.peers.is_empty(),
        }
    }
}

impl<'lab> Matrix<'lab> {
    fn new(lab: &'lab Lab) -> Self {
        let first = lab.directory().join("first");
        let banner = SocketAddrV4::new(target(10), port::BANNER);
        build_first(&first, Transport::Tcp, banner);
        let sum = lab.client().sh(&format!("sha256sum {}", first.display()));
        Self {
            lab,
            groups: Groups::new(),
            first,
            sha: sum.split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    fn directory(&self, number: usize) -> PathBuf {
        self.lab.directory().join(format!("case-{number}"))
    }

    fn fill(&self, number: usize, text: &str) -> String {
        text.replace("$name", &format!("{}n{number}", self.groups.tag))
            .replace("$dir", &self.directory(number).display().to_string())
            .replace("$first", &self.first.display().to_string())
            .replace("$sha", &self.sha)
            .replace(
                "$connect",
                "import socket; socket.create_connection((\"203.0.113.10\", 2001), 10).recv(9)",
            )
            .replace(
                "$bash",
                "exec 9<>/dev/tcp/203.0.113.10/2001; read -r said <&9",
            )
    }

    fn script(&self, number: usize, text: &str) -> String {
        format!("{PRELUDE}{}", self.fill(number, text))
    }

    fn start(&self, daemon: &Daemon<'_>, number: usize, text: &str) -> Outcome {
        self.lab.servers().forget();
        let script = self.script(number, text);
        let script = script.replace(
            "$run",
            &format!(
                "{} --socket {} run --profile {} --",
                binary("offramp").display(),
                daemon.socket().display(),
                crate::PROFILE
            ),
        );
        let said = self.lab.client().run(&["sh", "-c", &script]);
        let peers = self.lab.servers().seen();
        Outcome {
            peers: peers.iter().map(|seen| seen.peer.ip()).collect(),
            said: format!(
                "{} {} {}",
                said.status,
                said.stdout.trim(),
                said.stderr.trim()
            ),
        }
    }
}

/// Control groups that a test makes: those with its tag in their names, and parents that were
/// missing. All of them go with this.
struct Groups {
    root: PathBuf,
    tag: String,
    missing: Vec<PathBuf>,
}

/// Where systemd has units; made for the test where systemd does not run.
const PARENTS: [&str; 6] = [
    "system.slice",
    "user.slice",
    "user.slice/user-0.slice",
    "user.slice/user-0.slice/user@0.service",
    "user.slice/user-0.slice/user@0.service/app.slice",
    "user.slice/user-0.slice/user@0.service/background.slice",
];

impl Groups {
    fn new() -> Self {
        let mounts = std::fs::read_to_string("/proc/mounts").expect("Linux has it");
        let root = mounts
            .lines()
            .filter_map(|line| {
                let mut parts = line.split(' ').skip(1);
                let path = parts.next()?;
                (parts.next()? == "cgroup2").then(|| PathBuf::from(path))
            })
            .next()
            .expect("cgroup2 is mounted: run scripts/test");
        let missing = PARENTS
            .map(|parent| root.join(parent))
            .into_iter()
            .filter(|path| !path.exists())
            .collect();
        Self {
            root,
            tag: format!("lab{}", std::process::id()),
            missing,
        }
    }

    /// Removes what has the tag, deepest first.
    fn remove(&self, directory: &Path, is_tagged: bool) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let is_tagged =
                    is_tagged || entry.file_name().to_string_lossy().contains(&self.tag);
                self.remove(&path, is_tagged);
                if is_tagged {
                    let _ = std::fs::remove_dir(&path);
                }
            }
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.remove(&self.root, false);
        for parent in self.missing.iter().rev() {
            let _ = std::fs::remove_dir(parent);
        }
    }
}
