//! `offrampd`, the daemon.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use offramp_daemon::{Config, Takeover, before_threads, lockdown, reload, run, uninstall};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Captures the flows of managed apps and relays them to proxy servers.
#[derive(Parser)]
#[command(name = "offrampd", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Action>,
    /// The folder of `policies/` and `credentials/`
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/etc/offramp"
    )]
    config: PathBuf,
    /// The folder of what survives a reboot
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/var/lib/offramp"
    )]
    state: PathBuf,
    /// The folder of the control socket
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/run/offramp"
    )]
    runtime: PathBuf,
    /// Tells several daemons on one machine apart
    #[arg(long, global = true, value_name = "NAME", default_value = "default", value_parser = instance)]
    instance: String,
    /// Go on in the place of the daemon that runs: no flow ends, none is refused
    #[arg(long, conflicts_with = "uninstall")]
    takeover: bool,
    /// With --takeover: how long open flows may go on in the old daemon
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = DRAIN,
        requires = "takeover"
    )]
    drain: u64,
    /// Remove what a daemon that is no longer there left on the machine, and exit
    #[arg(long)]
    uninstall: bool,
}

/// What is done instead of serving.
#[derive(Subcommand)]
enum Action {
    /// Refuse the apps that profiles name until a daemon serves them, and exit: for the boot, before
    /// the network comes up
    Lockdown,
    /// Have the daemon that runs read its profiles again; where its program has been replaced, go on in
    /// its place as --takeover does
    Reload {
        /// How long open flows may go on in the old daemon
        #[arg(long, value_name = "SECONDS", default_value_t = DRAIN)]
        drain: u64,
    },
}

/// A day, in seconds.
const DRAIN: u64 = 86_400;

fn instance(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !text.is_empty() && text.len() <= 64 && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("use letters, digits, - and _".into())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("OFFRAMP_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("offrampd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> anyhow::Result<()> {
    let config = Config {
        config: arguments.config,
        state: arguments.state,
        runtime: arguments.runtime,
        instance: arguments.instance,
    };
    raise_descriptor_limit();
    before_threads();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async move {
        if arguments.uninstall {
            return uninstall(config).await;
        }
        match arguments.command {
            Some(Action::Lockdown) => return lockdown(config).await,
            Some(Action::Reload { drain }) => {
                return reload(config, Duration::from_secs(drain)).await;
            }
            None => {}
        }
        let drain = Duration::from_secs(arguments.drain);
        let takeover = arguments.takeover.then_some(Takeover { drain });
        let stop = CancellationToken::new();
        let again = Arc::new(Notify::new());
        let signals = listen(stop.clone(), Arc::clone(&again))?;
        tokio::select! {
            ended = run(config, takeover, stop, again) => ended,
            () = signals => anyhow::bail!("ended by a second signal; `offramp uninstall` removes what is left"),
        }
    })
}

/// Every flow takes two descriptors.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    const WANTED: u64 = 262_144;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Root may raise the hard limit too; others take what they have.
        if soft < WANTED && setrlimit(Resource::RLIMIT_NOFILE, WANTED, hard.max(WANTED)).is_err() {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
    }
}

/// SIGTERM and SIGINT stop, SIGHUP reads the profiles again; the future ends with the second
/// signal to stop.
fn listen(
    stop: CancellationToken,
    reload: Arc<Notify>,
) -> anyhow::Result<impl Future<Output = ()>> {
    let catch = |kind| signal(kind).context("cannot catch signals");
    let mut term = catch(SignalKind::terminate())?;
    let mut int = catch(SignalKind::interrupt())?;
    let mut hup = catch(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = hup.recv() => { reload.notify_one(); continue }
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if stop.is_cancelled() {
                return;
            }
            stop.cancel();
        }
    })
}
