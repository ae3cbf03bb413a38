//! The product in the lab: its daemon, its gateway, and programs under it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libbpf_rs::{Link, MapCore, MapHandle, MapType};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::addresses::GATEWAY;
use crate::authority::{Authority, Identity};
use crate::host::{Host, User};
use crate::lab::Lab;
use crate::process::{Finished, Running, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// The profile that [`Daemon::start`] installs when a test has no wishes.
pub const PROFILE: &str = "test.lab";

/// The path of one of the product's programs, as `cargo build --workspace --bins` leaves it.
///
/// They lie beside the test programs, or in `OFFRAMP_BIN_DIR`.
pub fn binary(name: &str) -> PathBuf {
    let directory = std::env::var_os("OFFRAMP_BIN_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            let test = std::env::current_exe().expect("Linux knows the running program");
            test.ancestors()
                .nth(2)
                .expect("tests lie in target/debug/deps")
                .to_owned()
        });
    let path = directory.join(name);
    assert!(
        path.exists(),
        "{} is missing: cargo build --workspace --bins",
        path.display()
    );
    path
}

/// A running gateway on the proxy machine.
#[derive(Debug)]
pub struct Gateway {
    server: Running,
    /// Who signed its certificate.
    pub authority: Arc<Authority>,
    line: Vec<String>,
    port: u16,
}

impl Gateway {
    /// Starts a gateway at [`GATEWAY`] that serves everybody.
    pub fn start(lab: &Lab) -> Self {
        Self::start_with(lab, &[])
    }

    /// Starts a gateway at [`GATEWAY`] with more arguments.
    pub fn start_with(lab: &Lab, arguments: &[&str]) -> Self {
        let authority = Authority::new(lab.directory(), "gateway-authority");
        let identity = authority.sign("gateway", &["proxy.test", "10.90.2.2", "fd00:90:2::2"]);
        Self::start_as(lab, authority, &identity, arguments)
    }

    /// Starts a gateway with a certificate of the test's own.
    pub fn start_as(
        lab: &Lab,
        authority: Authority,
        identity: &Identity,
        arguments: &[&str],
    ) -> Self {
        let text = |path: &Path| path.display().to_string();
        let mut line = vec![text(&binary("offramp-gateway"))];
        line.extend(["--listen".to_owned(), listen(GATEWAY.port())]);
        line.extend(["--certificate".to_owned(), text(&identity.certificate)]);
        line.extend(["--key".to_owned(), text(&identity.key)]);
        line.extend(arguments.iter().map(ToString::to_string));
        let server = serve(lab.proxy(), &line, GATEWAY.port());
        Self {
            server,
            authority: Arc::new(authority),
            line,
            port: GATEWAY.port(),
        }
    }

    /// Starts another gateway beside this one, at another port with the same arguments.
    pub fn another(&self, lab: &Lab, port: u16) -> Self {
        let mut line = self.line.clone();
        let own = listen(self.port);
        for argument in line.iter_mut().filter(|argument| **argument == own) {
            *argument = listen(port);
        }
        Self {
            server: serve(lab.proxy(), &line, port),
            authority: Arc::clone(&self.authority),
            line,
            port,
        }
    }

    /// The process id.
    pub fn id(&self) -> i32 {
        self.server.id()
    }

    /// Kills it, so that its port refuses.
    pub fn stop(&mut self) {
        if self.server.is_running() {
            self.server.signal(Signal::SIGKILL);
        }
        wait_until("the gateway is gone", LIMIT, || !self.server.is_running());
    }

    /// Starts it again with the same arguments.
    pub fn start_again(&mut self, lab: &Lab) {
        self.stop();
        self.server = serve(lab.proxy(), &self.line, self.port);
    }
}

fn listen(port: u16) -> String {
    format!("[::]:{port}")
}

fn serve(host: &Host, line: &[String], port: u16) -> Running {
    let mut command = host.command(&line[0]);
    command.args(&line[1..]);
    let server = Running::start(command).stop_with(Signal::SIGTERM);
    crate::servers::wait_for_port(host, port);
    server
}

/// A running daemon on the client machine.
#[derive(Debug)]
pub struct Daemon<'lab> {
    lab: &'lab Lab,
    server: Option<Running>,
    directory: PathBuf,
    instance: String,
    descriptors: Option<u32>,
}

static DAEMONS: AtomicU32 = AtomicU32::new(0);

impl<'lab> Daemon<'lab> {
    /// Starts a daemon with [`Daemon::profile`] and waits until it is ready.
    pub fn start(lab: &'lab Lab) -> Self {
        Self::start_with(lab, &[Self::profile()])
    }

    /// Starts a daemon with these profiles and waits until it is ready.
    pub fn start_with(lab: &'lab Lab, profiles: &[Value]) -> Self {
        let mut daemon = Self::prepare(lab);
        for (number, profile) in profiles.iter().enumerate() {
            daemon.write(
                &format!("policies/managed/{number}.json"),
                &profile.to_string(),
            );
        }
        match profiles {
            [] => daemon.start_unconnected(),
            _ => daemon.start_again(),
        }
        daemon
    }

    /// Makes the directories of a daemon, and starts nothing yet.
    pub fn prepare(lab: &'lab Lab) -> Self {
        let number = DAEMONS.fetch_add(1, Ordering::Relaxed);
        let instance = format!("lab-{}-{number}", std::process::id());
        let directory = lab.directory().join(&instance);
        for part in [
            "config/policies/managed",
            "config/policies/recommended",
            "config/credentials",
        ] {
            std::fs::create_dir_all(directory.join(part)).expect("the directory is ours");
        }
        let daemon = Self {
            lab,
            server: None,
            directory,
            instance,
            descriptors: None,
        };
        let anchors = lab.directory().join("gateway-authority.pem");
        if let Ok(pem) = std::fs::read_to_string(anchors) {
            daemon.write("credentials/gateway-authority", &pem);
        }
        daemon
    }

    /// The profile of the lab: everything goes to the gateway, `excluded.test` and 203.0.113.12
    /// and 198.51.100.0/24 do not.
    pub fn profile() -> Value {
        json!({
            "Type": "org.offramp.configuration.network.vpn",
            "Identifier": PROFILE,
            "ServerToken": "1",
            "PayloadVersion": 1,
            "Payload": {
                "VisibleName": "The lab",
                "Provider": { "Type": "app-proxy" },
                "RoutingMethod": "SourceApplication",
                "Servers": [{
                    "Name": "gateway",
                    "URL": format!("https://{GATEWAY}"),
                    "TLS": { "AnchorsAssetReference": "credential:gateway-authority" }
                }],
                "AppRules": [],
                "ExcludedDomains": ["excluded.test"],
                "NetworkRouting": { "ExcludedRoutes": ["198.51.100.0/24", "203.0.113.12/32"] }
            }
        })
    }

    /// Writes a file below the configuration directory.
    pub fn write(&self, file: &str, text: &str) {
        let path = self.config(file);
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).expect("the file is ours");
    }

    /// A path below the configuration directory.
    pub fn config(&self, file: &str) -> PathBuf {
        self.directory.join("config").join(file)
    }

    /// The directory of the daemon's own files: `config`, `state`, `runtime`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// From its next start on the daemon may have this many descriptors, and not the right to change
    /// that.
    pub fn limit_descriptors(&mut self, most: u32) {
        self.descriptors = Some(most);
    }

    /// The command line that starts the daemon.
    pub fn command(&self) -> Command {
        let mut command = match self.descriptors {
            None => self.lab.client().command(binary("offrampd")),
            Some(most) => {
                let mut command = self.lab.client().command("prlimit");
                command.arg(format!("--nofile={most}:{most}"));
                command.args(["setpriv", "--bounding-set=-sys_resource"]);
                command.arg(binary("offrampd"));
                command
            }
        };
        for part in ["config", "state", "runtime"] {
            command
                .arg(format!("--{part}"))
                .arg(self.directory.join(part));
        }
        command.args(["--instance", &self.instance]);
        command
    }

    /// Starts the daemon (again) and waits until it is ready.
    pub fn start_again(&mut self) {
        self.start_as(self.command());
    }

    /// The same by a command line that begins as [`Daemon::command`] does.
    pub fn start_as(&mut self, command: Command) {
        self.server = None;
        self.server = Some(Running::start(command).stop_with(Signal::SIGTERM));
        let status = self.offramp(&["status", "--wait", "20"]);
        if !status.status.success() {
            let server = self.server.take().expect("just started");
            if server_ended(&server) {
                panic!("{status}\n{}", server.finish(LIMIT));
            }
            server.signal(Signal::SIGTERM);
            panic!("{status}\n{}", server.finish(LIMIT));
        }
    }

    /// Starts the daemon (again) and waits until it answers, connected or not.
    pub fn start_unconnected(&mut self) {
        self.server = None;
        self.server = Some(Running::start(self.command()).stop_with(Signal::SIGTERM));
        wait_until("the daemon answers", LIMIT, || {
            let answer = self.offramp(&["status"]).stdout;
            answer.contains(&self.instance) || !self.process().is_running()
        });
        if !self.process().is_running() {
            panic!(
                "{}",
                self.server.take().expect("just started").finish(LIMIT)
            );
        }
    }

    /// Takes over a daemon that a test has started with [`Daemon::command`].
    pub fn adopt(&mut self, server: Running) {
        self.server = Some(server.stop_with(Signal::SIGTERM));
    }

    /// Starts a daemon in the place of the one that runs, and waits until it has taken over.
    /// Returns the one before, which relays its flows until they end.
    pub fn take_over(&mut self) -> Running {
        let mut command = self.command();
        command.arg("--takeover");
        let mut next = Running::start(command).stop_with(Signal::SIGTERM);
        wait_until("the new daemon has taken over", LIMIT, || {
            next.complained().contains(" ready ") || !next.is_running()
        });
        if !next.is_running() {
            panic!("{}", next.finish(LIMIT));
        }
        self.server.replace(next).expect("the daemon was started")
    }

    /// The daemon's process.
    pub fn process(&mut self) -> &mut Running {
        self.server.as_mut().expect("the daemon was started")
    }

    /// Asks the daemon to stop and returns what it said.
    pub fn stop(&mut self) -> Finished {
        let server = self.server.take().expect("the daemon was started");
        server.signal(Signal::SIGTERM);
        server.finish(LIMIT)
    }

    /// Runs `offramp` with these arguments as root.
    pub fn offramp(&self, arguments: &[&str]) -> Finished {
        let mut command = self.lab.client().command(binary("offramp"));
        command.arg("--socket").arg(self.socket()).args(arguments);
        Running::start(command).finish(LIMIT)
    }

    /// What the daemon says of itself, as JSON.
    #[track_caller]
    pub fn status(&self) -> Value {
        let said = self.offramp(&["status", "--json"]);
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// One of the daemon's counters.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        let status = self.status();
        let count = status["counters"][name].as_u64();
        count.unwrap_or_else(|| panic!("no counter {name}: {status}"))
    }

    /// How many entries each of the pinned kernel maps has that grow with apps and flows.
    pub fn map_entries(&self) -> BTreeMap<String, usize> {
        let client = self.lab.client().holder();
        let pins = format!("/proc/{client}/root/sys/fs/bpf/offramp/{}", self.instance);
        let mut entries = BTreeMap::new();
        for pin in std::fs::read_dir(&pins).expect("the daemon has pins") {
            let pin = pin.expect("the daemon has pins");
            let Ok(map) = MapHandle::from_pinned_path(pin.path()) else {
                continue;
            };
            if matches!(
                map.map_type(),
                MapType::Hash | MapType::LruHash | MapType::LpmTrie
            ) {
                let name = pin.file_name().to_string_lossy().into_owned();
                entries.insert(name, map.keys().count());
            }
        }
        entries
    }

    /// Takes the programs out of the kernel behind the daemon's back, so that apps leak.
    pub fn detach_programs(&self) {
        let client = self.lab.client().holder();
        let pins = format!("/proc/{client}/root/sys/fs/bpf/offramp/{}", self.instance);
        let links = std::fs::read_dir(Path::new(&pins).join("links"));
        let mut detached = 0;
        for link in links.expect("the daemon has pins") {
            let path = link.expect("the daemon has pins").path();
            // Those of tracepoints cannot be detached, and hold nothing up.
            detached += u32::from(Link::open(&path).is_ok_and(|link| link.detach().is_ok()));
        }
        assert!(detached > 10, "{detached} programs were detached");
    }

    /// The path of the control socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("runtime/control.sock")
    }

    /// A command that runs under the lab's profile, as `offramp run`.
    pub fn command_as(&self, user: User, program: &str) -> Command {
        let mut command = self.lab.client().command_as(user, binary("offramp"));
        command.arg("--socket").arg(self.socket());
        command.args(["run", "--profile", PROFILE, "--", program]);
        command
    }

    /// Runs a command line under the lab's profile to its end, at most a minute.
    #[track_caller]
    pub fn run(&self, line: &[&str]) -> Finished {
        self.run_as(User::Root, line)
    }

    /// Runs a command line under the lab's profile as `user` to its end, at most a minute.
    #[track_caller]
    pub fn run_as(&self, user: User, line: &[&str]) -> Finished {
        let mut command = self.command_as(user, line[0]);
        command.args(&line[1..]);
        Running::start(command).finish(LIMIT)
    }

    /// Starts a command line under the lab's profile.
    #[track_caller]
    pub fn spawn(&self, line: &[&str]) -> Running {
        let mut command = self.command_as(User::Root, line[0]);
        command.args(&line[1..]);
        Running::start(command)
    }
}

/// A managed TCP flow that stays open until a test wants to know whether it still works.
#[derive(Debug)]
pub struct Held(Running);

impl Held {
    /// Opens a flow to an echo server of the origin; returns when it has been used.
    pub fn open(daemon: &Daemon<'_>, target: &str) -> Self {
        let seen = || daemon.lab.servers().seen().len();
        let before = seen();
        let mut command =
            daemon.command_as(User::Root, &binary("offramp-probe").display().to_string());
        command
            .args(["open", "1", target])
            .stdin(std::process::Stdio::piped());
        let mut running = Running::start(command);
        wait_until("the flow arrives", LIMIT, || {
            seen() > before || !running.is_running()
        });
        Self(running)
    }

    /// Uses it once more and says whether that went well.
    pub fn works(mut self) -> bool {
        std::io::Write::write_all(&mut self.0.input(), b"go\n").expect("the probe waits for it");
        let said = self.0.finish(LIMIT).success();
        assert!(said.starts_with("open 1 {}\n"), "{said}");
        said.contains("working 1 {}")
    }
}

fn server_ended(server: &Running) -> bool {
    !Path::new(&format!("/proc/{}/exe", server.id())).exists()
}
