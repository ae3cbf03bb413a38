//! Wires the parts of offramp: profiles, capture, look-ups, upstreams, relay, control.
//!
//! A flow's way is a straight line: `intercept` hands it out, `shared` asks `rules` what is to
//! happen, `upstream` opens, `relay` copies, `flows` writes one line. Start with [`run`].

mod active;
mod api;
mod approvals;
mod budget;
mod classes;
mod closing;
mod control;
mod doctor;
mod ephemeral;
mod facts;
mod files;
mod flows;
mod followers;
mod harden;
mod hosts;
mod keeper;
mod lockdown;
mod lookup;
mod pace;
mod policy;
mod publish;
mod pulse;
mod recognise;
mod refusals;
mod reload;
mod roam;
mod shared;
mod sniff;
mod start;
mod state;
mod takeover;
mod tcp;
mod told;
mod udp;
mod upgrade;
mod verdicts;
mod watcher;
mod work;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

pub use harden::before_threads;
pub use lockdown::lockdown;
pub use start::{run, uninstall};
pub use takeover::Takeover;
pub use upgrade::reload;

/// How long flows may go on after the daemon was told to stop.
pub const DRAIN: Duration = Duration::from_secs(5);
/// How old the heartbeat may be before the kernel programs refuse managed apps.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// Where the daemon reads and writes.
#[derive(Clone, Debug)]
pub struct Config {
    /// `policies/` and `credentials/`; only read.
    pub config: PathBuf,
    /// What is to survive a reboot.
    pub state: PathBuf,
    /// What is to survive a restart: the control socket, the private namespace.
    pub runtime: PathBuf,
    /// Tells the pins of several instances apart.
    pub instance: String,
}

impl Config {
    /// Where clients connect.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("control.sock")
    }

    /// Where a new daemon takes over from the one that runs.
    pub(crate) fn takeover_socket(&self) -> PathBuf {
        self.runtime.join("takeover.sock")
    }

    /// Holds the name of the instance, for those who clean up after it.
    pub(crate) fn name_file(&self) -> PathBuf {
        self.runtime.join("instance")
    }

    pub(crate) fn directories(&self) -> offramp_profile::Directories {
        offramp_profile::Directories::new(&self.config).with_state(&self.state)
    }

    pub(crate) fn ephemeral(&self) -> PathBuf {
        self.runtime.join("runs")
    }

    pub(crate) fn capture(&self) -> offramp_intercept::Config {
        offramp_intercept::Config {
            bpffs: PathBuf::from("/sys/fs/bpf"),
            runtime: self.runtime.clone(),
            instance: self.instance.clone(),
            patience: PATIENCE,
        }
    }
}

/// An error with all its sources, for one line of a log.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // Transparent layers repeat what they wrap.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}
