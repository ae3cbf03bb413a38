//! What a capture is started with, and why it does not start.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::maps::MapError;
use crate::network::NetworkError;
use crate::programs::LoadError;
use crate::requirements::Requirement;

/// Where an instance keeps what must outlive its process.
#[derive(Clone, Debug)]
pub struct Config {
    /// The mount point of bpffs; `/sys/fs/bpf` on every distribution.
    pub bpffs: PathBuf,
    /// A folder for the private namespace's mount; it is made.
    pub runtime: PathBuf,
    /// Tells the pins of several instances apart.
    pub instance: String,
    /// How old the heartbeat may be before managed apps are refused.
    pub patience: Duration,
}

/// Why capture did not start. Nothing that was there before is lost: managed apps that an earlier
/// run left are refused as they were.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine lacks something.
    #[error("{}: {}", .0.name, .0.detail)]
    Missing(Requirement),
    /// One instance serves a network namespace.
    #[error("another offrampd serves this network namespace: stop it first")]
    Busy,
    /// The pins with this name are another namespace's.
    #[error(
        "the instance {0} serves another network namespace: choose another name with --instance, \
         or end that one and remove it with `offrampd --uninstall --instance {0}`"
    )]
    Elsewhere(String),
    /// The lock that tells instances apart cannot be taken.
    #[error("cannot lock {path}")]
    Lock {
        /// The file that is locked.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The private namespace cannot be made.
    #[error("cannot make the private network namespace in {path}")]
    Namespace {
        /// Where it is mounted.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Devices, rules and routes.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The kernel programs.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The maps.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The listeners.
    #[error("cannot open the sockets that captured flows arrive at")]
    Sockets(#[source] io::Error),
    /// The kernel's ring of events.
    #[error("cannot read the events of the kernel programs")]
    Events(#[source] libbpf_rs::Error),
}
