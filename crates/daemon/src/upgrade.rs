//! `offrampd reload`, what a service manager runs for a reload: the profiles are read again, and where
//! the program has been replaced since, a new daemon takes over.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use std::{env, fs, io};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use offramp_control::{Client, Lifecycle};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::Config;
use crate::api::Peer;

/// How long a new daemon may take: longer than both sides of a takeover wait for each other.
const LIMIT: Duration = Duration::from_secs(85);
const TURN: Duration = Duration::from_millis(50);
/// What the service manager says to the main process alone.
const WATCHDOG: &str = "WATCHDOG_USEC";
const NOTIFY: &str = "NOTIFY_SOCKET";

/// Has the daemon that runs read its profiles again: the one that the service manager names
/// (`MAINPID`), else the one at the control socket. Where the program of this process is another file
/// than that of the daemon, starts it to take over, and returns once it serves; the flows of the one
/// before may go on for `drain`.
///
/// An error where no daemon runs, and where the new one does not come to serve: then the one before
/// goes on.
pub async fn reload(config: Config, drain: Duration) -> anyhow::Result<()> {
    let serving = listener(&config).await;
    let named = env::var("MAINPID").ok().and_then(|pid| pid.parse().ok());
    // No process has the number 0.
    let Some(pid) = named.or(serving).filter(|pid| *pid > 0) else {
        let socket = config.socket();
        bail!("no daemon answers at {}: start it", socket.display());
    };
    let process = Pid::from_raw(i32::try_from(pid).context("MAINPID is no process")?);
    kill(process, Signal::SIGHUP).with_context(|| format!("cannot signal the process {pid}"))?;
    let failed =
        || format!("profiles are read again; cannot tell the program of the process {pid}");
    if is_own_program(pid).with_context(failed)? {
        return Ok(());
    }
    if serving != Some(pid) {
        bail!(
            "profiles are read again; the process {pid} is not the daemon at {}: run `offrampd \
             reload` with the options of the daemon to replace its program",
            config.socket().display()
        );
    }
    let replaced = replace(&config, drain, pid).await;
    replaced.with_context(|| {
        format!("profiles are read again; the program of the process {pid} is not replaced")
    })
}

/// The process that listens at the control socket.
async fn listener(config: &Config) -> Option<u32> {
    let stream = UnixStream::connect(config.socket()).await.ok()?;
    Some(Peer::of(&stream).ok()?.pid)
}

fn is_own_program(pid: u32) -> io::Result<bool> {
    let file = |process: &str| {
        let file = fs::metadata(Path::new("/proc").join(process).join("exe"))?;
        Ok::<_, io::Error>((file.dev(), file.ino()))
    };
    Ok(file(&pid.to_string())? == file("self")?)
}

/// Starts a daemon in the place of that process, and waits until it serves.
async fn replace(config: &Config, drain: Duration, before: u32) -> anyhow::Result<()> {
    let environment = fs::read(format!("/proc/{before}/environ"));
    let environment = environment.context("cannot read its environment")?;
    if value(&environment, NOTIFY).is_some() && env::var_os(NOTIFY).is_none() {
        bail!("the daemon is a service: `systemctl reload offrampd`, so that the service goes on");
    }
    let watchdog = value(&environment, WATCHDOG);
    let mut child = start(config, drain, watchdog).context("cannot start the new daemon")?;
    let pid = child.id().context("the new daemon is gone")?;
    tracing::info!(pid, before, "a new daemon is to take over");
    tokio::select! {
        () = serves(config, pid) => {}
        // What it says has gone where this process says things too.
        ended = child.wait() => match ended {
            Ok(status) => bail!("the new daemon has ended ({status}) and says why above"),
            Err(error) => bail!("the new daemon is lost: {error}"),
        },
        () = sleep(LIMIT) => bail!("the new daemon (process {pid}) does not serve within {} s", LIMIT.as_secs()),
    }
    // It has said so itself; this one is heard before the end of this process is.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::MainPid(pid)]);
    Ok(())
}

/// What a variable of a process is set to.
fn value<'a>(environment: &'a [u8], name: &str) -> Option<&'a str> {
    let all = environment.split(|byte| *byte == 0);
    let mut all = all.filter_map(|one| std::str::from_utf8(one).ok()?.split_once('='));
    all.find_map(|(key, value)| (key == name).then_some(value))
}

/// Starts this program as a daemon that takes over, and that outlives this process.
#[expect(unsafe_code, reason = "std has no other way to a session of its own")]
fn start(config: &Config, drain: Duration, watchdog: Option<&str>) -> io::Result<Child> {
    let mut command = Command::new(env::current_exe()?);
    for (option, path) in [
        ("--config", &config.config),
        ("--state", &config.state),
        ("--runtime", &config.runtime),
    ] {
        command.arg(option).arg(path);
    }
    command
        .args(["--instance", &config.instance, "--takeover", "--drain"])
        .arg(drain.as_secs().to_string())
        .stdin(std::process::Stdio::null())
        .env_remove("MAINPID")
        .env_remove("WATCHDOG_PID")
        .env_remove(WATCHDOG)
        .envs(watchdog.map(|limit| (WATCHDOG, limit)));
    // SAFETY: between fork and exec it makes one system call, and takes no memory.
    unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) };
    command.spawn()
}

/// Waits until this process is the daemon that clients reach, and ready.
async fn serves(config: &Config, pid: u32) {
    let client = Client::new(config.socket());
    loop {
        if listener(config).await == Some(pid) {
            let status = client.status().await;
            if status.is_ok_and(|status| status.lifecycle == Lifecycle::Ready) {
                return;
            }
        }
        sleep(TURN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_found_by_its_whole_name() {
        let environment = b"OTHER_WATCHDOG_USEC=1\0WATCHDOG_USEC=30=0\0\xff=2\0EMPTY=\0";
        assert_eq!(value(environment, WATCHDOG), Some("30=0"));
        assert_eq!(value(environment, "EMPTY"), Some(""));
        assert_eq!(value(environment, NOTIFY), None);
    }

    #[test]
    fn a_process_has_its_own_program() {
        assert!(is_own_program(std::process::id()).unwrap());
        assert!(is_own_program(u32::MAX).is_err());
    }
}
