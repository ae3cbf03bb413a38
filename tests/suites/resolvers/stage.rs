//! A lab whose client may have any resolver, with the programs that ask.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use offramp_tests::addresses::{CLIENT, CLIENT6, PROXY, PROXY6, target, target6};
use offramp_tests::{Daemon, Lab, Resolvers, Running, User};
use serde_json::json;

use crate::clients::Client;

const LIMIT: Duration = Duration::from_secs(60);

/// Every name below it is the same target, which is asked for by nobody else.
pub(crate) const DOMAIN: &str = "apps.test";

/// What the profile excludes of that.
pub(crate) const EXCLUDED: &str = "direct.apps.test";

/// How a program is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ruled {
    Managed,
    Unmanaged,
}

/// The lab, with the daemon, and an `/etc` and a `/run` that are the client's own.
pub(crate) struct Stage<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) files: Resolvers<'lab>,
    _bus: Running,
    pub(crate) daemon: Daemon<'lab>,
}

impl<'lab> Stage<'lab> {
    pub(crate) fn new(lab: &'lab Lab) -> Self {
        build(lab.directory());
        let files = own_files(lab);
        let mut profile = Daemon::profile();
        profile["Payload"]["ExcludedDomains"] = json!([EXCLUDED]);
        Self {
            lab,
            _bus: files.start_bus(),
            files,
            daemon: Daemon::start_with(lab, &[profile]),
        }
    }

    /// Runs a client for `name` and returns what is wrong with it.
    pub(crate) fn check(&self, client: &Client, name: &str, ruled: Ruled) -> Vec<String> {
        self.lab.servers().forget();
        let said = Running::start(self.command(client, name, ruled)).finish(LIMIT);
        if client.is_shut_out && ruled == Ruled::Managed {
            return match said.status.success() {
                true => vec![format!("{} was answered: {said}", client.label)],
                false => Vec::new(),
            };
        }
        let mut wrong = Vec::new();
        if client.ends_well && !said.status.success() {
            wrong.push("it failed".to_owned());
        }
        if client.shows && !is_told(&said.stdout, ruled) {
            wrong.push("it got other addresses".to_owned());
        }
        if client.visits {
            let peers: [IpAddr; 2] = match ruled {
                Ruled::Managed => [PROXY.into(), PROXY6.into()],
                Ruled::Unmanaged => [CLIENT.into(), CLIENT6.into()],
            };
            let seen = self.lab.servers().seen();
            if seen.is_empty() || !seen.iter().all(|seen| peers.contains(&seen.peer.ip())) {
                wrong.push(format!("the origin saw {seen:?}"));
            }
        }
        let about = |what: String| format!("{} for {name}, {ruled:?}: {what}", client.label);
        let mut wrong: Vec<_> = wrong.into_iter().map(about).collect();
        if !wrong.is_empty() {
            wrong.push(said.to_string());
        }
        wrong
    }

    /// The command line of a client for `name`.
    pub(crate) fn command(&self, client: &Client, name: &str, ruled: Ruled) -> Command {
        let directory = self.lab.directory().display().to_string();
        let [libraries, resolvectl] = self.files.line("usr/bin/resolvectl");
        let fill = |word: &&str| match *word {
            "{libraries}" => libraries.clone(),
            "{resolvectl}" => resolvectl.clone(),
            word => word.replace("{name}", name).replace("{dir}", &directory),
        };
        let line: Vec<String> = client.line.iter().map(fill).collect();
        let mut command = self.command_of(&line[0], ruled);
        command
            .args(&line[1..])
            .envs(client.environment.iter().copied());
        command
    }

    /// A command that runs `program`.
    pub(crate) fn command_of(&self, program: &str, ruled: Ruled) -> Command {
        match ruled {
            Ruled::Managed => self.daemon.command_as(User::Root, program),
            Ruled::Unmanaged => self.lab.client().command(program),
        }
    }

    /// Puts a resolv.conf in the place of the one before, as programs that keep it do.
    pub(crate) fn resolv_conf(&self, text: &str) {
        self.replace("resolv.conf", |new| std::fs::write(new, text));
    }

    /// The same where the file is a link.
    pub(crate) fn resolv_conf_is_at(&self, target: &str) {
        self.replace("resolv.conf", |new| std::os::unix::fs::symlink(target, new));
    }

    /// Has the C library find hosts by these services.
    pub(crate) fn find_hosts_by(&self, services: &str) {
        let text = format!("hosts: {services}\n");
        self.replace("nsswitch.conf", |new| std::fs::write(new, text));
    }

    /// Runs `resolvectl`, beside the profile.
    pub(crate) fn resolvectl(&self, arguments: &[&str]) {
        let mut command = self.files.command("usr/bin/resolvectl");
        command.args(arguments);
        Running::start(command).finish(LIMIT).success();
    }

    fn replace(&self, name: &str, make: impl FnOnce(&Path) -> std::io::Result<()>) {
        let file = self.lab.directory().join("etc").join(name);
        let new = file.with_extension("new");
        make(&new).expect("the lab's directory is ours");
        std::fs::rename(&new, &file).expect("the lab's directory is ours");
    }

    /// The name server's queries for `name` that came from the client.
    pub(crate) fn asked_of_the_lab(&self, name: &str) -> Vec<String> {
        let from = [format!("from {CLIENT}"), format!("from {CLIENT6}")];
        let mut queries = self.lab.names().queries();
        queries.retain(|query| {
            query.contains(name) && from.iter().any(|from| query.ends_with(from.as_str()))
        });
        queries
    }
}

/// Whether addresses are among what a program said, and all of them are the target's own (of an
/// unmanaged program), or stand for a name.
fn is_told(said: &str, ruled: Ruled) -> bool {
    let words = said.split(|one: char| !one.is_ascii_hexdigit() && !".:#".contains(one));
    let addresses = words
        .map(|word| word.trim_end_matches([':', '.']))
        .filter_map(|word| word.parse().ok())
        .filter(|address: &IpAddr| !address.is_loopback());
    let mut told = addresses.filter_map(|address| ruling(&address)).peekable();
    told.peek().is_some() && told.all(|told| told == ruled)
}

/// Whom an answer with this address is for.
pub(crate) fn ruling(address: &IpAddr) -> Option<Ruled> {
    if [target(15).into(), target6(0x15).into()].contains(address) {
        return Some(Ruled::Unmanaged);
    }
    let is_synthetic = match address {
        IpAddr::V4(address) => matches!(address.octets(), [198, 18..=19, ..]),
        IpAddr::V6(address) => address.octets()[0] == 0xfd && address.segments()[1] != 0x90,
    };
    is_synthetic.then_some(Ruled::Managed)
}

/// Gives the client files of its own, two of which are replaced later.
fn own_files(lab: &Lab) -> Resolvers<'_> {
    let directory = lab.directory().display();
    lab.client().sh(&format!(
        "cp -a /etc {directory}/etc && mount --bind {directory}/etc /etc"
    ));
    let files = Resolvers::prepare(lab.client(), lab.directory());
    lab.client()
        .sh("umount /etc/resolv.conf /etc/nsswitch.conf");
    files
}

fn build(directory: &Path) {
    let sources = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/suites/resolvers"));
    let compilers: [(&str, &[&str], &str); 2] = [
        ("gcc", &["-O1"], "ask"),
        ("musl-gcc", &["-O1", "-static"], "ask-musl"),
    ];
    for (compiler, options, name) in compilers {
        let mut command = Command::new(compiler);
        command.args(options).arg("-o").arg(directory.join(name));
        command.arg(sources.join("ask.c"));
        Running::start(command).finish(LIMIT).success();
    }
    let mut javac = Command::new("javac");
    javac.arg("-d").arg(directory).arg(sources.join("Ask.java"));
    Running::start(javac).finish(LIMIT).success();
    std::fs::copy(sources.join("ask.js"), directory.join("ask.js")).expect("both can be read");
}
