//! What rules have to do with approved addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use offramp_dns::Way;
use offramp_intercept::{ClassId, Labelled};
use offramp_rules::{Claims, DomainName, Prefix, decide_name};

use super::{Answered, NotApproved};
use crate::lookup::way;
use crate::policy::Blocks;
use crate::publish::own_blocks;
use crate::recognise::Next;
use crate::shared::Shared;

/// What an answer opens to nobody, whatever the name: this machine, the link (where clouds have
/// what is secret), and what is no host's.
const NEVER: [&str; 8] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",
    "::/127",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// The same and our own blocks: read once, since each address of an answer is held against them.
static CLOSED: LazyLock<Vec<Prefix>> = LazyLock::new(|| {
    let never = NEVER.map(|text| text.parse().expect("all are blocks"));
    own_blocks().into_iter().chain(never).collect()
});

/// Whether an excluded name may stand for `address`, where these blocks stand for names.
pub(crate) fn is_openable<'a>(blocks: impl Iterator<Item = &'a Blocks>, address: IpAddr) -> bool {
    let blocks = blocks.flat_map(|(v4, v6)| [Some(*v4), *v6]).flatten();
    !blocks
        .chain(CLOSED.iter().copied())
        .any(|block| block.contains(address))
}

impl Shared {
    /// Approves what the answer to a look-up may open.
    pub(crate) async fn approve(
        &self,
        answered: &Answered<'_>,
        addresses: &[(IpAddr, Duration)],
    ) -> Result<(), NotApproved> {
        for (address, life) in addresses {
            let address = address.to_canonical();
            if self.is_openable(address) {
                self.approvals
                    .approve(&self.capture, answered, address, *life)
                    .await?;
            }
        }
        Ok(())
    }

    /// Whether an answer may open an address at all.
    pub(crate) fn is_openable(&self, address: IpAddr) -> bool {
        let policy = self.policy();
        is_openable(policy.books().map(|(blocks, _)| blocks), address)
    }

    /// Takes back what no answer and no flow needs any more.
    pub(crate) async fn retire_approvals(self: Arc<Self>) -> Next {
        if let Err(error) = self.approvals.retire(&self.capture).await {
            tracing::warn!(error = crate::chain(&error), "excluded addresses stay open");
        }
        Next::Nothing
    }

    /// Takes back the addresses of names that do not go the ways that `stays` accepts under the
    /// rules of now.
    pub(crate) async fn recheck_approvals(&self, stays: fn(Way) -> bool) {
        let stays = |class, name: &DomainName| self.way(class, name).is_some_and(stays);
        if let Err(error) = self.approvals.recheck(&self.capture, stays).await {
            tracing::error!(error = crate::chain(&error), "excluded addresses stay open");
        }
    }

    /// Gives apps that are of another class now what they had before, as far as that class excludes
    /// the names too: flows that go directly go on. To be called before sockets are swept.
    pub(crate) async fn carry_approvals(
        &self,
        before: &BTreeMap<ClassId, Vec<Labelled>>,
        apps: &BTreeMap<u32, Arc<Claims>>,
    ) {
        let mut pairs = BTreeSet::new();
        for (from, processes) in before {
            let claims = processes
                .iter()
                .filter_map(|process| apps.get(&process.pid));
            let classes = claims.filter_map(|claims| self.find_class(claims));
            pairs.extend(classes.filter(|to| to != from).map(|to| (*from, to)));
        }
        let stays = |class, name: &DomainName| self.way(class, name) == Some(Way::System);
        for pair in pairs {
            if let Err(error) = self.approvals.carry(&self.capture, pair, stays).await {
                tracing::warn!(error = crate::chain(&error), "excluded addresses closed");
            }
        }
    }

    fn way(&self, class: ClassId, name: &DomainName) -> Option<Way> {
        let claims = self.class(class)?;
        if self.policy().is_real(&claims) {
            // An address may be of several names: the daemon opens what is excluded.
            return Some(Way::Real);
        }
        let world = Arc::clone(&self.world.borrow());
        let decision = decide_name(&self.policy().rules, &claims, name, &world);
        Some(way(&decision.verdict))
    }
}
