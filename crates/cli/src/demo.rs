//! `offramp demo`: the main job, shown with a gateway and a daemon that live for this alone.
//!
//! Without a command everything happens in network namespaces of the demo's own: an app's machine,
//! a proxy's and an origin's, joined by a router. With a command that command runs on the real
//! network, through a gateway on loopback.

mod command;
pub(crate) mod enter;
mod mounts;
mod network;
pub(crate) mod origin;
mod parts;
mod remains;
mod story;
mod table;

use std::ffi::OsString;

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{FAILED, Failure, NOT_PERMITTED};

/// Status of a program that SIGINT has ended, as shells tell it.
const INTERRUPTED: u8 = 130;

pub(crate) async fn run(command: Vec<OsString>) -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(
            NOT_PERMITTED,
            "the demo needs root: it makes network namespaces",
        )
        .hint("run it with sudo"));
    }
    let told = async {
        mounts::complete()?;
        if command.is_empty() {
            parts::require(&["ip", "curl"])?;
            interruptible(story::tell()).await
        } else {
            command::run(command).await
        }
    };
    told.await
        .map_err(|error| match error.downcast::<Failure>() {
            Ok(failure) => failure,
            Err(error) => Failure::new(FAILED, format!("demo: {error:#}")),
        })
}

/// Drops the story, and with it all that it holds, at SIGINT, SIGTERM or SIGHUP.
async fn interruptible<T>(story: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        told = story => return told,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    eprintln!("offramp: interrupted; everything is removed");
    Err(Failure::silent(INTERRUPTED).into())
}
