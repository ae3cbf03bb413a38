//! The device pair, the addresses, the rules and the routes.
//!
//! ```text
//! host namespace                                   private namespace
//! class mark ─ rule ─ class table ─ offramp0 ═══ app0 ─ every address is local ─ listeners
//!                      └ throw: excluded targets take the main table
//! ```

mod inside;
mod lost;
mod netlink;
mod rules;
mod settings;
mod survey;
mod tables;
mod watch;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use rtnetlink::Handle;
use tokio::task::JoinSet;

use crate::namespace::Namespace;
pub(crate) use lost::{Broken, Lost, broken, summary};
pub use rules::Conflict;
pub use survey::Survey;
pub(crate) use tables::{ClassRoutes, Wanted};
pub use watch::Change;
pub(crate) use watch::Changes;

/// The host's end of the pair.
pub const DEVICE: &str = "offramp0";
/// The end inside the private namespace.
pub(crate) const INNER_DEVICE: &str = "app0";

/// The source address of managed apps that did not bind one.
pub const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The same for IPv6 (RFC 5180 sets the block apart for benchmarks).
pub const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1);
pub(crate) const INNER_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 4);
pub(crate) const INNER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 4);

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
    inner: Handle,
    /// By what the kernel tells our own changes, here and inside.
    ports: [u32; 2],
    ipv6: bool,
    device: u32,
    inner_device: u32,
    tables: tables::Tables,
    /// Settings that cannot be changed here, such as in a container.
    fixed: BTreeSet<String>,
    connections: JoinSet<()>,
    runtime: PathBuf,
}

impl Network {
    /// Makes what is missing; what an earlier run left is taken over.
    pub(crate) async fn start(namespace: &Namespace, runtime: &Path) -> Result<Self, NetworkError> {
        let mut connections = JoinSet::new();
        let failed = |error: io::Error| rtnetlink::Error::NamespaceError(error.to_string());
        let (host, port) = netlink::connect(&mut connections)
            .map_err(failed)
            .doing(|| "open a netlink socket".into())?;
        let (inner, inner_port) = namespace
            .within(|| netlink::connect(&mut connections))
            .map_err(failed)
            .doing(|| "enter the private network namespace".into())?;
        let ipv6 = ipv6_is_on();
        let (device, inner_device) = inside::pair(&host, &inner, namespace).await?;
        settings::apply(runtime, ipv6);
        inside::set_up(&host, device, DEVICE).await?;
        inside::furnish(&inner, inner_device, namespace, ipv6).await?;
        host_addresses(&host, device, ipv6).await?;
        let tables = tables::Tables::start(&host, device, ipv6).await?;
        Ok(Self {
            host,
            inner,
            ports: [port, inner_port],
            ipv6,
            device,
            inner_device,
            tables,
            fixed: BTreeSet::new(),
            connections,
            runtime: runtime.to_owned(),
        })
    }

    pub(crate) fn device(&self) -> u32 {
        self.device
    }

    /// Whether IPv6 is on.
    pub(crate) fn ipv6(&self) -> bool {
        self.ipv6
    }

    pub(crate) fn inner_device(&self) -> u32 {
        self.inner_device
    }

    pub(crate) fn tables(&self) -> &tables::Tables {
        &self.tables
    }

    /// Tells of changes by others from here on.
    pub(crate) fn watch(&self, namespace: &Namespace) -> Result<Changes, NetworkError> {
        Changes::listen(namespace, self.ports)
            .map_err(|error| rtnetlink::Error::NamespaceError(error.to_string()))
            .doing(|| "watch the network".into())
    }

    /// What of ours is not as it should be, in the order in which it has to be put back.
    pub(crate) async fn inspect(
        &mut self,
        namespace: &Namespace,
        wanted: &Wanted,
    ) -> Result<Vec<Lost>, NetworkError> {
        self.ipv6 = ipv6_is_on();
        self.tables.use_device(self.device, self.ipv6);
        let known = (self.device, self.inner_device);
        let mut lost = inside::inspect_pair(&self.host, &self.inner, known).await?;
        lost.extend(self.lost_settings());
        if !namespace.is_named() {
            lost.push(Lost::Mount);
        }
        if lost.contains(&Lost::Pair) {
            // The rest is another device's.
            return Ok(lost);
        }
        let addresses = netlink::addresses(&self.host, self.device)
            .await
            .doing(|| format!("list the addresses of {DEVICE}"))?;
        for address in sources(self.ipv6) {
            if !addresses.contains(&address) {
                let inside = false;
                lost.push(Lost::Address { address, inside });
            }
        }
        lost.extend(inside::inspect(&self.inner, self.inner_device, self.ipv6).await?);
        lost.extend(self.tables.inspect(wanted).await?);
        Ok(lost)
    }

    /// Whether something is lost that the kernel does not tell of.
    pub(crate) fn is_quietly_lost(&self, namespace: &Namespace) -> bool {
        !namespace.is_named() || ipv6_is_on() != self.ipv6 || self.lost_settings().next().is_some()
    }

    /// Makes the pair anew where it is not whole; all else is lost then.
    pub(crate) async fn restore_pair(&mut self, namespace: &Namespace) -> Result<(), NetworkError> {
        let pair = inside::pair(&self.host, &self.inner, namespace).await?;
        (self.device, self.inner_device) = pair;
        self.tables.use_device(self.device, self.ipv6);
        Ok(())
    }

    /// Puts back all of these but the pair, which has to be whole.
    pub(crate) async fn restore(
        &mut self,
        namespace: &Namespace,
        lost: &[Lost],
    ) -> Result<(), NetworkError> {
        let has = |wanted: fn(&Lost) -> bool| lost.iter().any(wanted);
        if has(|lost| matches!(lost, Lost::Mount)) {
            namespace
                .name_again()
                .map_err(|error| rtnetlink::Error::NamespaceError(error.to_string()))
                .doing(|| "mount the private namespace".into())?;
        }
        if has(|lost| matches!(lost, Lost::Setting(_))) {
            settings::apply(&self.runtime, self.ipv6);
            for name in settings::lost(self.ipv6) {
                tracing::warn!(setting = %name, "setting cannot be changed");
                self.fixed.insert(name);
            }
        }
        if has(|lost| matches!(lost, Lost::Device { inside: false })) {
            inside::set_up(&self.host, self.device, DEVICE).await?;
        }
        if has(|lost| matches!(lost, Lost::Address { inside: false, .. })) {
            host_addresses(&self.host, self.device, self.ipv6).await?;
        }
        let is_inside = |lost: &Lost| {
            matches!(
                lost,
                Lost::Inside { .. }
                    | Lost::Device { inside: true }
                    | Lost::Address { inside: true, .. }
            )
        };
        if has(is_inside) {
            inside::furnish(&self.inner, self.inner_device, namespace, self.ipv6).await?;
        }
        for lost in lost {
            self.tables.restore(lost).await?;
        }
        Ok(())
    }

    fn lost_settings(&self) -> impl Iterator<Item = Lost> {
        let lost = settings::lost(self.ipv6).into_iter();
        lost.filter(|name| !self.fixed.contains(name))
            .map(Lost::Setting)
    }

    /// Removes what an earlier run left.
    pub(crate) async fn uninstall(runtime: &Path) -> Result<(), NetworkError> {
        let mut connections = JoinSet::new();
        let (host, _) = netlink::connect(&mut connections)
            .map_err(|error| rtnetlink::Error::NamespaceError(error.to_string()))
            .doing(|| "open a netlink socket".into())?;
        tables::Tables::new(&host, 0, true).stop().await?;
        let find = || format!("look for {DEVICE}");
        if let Some(device) = netlink::find(&host, DEVICE).await.doing(find)? {
            let remove = || format!("remove {DEVICE}");
            let index = device.index;
            host.link().del(index).execute().await.doing(remove)?;
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

/// Whether this kernel has IPv6 and the machine's owner has not switched it off.
fn ipv6_is_on() -> bool {
    settings::read("net/ipv6/conf/all/disable_ipv6").is_some_and(|value| value == "0")
}

fn sources(ipv6: bool) -> impl Iterator<Item = IpAddr> {
    let all = [IpAddr::V4(SOURCE_V4), IpAddr::V6(SOURCE_V6)];
    all.into_iter()
        .filter(move |source| ipv6 || source.is_ipv4())
}

async fn host_addresses(host: &Handle, device: u32, ipv6: bool) -> Result<(), NetworkError> {
    for source in sources(ipv6) {
        netlink::add_address(host, device, source)
            .await
            .doing(|| format!("give {source} to {DEVICE}"))?;
    }
    Ok(())
}
