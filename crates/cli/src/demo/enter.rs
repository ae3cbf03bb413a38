//! The hidden command that puts on the right clothes and becomes another program.

use std::ffi::{CString, OsString};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User, getppid, initgroups, setgid, setuid};

use crate::failure::{FAILED, Failure};

/// What the program gets to wear.
#[derive(Debug, clap::Args)]
pub(crate) struct Enter {
    /// Network namespace, as a file
    #[arg(long)]
    pub(crate) netns: Option<PathBuf>,
    /// User to become
    #[arg(long)]
    pub(crate) user: Option<u32>,
    /// Process whose end ends this one
    #[arg(long)]
    pub(crate) parent: Option<i32>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

/// Returns only where the program was not started.
pub(crate) fn run(enter: Enter) -> Failure {
    match dress(&enter) {
        Ok(mut command) => {
            let error = command.exec();
            let program = command.get_program().display();
            Failure::new(FAILED, format!("cannot execute {program}: {error}"))
        }
        Err(error) => Failure::new(FAILED, format!("{error:#}")),
    }
}

fn dress(enter: &Enter) -> anyhow::Result<std::process::Command> {
    use anyhow::Context;

    let (program, rest) = enter
        .command
        .split_first()
        .expect("clap wants at least one");
    let mut command = std::process::Command::new(program);
    command.args(rest);
    if let Some(netns) = &enter.netns {
        let file = std::fs::File::open(netns)
            .with_context(|| format!("cannot open {}", netns.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
    }
    if let Some(uid) = enter.user {
        let uid = Uid::from_raw(uid);
        let user = User::from_uid(uid)?.with_context(|| format!("there is no user {uid}"))?;
        let name = CString::new(user.name.as_str())?;
        initgroups(&name, user.gid)
            .and_then(|()| setgid(user.gid))
            .and_then(|()| setuid(uid))
            .with_context(|| format!("cannot become {}", user.name))?;
        command
            .env("HOME", &user.dir)
            .env("USER", &user.name)
            .env("LOGNAME", &user.name);
    }
    if let Some(parent) = enter.parent {
        // After the change of user, which clears it.
        nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).context("cannot follow the demo")?;
        anyhow::ensure!(getppid().as_raw() == parent, "the demo has gone");
    }
    Ok(command)
}
