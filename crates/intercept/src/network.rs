//! The device pair, the addresses, the rules and the routes.
//!
//! ```text
//! host namespace                                   private namespace
//! class mark ─ rule ─ class table ─ offramp0 ═══ app0 ─ every address is local ─ listeners
//!                      └ throw: excluded targets take the main table
//! ```

mod inside;
mod netlink;
mod settings;
mod survey;
mod tables;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use rtnetlink::Handle;
use tokio::task::JoinSet;

use crate::namespace::Namespace;
pub(crate) use netlink::Changes;
pub use survey::Survey;
pub(crate) use tables::ClassRoutes;
pub use tables::Conflict;

/// The host's end of the pair.
pub const DEVICE: &str = "offramp0";
/// The end inside the private namespace.
pub(crate) const INNER_DEVICE: &str = "app0";

/// The source address of managed apps that did not bind one.
pub const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The same for IPv6 (RFC 5180 sets the block apart for benchmarks).
pub const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1);
const INNER_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 4);
const INNER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 4);

/// What set-up of the network asked for and did not get.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct NetworkError {
    action: String,
    source: rtnetlink::Error,
}

trait Doing<T> {
    /// Says what was being done when it failed.
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, NetworkError>;
}

impl<T> Doing<T> for Result<T, rtnetlink::Error> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, NetworkError> {
        self.map_err(|source| NetworkError {
            action: action(),
            source,
        })
    }
}

/// Everything of ours that the kernel's routing holds.
pub(crate) struct Network {
    host: Handle,
    ipv6: bool,
    device: u32,
    inner_device: u32,
    tables: tables::Tables,
    connections: JoinSet<()>,
    runtime: PathBuf,
}

impl Network {
    /// Makes what is missing; what an earlier run left is taken over.
    pub(crate) async fn start(namespace: &Namespace, runtime: &Path) -> Result<Self, NetworkError> {
        let mut connections = JoinSet::new();
        let host = netlink::connect(&mut connections).doing(|| "open a netlink socket".into())?;
        let inner = namespace
            .within(|| netlink::connect(&mut connections).map_err(io::Error::other))
            .map_err(|error| rtnetlink::Error::NamespaceError(error.to_string()))
            .doing(|| "enter the private network namespace".into())?;
        let ipv6 = ipv6_exists();
        let (device, inner_device) = inside::pair(&host, &inner, namespace).await?;
        settings::apply(runtime, ipv6);
        netlink::bring_up(&host, device)
            .await
            .doing(|| format!("bring {DEVICE} up"))?;
        inside::furnish(&inner, inner_device, namespace, ipv6).await?;
        host_addresses(&host, device, ipv6).await?;
        let tables = tables::Tables::start(&host, device, ipv6).await?;
        Ok(Self {
            host,
            ipv6,
            device,
            inner_device,
            tables,
            connections,
            runtime: runtime.to_owned(),
        })
    }

    pub(crate) fn device(&self) -> u32 {
        self.device
    }

    pub(crate) fn inner_device(&self) -> u32 {
        self.inner_device
    }

    pub(crate) fn tables(&self) -> &tables::Tables {
        &self.tables
    }

    /// Tells of changes to the host's network from here on.
    pub(crate) fn watch(&mut self) -> Result<Changes, NetworkError> {
        netlink::watch(&mut self.connections).doing(|| "watch the network".into())
    }

    /// Removes what an earlier run left.
    pub(crate) async fn uninstall(runtime: &Path) -> Result<(), NetworkError> {
        let mut connections = JoinSet::new();
        let host = netlink::connect(&mut connections).doing(|| "open a netlink socket".into())?;
        tables::Tables::new(&host, 0, ipv6_exists()).stop().await?;
        let find = || format!("look for {DEVICE}");
        if let Some((device, _)) = netlink::find(&host, DEVICE).await.doing(find)? {
            let remove = || format!("remove {DEVICE}");
            host.link().del(device).execute().await.doing(remove)?;
        }
        settings::restore(runtime);
        Ok(())
    }

    /// What the host's own network looks like now.
    pub(crate) async fn survey(&self) -> Result<Survey, NetworkError> {
        survey::survey(&self.host, self.device, self.ipv6).await
    }

    /// Removes everything.
    pub(crate) async fn stop(&mut self) -> Result<(), NetworkError> {
        self.tables.stop().await?;
        self.host
            .link()
            .del(self.device)
            .execute()
            .await
            .doing(|| format!("remove {DEVICE}"))?;
        self.connections.abort_all();
        settings::restore(&self.runtime);
        Ok(())
    }
}

/// Whether this kernel has IPv6 and it is not switched off for new devices.
fn ipv6_exists() -> bool {
    settings::read("net/ipv6/conf/default/disable_ipv6").is_some_and(|value| value == "0")
}

async fn host_addresses(host: &Handle, device: u32, ipv6: bool) -> Result<(), NetworkError> {
    netlink::add_address(host, device, SOURCE_V4.into())
        .await
        .doing(|| format!("give {SOURCE_V4} to {DEVICE}"))?;
    if ipv6 {
        netlink::add_address(host, device, SOURCE_V6.into())
            .await
            .doing(|| format!("give {SOURCE_V6} to {DEVICE}"))?;
    }
    Ok(())
}
