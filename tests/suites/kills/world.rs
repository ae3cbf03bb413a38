//! A machine with apps and neighbours that go on whatever happens to the daemon.

use std::net::{SocketAddr, SocketAddrV4};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use offramp_tests::addresses::{CLIENT, PROXY, target};
use offramp_tests::{
    Daemon, Lab, PROFILE, Running, Transport, User, binary, build_first, copy_probe, port,
    wait_until,
};
use serde_json::json;

use crate::apps::{App, Succession};
use crate::traffic::{Traffic, with};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// What managed programs reach, and nobody else.
pub(crate) const MANAGED: u8 = 1;
/// What unmanaged programs reach.
const UNMANAGED: u8 = 2;
/// What an app reaches that is let go in the end.
pub(crate) const LET_GO: u8 = 3;
/// What names below `wild.test` stand for.
pub(crate) const WILD: u8 = 13;

/// Numbers by chance, the same for the same `OFFRAMP_SEED`.
pub(crate) struct Chance {
    pub(crate) seed: u64,
    state: u64,
}

impl Chance {
    pub(crate) fn new() -> Self {
        let given = std::env::var("OFFRAMP_SEED").ok();
        let seed = given.map_or_else(
            || {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                now.expect("it is later than 1970").as_secs()
            },
            |given| given.parse().expect("OFFRAMP_SEED is a number"),
        );
        eprintln!("OFFRAMP_SEED={seed}");
        Self { seed, state: seed }
    }

    /// SplitMix64.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % limit
    }

    /// Lets up to `most` go by.
    pub(crate) fn wait(&mut self, most: Duration) {
        let most = u64::try_from(most.as_micros()).expect("less than a lifetime");
        std::thread::sleep(Duration::from_micros(self.below(most.max(1))));
    }
}

pub(crate) struct World<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) daemon: Daemon<'lab>,
    directory: PathBuf,
    changes: u64,
}

impl<'lab> World<'lab> {
    pub(crate) fn new(lab: &'lab Lab) -> Self {
        let directory = lab.directory().join("programs");
        std::fs::create_dir_all(&directory).expect("the lab's directory is ours");
        for (name, transport, number) in [
            ("plain", Transport::Tcp, UNMANAGED),
            ("known", Transport::Tcp, MANAGED),
            ("datagram", Transport::Udp, MANAGED),
            ("wrapped", Transport::Tcp, MANAGED),
        ] {
            let port = match transport {
                Transport::Udp => port::ECHO,
                _ => port::BANNER,
            };
            let target = SocketAddrV4::new(target(number), port);
            build_first(&directory.join(name), transport, target);
        }
        std::fs::copy(copy_probe(lab, "ruled"), directory.join("ruled")).expect("it is ours");
        let daemon = Daemon::prepare(lab);
        let world = Self {
            lab,
            daemon,
            directory,
            changes: 0,
        };
        let rules = ["known", "datagram", "ruled"].map(|name| world.program(name));
        let rules = rules.map(|path| json!({ "SigningIdentifier": format!("exe:{path}") }));
        let mut profile = Daemon::profile();
        profile["Payload"]["AppRules"] = rules.to_vec().into();
        world
            .daemon
            .write("policies/managed/0.json", &profile.to_string());
        world
    }

    fn program(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// From here on rules name nothing: a stop removes everything where no app runs.
    pub(crate) fn name_no_apps(&self) {
        let profile = Daemon::profile().to_string();
        self.daemon.write("policies/managed/0.json", &profile);
    }

    /// Starts the daemon until it is connected, and says how long it took until it listened.
    pub(crate) fn start_whole(&mut self) -> Duration {
        let begin = Instant::now();
        let mut running = Running::start(self.daemon.command());
        self.wait_for_socket(&mut running);
        let took = begin.elapsed();
        self.daemon.adopt(running);
        took
    }

    /// Kills what [`World::start_whole`] has started.
    pub(crate) fn kill(&mut self) {
        self.daemon.process().signal(Signal::SIGKILL);
        let daemon = self.daemon.process();
        wait_until("the daemon is gone", LIMIT, || !daemon.is_running());
    }

    pub(crate) fn wait_for_socket(&self, daemon: &mut Running) {
        wait_until("the daemon listens", LIMIT, || {
            assert!(
                daemon.is_running(),
                "the daemon ended: {}",
                daemon.complained()
            );
            UnixStream::connect(self.daemon.socket()).is_ok()
        });
    }

    /// Puts other profiles beside the one that matters, in one of the ways that there are.
    pub(crate) fn change(&mut self, chance: &mut Chance, daemon: &Running) -> Option<Running> {
        self.changes += 1;
        let mut profile = Daemon::profile();
        profile["Identifier"] = "test.more".into();
        profile["Order"] = 2000.into();
        let rules = ["other", "ruled", "plainer"].into_iter();
        let rules = rules
            .take(chance.below(4) as usize)
            .map(|name| json!({ "SigningIdentifier": format!("exe:{}", self.program(name)) }));
        profile["Payload"]["AppRules"] = rules.collect();
        let routes = (0..chance.below(50)).map(|number| json!(format!("192.0.2.{number}/32")));
        profile["Payload"]["NetworkRouting"]["ExcludedRoutes"] = routes.collect();
        let text = profile.to_string();
        match chance.below(4) {
            0 => {
                let _ = std::fs::remove_file(self.daemon.config("policies/managed/more.json"));
                daemon.signal(Signal::SIGHUP);
                None
            }
            1 => {
                let file = self.lab.directory().join("more.json");
                std::fs::write(&file, text).expect("the directory is ours");
                let mut install = self.lab.client().command(binary("offramp"));
                install.arg("--socket").arg(self.daemon.socket());
                install.args(["profile", "install"]).arg(file);
                Some(Running::start(install))
            }
            _ => {
                self.daemon.write("policies/managed/more.json", &text);
                daemon.signal(Signal::SIGHUP);
                None
            }
        }
    }

    /// Looks whether all works: commands are relayed, and the daemon finds nothing wrong.
    pub(crate) fn inspect(&mut self) {
        let status = self.daemon.offramp(&["status", "--wait", "20"]);
        assert!(status.status.success(), "{status}");
        let app = self
            .daemon
            .run(&["curl", "-sS", "http://203.0.113.11/"])
            .success();
        assert!(app.contains(&format!("peer={PROXY}:")), "{app}");
        let doctor = self.daemon.offramp(&["doctor", "--json"]).stdout;
        assert!(!doctor.contains("\"failure\""), "{doctor}");
    }

    /// Ends the last daemon and what it left, after a clean start and stop with no app named.
    pub(crate) fn end(&mut self) {
        let ended = self.daemon.stop();
        assert!(ended.status.success(), "{ended}");
        let _ = std::fs::remove_file(self.daemon.config("policies/managed/more.json"));
        let _ = std::fs::remove_file(self.daemon.config("policies/managed/test.more.json"));
        self.name_no_apps();
        self.start_whole();
        self.inspect();
        let ended = self.daemon.stop();
        assert!(ended.status.success(), "{ended}");
    }

    /// Has `offramp uninstall` remove what is there.
    pub(crate) fn uninstall(&self) {
        let said = self.daemon.offramp(&["uninstall"]);
        assert!(said.status.success(), "{said}");
    }

    /// Programs that are nobody's business.
    pub(crate) fn begin_neighbours(&self) -> Traffic<'lab> {
        let neighbour = self.traffic(binary("offramp-probe"), UNMANAGED, "v4.test:2001");
        let plain = self.program("plain");
        Traffic::begin(self.lab, vec![("unmanaged", with(neighbour, [plain]))])
    }

    /// The same, and apps of every sort.
    pub(crate) fn begin_traffic(&self) -> Traffic<'lab> {
        let name = "managed.wild.test:2001";
        let run = format!(
            "{} --socket {} run --quiet --profile {PROFILE} -- {}",
            binary("offramp").display(),
            self.daemon.socket().display(),
            self.program("wrapped")
        );
        let starts = [
            self.program("plain"),
            self.program("known"),
            self.program("datagram"),
            run,
        ];
        let neighbour = self.traffic(binary("offramp-probe"), UNMANAGED, "v4.test:2001");
        let ruled = self.traffic(self.program("ruled").into(), MANAGED, name);
        let mut wrapped = self.daemon.command_as(User::Root, &self.program_of_all());
        self.arguments(&mut wrapped, MANAGED, name);
        let child = [self.program("wrapped")];
        Traffic::begin(
            self.lab,
            vec![
                ("unmanaged", with(neighbour, starts)),
                ("ruled", with(ruled, child.clone())),
                ("wrapped", with(wrapped, child)),
            ],
        )
    }

    fn program_of_all(&self) -> String {
        binary("offramp-probe").display().to_string()
    }

    fn traffic(&self, program: PathBuf, number: u8, name: &str) -> Command {
        let mut command = self.lab.client().command(program);
        self.arguments(&mut command, number, name);
        command
    }

    fn arguments(&self, command: &mut Command, number: u8, name: &str) {
        let patience = if number == MANAGED { "1000" } else { "20000" };
        command.args(["traffic", patience]);
        for port in [port::BANNER, port::ECHO] {
            command.arg(format!("{}:{port}", target(number)));
        }
        command.arg(name);
    }

    /// Programs that become others: what they are, and whom a server has to see in the end.
    pub(crate) fn begin_successions(&self) -> Vec<(&'static str, Succession, String)> {
        let (ruled, near) = (self.program("ruled"), self.program("elsewhere/ruled"));
        let shell = self.program("elsewhere/known");
        std::fs::create_dir_all(self.directory.join("elsewhere")).expect("it is ours");
        std::fs::copy(&ruled, &near).expect("the directory is ours");
        std::fs::copy("/bin/sh", &shell).expect("the directory is ours");
        let hold = format!(
            "hold {0}:{1} {0}:{1} {0}:{2}",
            target(LET_GO),
            port::BANNER,
            port::ECHO
        );
        let then = |last: &str| format!("echo reads; read word; exec {last} {hold}");
        let through = format!("echo reads; read word; exec {shell} -c 'exec {near} {hold}'");
        let shell_of = |mut command: Command, script: &str| {
            command.args(["-c", script]);
            Succession::start(command)
        };
        let unmanaged = || self.lab.client().command("sh");
        let wrapped = || self.daemon.command_as(User::Root, "sh");
        let (proxy, client) = (PROXY.to_string(), CLIENT.to_string());
        vec![
            (
                "wrapped, then ruled",
                shell_of(wrapped(), &then(&ruled)),
                proxy.clone(),
            ),
            (
                "wrapped, then like one",
                shell_of(wrapped(), &through),
                proxy.clone(),
            ),
            ("ruled", shell_of(unmanaged(), &then(&ruled)), proxy),
            (
                "like one",
                shell_of(unmanaged(), &then(&near)),
                client.clone(),
            ),
            ("like one, twice", shell_of(unmanaged(), &through), client),
        ]
    }

    /// An app that tries at a word.
    pub(crate) fn begin_app(&self) -> App {
        let mut command = self.daemon.command_as(User::Root, "sh");
        let probe = self.program_of_all();
        let to = |port: u16| SocketAddr::from((target(LET_GO), port));
        let script = format!(
            "while read round; do {probe} tcp {} 2>&1; {probe} udp {} 2>&1; echo done; done",
            to(port::BANNER),
            to(port::ECHO),
        );
        command.args(["-c", &script]);
        App::start(command)
    }
}
