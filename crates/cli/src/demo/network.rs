//! The demo's own network: namespaces for app, proxy and origin around a router.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::remains::{PREFIX, names, stale};

/// Addresses for documentation: nobody's on the real network.
pub(super) const APP: &str = "192.0.2.2";
pub(super) const PROXY: &str = "198.51.100.2";
pub(super) const ORIGIN: &str = "203.0.113.2";

const NAMESPACES: &str = "/run/netns";

/// The namespaces, which are removed with it.
#[derive(Debug)]
pub(super) struct Network {
    id: u32,
}

impl Network {
    /// Makes the namespaces; removes what a demo that was killed has left.
    pub(super) fn new() -> anyhow::Result<Self> {
        remove_stale();
        let network = Self {
            id: std::process::id(),
        };
        for place in ["router", "app", "proxy", "origin"] {
            ip(&["netns", "add", &network.name(place)])?;
            network.within(place, &["link", "set", "lo", "up"])?;
        }
        for (place, address, router) in [
            ("app", APP, "192.0.2.1"),
            ("proxy", PROXY, "198.51.100.1"),
            ("origin", ORIGIN, "203.0.113.1"),
        ] {
            network.join(place, address, router)?;
        }
        forward(&network.path("router"))?;
        Ok(network)
    }

    /// The file of a namespace.
    pub(super) fn path(&self, place: &str) -> PathBuf {
        Path::new(NAMESPACES).join(self.name(place))
    }

    fn name(&self, place: &str) -> String {
        format!("{PREFIX}{}-{place}", self.id)
    }

    fn within(&self, place: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let name = self.name(place);
        let mut all = vec!["-n", &name];
        all.extend(arguments);
        ip(&all)
    }

    /// A cable between a place and the router.
    fn join(&self, place: &str, address: &str, router: &str) -> anyhow::Result<()> {
        let (name, hub) = (self.name(place), self.name("router"));
        ip(&[
            "link", "add", "eth0", "netns", &name, "type", "veth", "peer", "name", place, "netns",
            &hub,
        ])?;
        let (near, far) = (format!("{address}/24"), format!("{router}/24"));
        self.within(place, &["address", "add", &near, "dev", "eth0"])?;
        self.within(place, &["link", "set", "eth0", "up"])?;
        self.within("router", &["address", "add", &far, "dev", place])?;
        self.within("router", &["link", "set", place, "up"])?;
        self.within(place, &["route", "add", "default", "via", router])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in ["app", "proxy", "origin", "router"] {
            remove(&self.name(place));
        }
    }
}

/// Has the kernel forward packets in a namespace; a sysctl is of the namespace that opens it.
fn forward(netns: &Path) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("cannot find the own program")?;
    let written = Command::new(own)
        .args(["demo-enter", "--netns"])
        .arg(netns)
        .args(["--", "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])
        .status()
        .context("cannot start the own program")?;
    if !written.success() {
        bail!("cannot forward packets in {}", netns.display());
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("cannot start `ip`: install iproute2")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`ip {}` failed: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}

fn remove(name: &str) {
    if Path::new(NAMESPACES).join(name).exists()
        && let Err(error) = ip(&["netns", "delete", name])
    {
        eprintln!("offramp: demo: {error:#}");
    }
}

fn remove_stale() {
    for name in names(Path::new(NAMESPACES)).filter(|name| stale(name)) {
        remove(&name);
    }
}
