//! What people type.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::demo::enter::Enter;

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
    /// Look for what keeps offramp from working
    Doctor(Json),
    /// Check, install, remove, list or show profiles
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
    /// Explain what would happen to a flow
    #[command(hide = true)]
    Explain(Later),
    /// Look for a way around the proxy
    #[command(hide = true)]
    Leaktest(Later),
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
    #[arg(long, value_name = "ID", conflicts_with = "server")]
    pub(crate) profile: Option<String>,

    /// Proxy server to use for this command alone
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,

    /// Certificates to trust for that server, in PEM
    #[arg(long, value_name = "FILE", requires = "server")]
    pub(crate) ca: Option<PathBuf>,

    /// Print no notices
    #[arg(long, short)]
    pub(crate) quiet: bool,

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
pub(crate) struct Json {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Switch {
    /// The profile; all that you may switch where left out
    #[arg(long, value_name = "ID")]
    pub(crate) profile: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Profile {
    /// Check profiles without installing them
    Check {
        /// Files; - is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Install a profile
    Install {
        /// File; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Layer to install it into; managed profiles are asked first
        #[arg(long, value_enum, default_value_t = Layer::Managed)]
        layer: Layer,
        #[command(flatten)]
        store: Store,
    },
    /// Remove a profile
    Remove {
        /// Its identifier
        #[arg(value_name = "ID")]
        identifier: String,
        #[command(flatten)]
        store: Store,
    },
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
    /// Configuration directory
    #[arg(long, value_name = "DIR", default_value = "/etc/offramp")]
    pub(crate) config: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// A command of your own, to be run on the real network
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<OsString>,
}
