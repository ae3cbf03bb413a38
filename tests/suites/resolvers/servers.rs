//! The resolvers that the client machine has, one after another.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use offramp_tests::addresses::DNS;
use offramp_tests::{ALL_MODULES, Host, Running, wait_until};

use crate::stage::Stage;

const LIMIT: Duration = Duration::from_secs(30);

/// A resolver of the router's, as the client has it in its resolv.conf.
const ON_LINK: &str = "fe80::53%eth0";

/// What answers the client's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The name server of the lab, over the wire.
    Remote,
    /// dnsmasq on the router, by an address of the link.
    Link,
    /// dnsmasq on 127.0.0.1.
    Dnsmasq,
    /// unbound on ::1 and 127.0.0.1.
    Unbound,
    /// systemd-resolved by its stub on 127.0.0.53.
    Stub,
    /// systemd-resolved by the resolv.conf in which it names its own servers.
    Uplink,
    /// systemd-resolved by its socket, as libnss-resolve asks it; its stub for the rest.
    Resolve,
    /// nscd, which asks the name server of the lab.
    Nscd,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Remote,
        Self::Link,
        Self::Dnsmasq,
        Self::Unbound,
        Self::Stub,
        Self::Uplink,
        Self::Resolve,
        Self::Nscd,
    ];

    /// Whether systemd-resolved is on the bus.
    pub(crate) fn is_resolved(self) -> bool {
        matches!(self, Self::Stub | Self::Uplink | Self::Resolve)
    }

    /// The client's resolv.conf, or where it is.
    fn resolv_conf(self) -> Conf {
        match self {
            Self::Remote | Self::Nscd => Conf::Servers(&["10.90.4.2"]),
            Self::Link => Conf::Servers(&[ON_LINK]),
            Self::Dnsmasq => Conf::Servers(&["127.0.0.1"]),
            Self::Unbound => Conf::Servers(&["::1", "127.0.0.1"]),
            Self::Stub | Self::Resolve => Conf::Link("/run/systemd/resolve/stub-resolv.conf"),
            Self::Uplink => Conf::Link("/run/systemd/resolve/resolv.conf"),
        }
    }

    fn services(self) -> &'static str {
        if self == Self::Resolve {
            ALL_MODULES
        } else {
            "files dns"
        }
    }
}

enum Conf {
    Servers(&'static [&'static str]),
    Link(&'static str),
}

/// A resolver on the client that asks the name server of the lab; it ends when this is dropped.
pub(crate) struct Resolver<'stage> {
    stage: &'stage Stage<'stage>,
    pub(crate) kind: Kind,
    running: Option<Running>,
    /// What it said before it was restarted.
    said: String,
}

impl<'stage> Resolver<'stage> {
    /// Starts it, has the client's programs use it, and waits until it answers them.
    pub(crate) fn start(stage: &'stage Stage<'stage>, kind: Kind) -> Self {
        let mut resolver = Self {
            stage,
            kind,
            running: None,
            said: String::new(),
        };
        resolver.running = resolver.run();
        resolver.become_the_systems();
        resolver.wait();
        resolver
    }

    /// Has the client's programs use it.
    pub(crate) fn become_the_systems(&self) {
        self.stage.find_hosts_by(self.kind.services());
        match self.kind.resolv_conf() {
            Conf::Servers(servers) => {
                let servers = servers.iter().map(|at| format!("nameserver {at}\n"));
                let text = format!("{}options timeout:2\n", servers.collect::<String>());
                self.stage.resolv_conf(&text);
            }
            Conf::Link(target) => self.stage.resolv_conf_is_at(target),
        }
    }

    fn run(&self) -> Option<Running> {
        let files = &self.stage.files;
        // Before anybody is sent there.
        let start = |command, at| {
            let running = Running::start(command).stop_with(Signal::SIGTERM);
            let line = [
                "dig",
                "+short",
                "+time=1",
                "+tries=1",
                at,
                "ready.apps.test",
            ];
            wait_until("the resolver answers", LIMIT, || {
                self.stage
                    .lab
                    .client()
                    .run(&line)
                    .stdout
                    .contains("203.0.113.15")
            });
            running
        };
        match self.kind {
            Kind::Remote => None,
            Kind::Link => {
                let router = self.stage.lab.router();
                router.sh("ip -6 addr replace fe80::53/64 dev client nodad");
                Some(start(
                    dnsmasq(router, "--interface=client"),
                    &format!("@{ON_LINK}"),
                ))
            }
            Kind::Dnsmasq => {
                let client = self.stage.lab.client();
                Some(start(
                    dnsmasq(client, "--listen-address=127.0.0.1"),
                    "@127.0.0.1",
                ))
            }
            Kind::Unbound => Some(start(unbound(self.stage), "@::1")),
            Kind::Nscd => Some(files.start_nscd()),
            Kind::Stub | Kind::Uplink | Kind::Resolve => Some(files.start_resolved(&format!(
                "DNS={DNS}\nFallbackDNS=\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no"
            ))),
        }
    }

    fn wait(&self) {
        let client = self.stage.lab.client();
        let end = Instant::now() + LIMIT;
        while !(client.run(&["getent", "ahosts", "ready.apps.test"]).stdout)
            .contains("203.0.113.15")
        {
            let said = || self.says();
            assert!(
                Instant::now() < end,
                "{:?} does not answer: {}",
                self.kind,
                said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it and starts it again.
    pub(crate) fn restart(&mut self) {
        self.said = self.says();
        self.running = None;
        self.running = self.run();
        self.wait();
    }

    /// Has it read its settings again, or drop what it knows.
    pub(crate) fn reload(&self) {
        let running = self.running.as_ref().expect("it runs");
        match self.kind {
            Kind::Dnsmasq | Kind::Unbound => running.signal(Signal::SIGHUP),
            Kind::Stub | Kind::Uplink | Kind::Resolve => running.signal(Signal::SIGUSR2),
            Kind::Link | Kind::Nscd | Kind::Remote => {}
        }
    }

    /// What it says about `name`.
    pub(crate) fn said_about(&self, name: &str) -> Vec<String> {
        let says = self.says();
        let lines = says.lines().filter(|line| line.contains(name));
        lines.map(String::from).collect()
    }

    fn says(&self) -> String {
        let now = self.running.as_ref().map(Running::complained);
        format!("{}{}", self.said, now.unwrap_or_default())
    }
}

fn dnsmasq(host: &Host, listen: &str) -> Command {
    let mut command = host.command("dnsmasq");
    let line = "--keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= \
                --bind-interfaces --user=root --log-queries \
                --log-facility=-";
    command.args(line.split_whitespace());
    command.arg(format!("--server={DNS}")).arg(listen);
    command
}

fn unbound(stage: &Stage<'_>) -> Command {
    let file = stage.lab.directory().join("unbound.conf");
    let settings = format!(
        "server:
  interface: 127.0.0.1
  interface: ::1
  do-daemonize: no
  chroot: \"\"
  directory: \"\"
  username: \"\"
  pidfile: \"\"
  use-syslog: no
  logfile: \"\"
  log-queries: yes
  module-config: iterator
  local-zone: test. nodefault
forward-zone:
  name: .
  forward-addr: {DNS}
"
    );
    std::fs::write(&file, settings).expect("the lab's directory is ours");
    let mut command = stage.files.command("usr/sbin/unbound");
    command.arg("-d").arg("-c").arg(file);
    command
}
