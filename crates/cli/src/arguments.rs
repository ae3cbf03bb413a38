//! What people type.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use offramp_control::Subject;

use crate::demo::enter::Enter;
use crate::leaktest::Given;
use crate::run::rights::Kept;

/// Takes chosen apps off the direct road.
#[derive(Debug, Parser)]
#[command(name = "offramp", version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// Socket of the daemon
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "OFFRAMP_SOCKET",
        default_value = offramp_control::DEFAULT_SOCKET
    )]
    pub(crate) socket: PathBuf,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command under a profile
    Run(Run),
    /// Show how the daemon and its profiles stand
    Status(Status),
    /// Show the live flows of managed apps
    Flows(Flows),
    /// Show which names addresses stand for, and what apps look up
    Dns(Dns),
    /// Show the running apps that a profile claims, and what happens to their flows
    Apps(Json),
    /// Explain why a flow goes the way it goes
    Explain(Explain),
    /// Look for what keeps offramp from working
    Doctor(Json),
    /// Check, install, remove, list, show or send profiles
    #[command(subcommand)]
    Profile(Profile),
    /// Switch a profile, or all, off
    Off(Switch),
    /// Switch a profile, or all, on
    On(Switch),
    /// Show on this machine what offramp does, with a gateway and a daemon of its own
    Demo(Demo),
    /// Remove all that offramp has added to the running system
    Uninstall,
    /// Try every way out under a profile, and tell which lead past the proxy
    Leaktest(Leaktest),
    /// What `leaktest` runs under the profile
    #[command(hide = true, name = "leaktest-doors")]
    LeaktestDoors(LeaktestDoors),
    /// Serve what the demo asks for
    #[command(hide = true, name = "demo-origin")]
    DemoOrigin {
        /// Address and port to listen at
        #[arg(long)]
        listen: std::net::SocketAddr,
    },
    /// Enter a namespace, become a user, and execute a command
    #[command(hide = true, name = "demo-enter")]
    DemoEnter(Enter),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Profile to run under; may be left out where there is only one
    #[arg(long, value_name = "ID", conflicts_with = "proxy")]
    pub(crate) profile: Option<String>,

    /// Proxy server to use for this command alone
    #[arg(long, value_name = "URL", group = "proxy")]
    pub(crate) server: Option<String>,

    /// File with that URL in one line: a password in it shows in no list of processes
    #[arg(long, value_name = "FILE", group = "proxy")]
    pub(crate) server_file: Option<PathBuf>,

    /// Certificates to trust for that server, in PEM
    #[arg(long, value_name = "FILE", requires = "proxy")]
    pub(crate) ca: Option<PathBuf>,

    /// Print no notices
    #[arg(long, short)]
    pub(crate) quiet: bool,

    /// Capabilities to leave to the command: names as in capabilities(7), or all
    ///
    /// Without it root's commands go without those by which they could get past their capture:
    /// net_raw, net_admin, bpf, sys_admin, sys_module, sys_rawio, sys_ptrace.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) keep_capabilities: Vec<Kept>,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Wait until a profile is connected; status 1 when the time is over before
    #[arg(long, value_name = "SECONDS")]
    pub(crate) wait: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Flows {
    /// Print JSON; with --follow one object per line
    #[arg(long)]
    pub(crate) json: bool,

    /// Print flows as they begin and end, until interrupted
    #[arg(long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Dns {
    /// Only this name and what is below it, or this address
    #[arg(value_name = "NAME|ADDRESS")]
    pub(crate) name: Option<String>,

    /// Only what apps of this profile use
    #[arg(long, value_name = "ID")]
    pub(crate) profile: Option<String>,

    /// Print look-ups as they are answered, until interrupted
    #[arg(long)]
    pub(crate) follow: bool,

    /// Only look-ups of programs of this name
    #[arg(long, value_name = "NAME", requires = "follow")]
    pub(crate) app: Option<String>,

    /// Only look-ups of this process
    #[arg(long, value_name = "PID", requires = "follow")]
    pub(crate) pid: Option<u32>,

    /// Print JSON; with --follow one object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = EXPLAIN_EXAMPLES)]
#[command(
    override_usage = "offramp explain [PID|FLOW|--exe PATH] [--target HOST:PORT|--name NAME]"
)]
#[command(group = clap::ArgGroup::new("question").required(true).multiple(true))]
pub(crate) struct Explain {
    /// A process or a flow: 1234, pid:1234, flow:7
    ///
    /// A bare number is a process; where there is none, it is the flow that `offramp flows` shows
    /// under it.
    #[arg(value_name = "PID|FLOW", group = "question", value_parser = subject)]
    pub(crate) subject: Option<Subject>,

    /// A program, as if you started it now
    #[arg(
        long,
        value_name = "PATH",
        group = "question",
        conflicts_with = "subject"
    )]
    pub(crate) exe: Option<PathBuf>,

    /// Where the flow wants to go; alone: as if an app of each profile asked
    #[arg(long, value_name = "HOST:PORT", group = "question")]
    pub(crate) target: Option<String>,

    /// A name that is looked up
    #[arg(
        long,
        value_name = "NAME",
        group = "question",
        conflicts_with = "target"
    )]
    pub(crate) name: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  offramp explain 1234                             the process 1234
  offramp explain 1234 --target example.com:443    a connection of it
  offramp explain --exe curl --name example.com    a look-up of curl, were it started now
  offramp explain flow:7                           the flow that `offramp flows` shows as 7
  offramp explain --target 10.0.0.1:22             what each profile would do with this target";

/// `1234`, `pid:1234`, `flow:7`, or `#7` as `offramp flows --follow` has it.
fn subject(text: &str) -> Result<Subject, String> {
    let number = |digits: &str| digits.parse::<u64>().ok();
    let pid = |digits: &str| digits.parse::<u32>().ok().filter(|pid| *pid > 0);
    let found = if let Some(digits) = text.strip_prefix("pid:") {
        pid(digits).map(Subject::Process)
    } else if let Some(digits) = text.strip_prefix("flow:").or(text.strip_prefix('#')) {
        number(digits).map(Subject::Flow)
    } else {
        number(text).map(Subject::Number)
    };
    found.ok_or_else(|| {
        "neither a process (1234, pid:1234) nor a flow (flow:7); a program is asked for with --exe"
            .to_owned()
    })
}

#[derive(Debug, Args)]
pub(crate) struct Json {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Switch {
    /// The profile; all that you may switch where left out
    #[arg(value_name = "ID", conflicts_with = "profile")]
    identifier: Option<String>,

    /// The same
    #[arg(long, value_name = "ID")]
    profile: Option<String>,
}

impl Switch {
    pub(crate) fn profile(self) -> Option<String> {
        self.identifier.or(self.profile)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Profile {
    /// Check profiles without installing them
    Check {
        /// Files; - is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// As profiles and overlays of your own
        #[arg(long)]
        user: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Install a profile: as root for the machine, otherwise for yourself
    ///
    /// A profile of your own claims your own processes alone. It is kept in
    /// ~/.config/offramp/policies, and the credentials that it names are looked for in
    /// ~/.config/offramp/credentials (mode 0600).
    Install {
        /// File; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Layer to install it into: managed (the default) or recommended
        ///
        /// Managed profiles are asked first.
        #[arg(long, value_enum, hide_possible_values = true, conflicts_with = "user")]
        layer: Option<Layer>,
        #[command(flatten)]
        store: Store,
    },
    /// Remove a profile: as root one of the machine, otherwise one of your own
    Remove {
        /// Its identifier
        #[arg(value_name = "ID")]
        identifier: String,
        #[command(flatten)]
        store: Store,
    },
    /// Send your own profiles and credentials to the daemon again, after an edit by hand
    Sync(Json),
    /// List the profiles that are in force
    List(Json),
    /// Print a profile that is in force
    Show {
        /// Its identifier
        #[arg(value_name = "ID")]
        identifier: String,
        /// Print JSON with its state
        #[arg(long)]
        json: bool,
    },
}

/// The layers that profiles are installed into.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Layer {
    Managed,
    Recommended,
}

/// Where profiles are kept.
#[derive(Debug, Args)]
pub(crate) struct Store {
    /// Configuration directory of the machine [default: /etc/offramp]
    #[arg(long, value_name = "DIR", conflicts_with = "user")]
    pub(crate) config: Option<PathBuf>,

    /// Your own profiles, also as root
    #[arg(long)]
    pub(crate) user: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Store {
    /// The configuration directory of the machine; none where the user's own profiles are meant.
    pub(crate) fn machine(&self, layer: Option<Layer>) -> Option<PathBuf> {
        let named = self.config.is_some() || layer.is_some();
        if self.user || (!named && !nix::unistd::geteuid().is_root()) {
            return None;
        }
        let usual = || PathBuf::from("/etc/offramp");
        Some(self.config.clone().unwrap_or_else(usual))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// A command of your own, to be run on the real network
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = LEAKTEST_HELP)]
pub(crate) struct Leaktest {
    /// Profile to test; may be left out where there is only one
    #[arg(long, value_name = "ID")]
    pub(crate) profile: Option<String>,

    /// A server to try as well, which is then spoken to [default port: 443]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = target)]
    pub(crate) target: Option<Given>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const LEAKTEST_HELP: &str = "\
It runs as `offramp run --profile ID` would, so what it finds holds for apps under rules of that
profile too. Without --target it sends to addresses and asks for names that nobody has
(192.0.2.0/24, 2001:db8::/32, 233.252.0.0/24, *.offramp.test), and one datagram to broadcast: on a
machine that leaks these leave it.

Status 0: no leak; 1: a leak, or something that could not be told; 69: no daemon. As root it also
watches what leaves this machine's devices.";

#[derive(Debug, Args)]
pub(crate) struct LeaktestDoors {
    /// One door alone
    #[arg(long)]
    pub(crate) only: Option<usize>,

    /// What is to be done, as JSON
    pub(crate) plan: String,
}

/// `HOST`, `HOST:PORT`, `[IPV6]:PORT` or an IPv6 address.
fn target(text: &str) -> Result<Given, String> {
    let wrong = || "neither HOST nor HOST:PORT; IPv6 with a port is [ADDRESS]:PORT".to_owned();
    let (host, port) = match (text.parse::<IpAddr>(), text.rsplit_once(':')) {
        (Ok(address), _) => return Ok(Given::new(address.to_string(), None)),
        (Err(_), Some((host, port))) => {
            let port: u16 = port.parse().map_err(|_| wrong())?;
            (host, Some(port).filter(|port| *port > 0).ok_or_else(wrong)?)
        }
        (Err(_), None) => return named(text, None).ok_or_else(wrong),
    };
    if let Some(inside) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let address: Ipv6Addr = inside.parse().map_err(|_| wrong())?;
        return Ok(Given::new(address.to_string(), Some(port)));
    }
    named(host, Some(port)).ok_or_else(wrong)
}

fn named(host: &str, port: Option<u16>) -> Option<Given> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    (!host.is_empty() && host.chars().all(fits)).then(|| Given::new(host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_hosts_with_or_without_a_port() {
        for (text, expected) in [
            ("example.com", Some(("example.com", 443))),
            ("example.com:80", Some(("example.com", 80))),
            ("192.0.2.1", Some(("192.0.2.1", 443))),
            ("192.0.2.1:53", Some(("192.0.2.1", 53))),
            ("2001:db8::1", Some(("2001:db8::1", 443))),
            ("[2001:db8::1]:80", Some(("2001:db8::1", 80))),
            ("", None),
            (":80", None),
            ("example.com:", None),
            ("example.com:0", None),
            ("example.com:70000", None),
            ("https://example.com", None),
            ("[example.com]:80", None),
        ] {
            let parsed = target(text).ok();
            let parsed = parsed
                .as_ref()
                .map(|given| (given.host.as_str(), given.port));
            assert_eq!(parsed, expected, "{text}");
        }
    }
}
