//! `offramp-gateway`: the server end of offramp.

use std::io::{IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use offramp_gateway::{Config, Gateway, users};
use offramp_rules::Prefix;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

mod harden;

/// Proxy server for offramp: TCP, UDP and DNS over TLS.
#[derive(Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Option<Serve>,
}

#[derive(Subcommand)]
enum Command {
    /// Read a password from standard input and print what follows `NAME:` in a users file
    Hash,
}

#[derive(Args)]
struct Serve {
    /// Where clients are awaited; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// PEM file with the certificate and its chain
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// PEM file with the private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// File with one user a line: NAME:$argon2id$… or NAME:sha256:HEX
    #[arg(long, value_name = "FILE")]
    users: Option<PathBuf>,
    /// PEM file with the authorities of client certificates; with it every client needs one
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Private block that clients may reach; may be given several times
    #[arg(long, value_name = "CIDR")]
    allow: Vec<Prefix>,
    /// Where metrics are served at /metrics, over plain HTTP
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// Resolver for lookups of clients, instead of those in /etc/resolv.conf
    #[arg(long, value_name = "ADDR:PORT")]
    resolver: Option<SocketAddr>,
    /// How long flows may go on after a stop
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    drain: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match (arguments.command, arguments.serve) {
        (Some(Command::Hash), _) => hash(),
        (None, Some(serve)) => run(serve),
        (None, None) => unreachable_usage(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "offramp-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// clap has refused a call without flags and without subcommand.
fn unreachable_usage() -> anyhow::Result<()> {
    anyhow::bail!("nothing to do; see --help")
}

fn hash() -> anyhow::Result<()> {
    let mut input = std::io::stdin();
    if input.is_terminal() {
        let _ = writeln!(
            std::io::stderr(),
            "password (is shown), then Enter and Ctrl-D:"
        );
    }
    let mut password = Vec::new();
    input
        .read_to_end(&mut password)
        .context("cannot read the password")?;
    let password = password.strip_suffix(b"\n").unwrap_or(&password);
    anyhow::ensure!(
        !password.is_empty(),
        "the password on standard input is empty"
    );
    let hash = users::hash_password(password)?;
    writeln!(std::io::stdout(), "{hash}").context("cannot print the hash")
}

fn run(serve: Serve) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    raise_descriptor_limit();
    harden::before_threads();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(harden::thread)
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve_until_signal(serve.into()))
}

async fn serve_until_signal(config: Config) -> anyhow::Result<()> {
    if config.users.is_none() && config.client_ca.is_none() {
        tracing::warn!("no --users and no --client-ca: whoever reaches the port may use it");
    }
    let signals = Signals::new().context("cannot watch signals")?;
    let gateway = Gateway::start(config).await?;
    let reload = gateway.reloader();
    harden::after_start();
    // Scripts read this line.
    writeln!(std::io::stdout(), "listening on {}", gateway.address())?;
    if let Some(address) = gateway.metrics_address() {
        writeln!(std::io::stdout(), "metrics on http://{address}/metrics")?;
    }
    std::io::stdout().flush()?;
    tell_systemd(NotifyState::Ready);
    let stop = CancellationToken::new();
    let served = tokio::select! {
        served = gateway.run(stop.clone()) => served,
        () = signals.watch(&stop, reload) => anyhow::bail!("stopped by a second signal"),
    };
    tracing::info!(
        accepted = served.accepted,
        refused = served.refused,
        aborted = served.aborted,
        "stopped"
    );
    Ok(())
}

/// Without systemd there is nobody to tell.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd not told");
    }
}

/// A flow takes a descriptor and the usual soft limit is 1024; the hard limit is the one that is
/// meant.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "descriptor limit not raised");
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Cancels `stop` at the first signal to end and returns at the second.
    async fn watch(mut self, stop: &CancellationToken, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.hangup.recv() => {
                    reload();
                    continue;
                }
            }
            if stop.is_cancelled() {
                return;
            }
            tracing::info!("draining");
            tell_systemd(NotifyState::Stopping);
            stop.cancel();
        }
    }
}

impl From<Serve> for Config {
    fn from(serve: Serve) -> Self {
        Self {
            users: serve.users,
            client_ca: serve.client_ca,
            allow: serve.allow,
            metrics: serve.metrics,
            resolver: serve.resolver,
            drain: Duration::from_secs(serve.drain),
            ..Self::new(serve.listen, serve.certificate, serve.key)
        }
    }
}
