//! `offramp uninstall`: stops the daemon and takes from the running system all that it has added.

mod daemon;
mod traces;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use offramp_control::{Client, ClientError, Status};
use tokio::process::Command;
use tokio::time::timeout;

use self::daemon::Daemon;
use self::traces::Traces;
use crate::failure::{FAILED, Failure, NOT_PERMITTED, USAGE};
use crate::output;

const PROGRAM: &str = "offrampd";
/// How long a daemon has to answer; one that hangs is stopped all the same.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long removing may take.
const REMOVE_LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn run(socket: &Path) -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(NOT_PERMITTED, "uninstall needs root").hint("run it with sudo"));
    }
    let runtime = runtime_of(socket)?;
    let program = find(PROGRAM)?;
    let mut apps = None;
    let mut instance = None;
    if let Some(daemon) = Daemon::at(socket).await? {
        daemon.check_namespace()?;
        if let Some(status) = status(socket).await {
            apps = Some(status.profiles.iter().map(|profile| profile.apps).sum());
            instance = Some(status.instance);
        }
        let before = Traces::find(&runtime, instance.as_deref());
        daemon.stop()?;
        remove(&program, &runtime, instance.as_deref()).await?;
        return report(&before, apps);
    }
    let before = Traces::find(&runtime, None);
    remove(&program, &runtime, None).await?;
    report(&before, apps)
}

/// The daemon's folder, which its socket lies in.
fn runtime_of(socket: &Path) -> Result<PathBuf, Failure> {
    let whole = std::path::absolute(socket).ok();
    whole
        .as_deref()
        .and_then(Path::parent)
        .map(Path::to_owned)
        .ok_or_else(|| Failure::new(USAGE, format!("{} is no socket", socket.display())))
}

/// A program that lies beside this one, or else in `PATH`.
fn find(name: &str) -> Result<PathBuf, Failure> {
    let beside = std::env::current_exe().ok();
    let beside = beside.and_then(|own| own.parent().map(|folder| folder.join(name)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let others = std::env::split_paths(&path).map(|folder| folder.join(name));
    beside
        .into_iter()
        .chain(others)
        .find(|program| program.is_file())
        .ok_or_else(|| {
            Failure::new(
                FAILED,
                format!("{name} is missing, which does the removing"),
            )
            .hint(
                "install it beside offramp; or reboot: nothing of offramp in the running system \
                 outlives that",
            )
        })
}

async fn status(socket: &Path) -> Option<Status> {
    let answer: Result<Status, ClientError> =
        Client::new(socket).with_limit(ANSWER_LIMIT).status().await;
    answer
        .inspect_err(|error| eprintln!("offramp: {}", crate::failure::chain(error)))
        .ok()
}

/// Has the daemon's program remove what is there; the namespace of the instance is its affair.
async fn remove(program: &Path, runtime: &Path, instance: Option<&str>) -> Result<(), Failure> {
    let mut command = Command::new(program);
    command.arg("--uninstall").arg("--runtime").arg(runtime);
    if let Some(instance) = instance {
        command.args(["--instance", instance]);
    }
    let mut child = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            Failure::new(
                FAILED,
                format!("cannot start {}: {error}", program.display()),
            )
        })?;
    match timeout(REMOVE_LIMIT, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        // It has said why.
        Ok(Ok(_)) => Err(Failure::silent(FAILED)),
        Ok(Err(error)) => Err(Failure::new(FAILED, format!("cannot wait: {error}"))),
        Err(_) => Err(Failure::new(
            FAILED,
            format!("{PROGRAM} --uninstall does not end within {REMOVE_LIMIT:?}"),
        )),
    }
}

fn report(before: &Traces, apps: Option<u64>) -> Result<(), Failure> {
    output::print(&before.removed())?;
    match apps {
        Some(0) => Ok(()),
        Some(count) => output::print(&format!(
            "Managed apps that still run: {count}. From here on they go direct, past any proxy.\n"
        )),
        None if before.is_empty() => Ok(()),
        None => {
            output::print("Managed apps that still run go direct from here on, past any proxy.\n")
        }
    }
}
