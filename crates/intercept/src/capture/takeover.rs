//! Passing a running capture from one process to another.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{Capture, Claim, Config, StartError, load, netns_cookie, pins, put_to_work};
use crate::maps::Maps;
use crate::namespace::Namespace;
use crate::network::Network;
use crate::programs::Loader;
use crate::requirements::requirements;
use crate::sockets::Sockets;

/// What a process passes to the one that goes on in its place.
#[derive(Debug)]
pub struct Handed {
    /// As [`Sockets::descriptors`] has them.
    pub sockets: [OwnedFd; 4],
    /// As [`Capture::pass_lock`] has it.
    pub lock: OwnedFd,
}

/// Kernel programs that are loaded beside those of a running daemon, and not yet at work.
pub struct Prepared {
    config: Config,
    namespace: Arc<Namespace>,
    loader: Loader,
}

impl Prepared {
    /// Puts the programs in the place of those that are at work. At no moment is a hook without
    /// one, or a flow without a socket to arrive at.
    pub async fn take_over(self, handed: Handed) -> Result<(Capture, Sockets), StartError> {
        let own = netns_cookie().map_err(StartError::Sockets)?;
        let claim = Claim::adopt(own, handed.lock)?;
        let network = Network::start(&self.namespace, &self.config.runtime).await?;
        let sockets = Sockets::of(&self.namespace, handed.sockets).map_err(StartError::Sockets)?;
        let (config, namespace) = (&self.config, self.namespace);
        let begun = Capture::begin(config, claim, namespace, network, sockets, self.loader);
        let (mut capture, sockets) = begun.await?;
        capture.is_first = false;
        Ok((capture, sockets))
    }
}

impl Capture {
    /// Makes ready to take over what a running daemon has, and takes nothing yet.
    pub fn prepare(config: &Config) -> Result<Prepared, StartError> {
        if let Some(missing) = requirements(&config.bpffs)
            .into_iter()
            .find(|found| found.remedy.is_some())
        {
            return Err(StartError::Missing(missing));
        }
        let own = netns_cookie().map_err(StartError::Sockets)?;
        if Maps::pinned_for(&pins(config)) != Some(own) {
            return Err(StartError::Elsewhere(config.instance.clone()));
        }
        let path = config.runtime.join("netns");
        let failed = |source| StartError::Namespace {
            path: path.clone(),
            source,
        };
        if !Namespace::exists(&path) {
            return Err(failed(std::io::ErrorKind::NotFound.into()));
        }
        let mut loader = load(config)?;
        // Some may be noted from now until the programs are at work.
        loader.expect_strays();
        Ok(Prepared {
            config: config.clone(),
            namespace: Arc::new(Namespace::open_or_create(&path).map_err(failed)?),
            loader,
        })
    }

    /// The lock of the network namespace, to pass on.
    pub fn pass_lock(&self) -> std::io::Result<OwnedFd> {
        self.claim.pass()
    }

    /// Leaves everything to the process that was passed it. What was added to the machine is that
    /// one's from here on.
    pub fn leave(&self) {
        self.claim.leave();
    }

    /// Says that the process that has passed everything has left it: it is this one's to remove.
    pub fn keep(&self) {
        self.claim.keep();
    }

    /// Puts the programs of this process to work again, where another was about to take over and
    /// did not.
    pub async fn regain(&self, sockets: &[OwnedFd; 4]) -> Result<(), StartError> {
        // What the other has defined is not what is known here.
        self.classes.lock().await.clear();
        let network = self.network.lock().await;
        let devices = (network.device(), network.inner_device());
        drop(network);
        let mut loader = load(&self.config)?;
        loader.expect_strays();
        put_to_work(loader, &self.config, devices, &self.namespace, sockets)?;
        self.health.forget();
        self.refresh().await.map(drop)
    }
}
