//! What a name that an app tells comes to.

use std::net::IpAddr;
use std::time::Duration;

use offramp_control::ToldBy;
use offramp_dns::Family;
use offramp_rules::{Claims, Decision, DomainName, Host, Target, Verdict, decide_told, needs_name};
use tokio::time::timeout;

use super::Sniffed;
use crate::shared::{Shared, Wanted};

/// How long the machine's resolver may take to confirm an address.
const CONFIRMED: Duration = Duration::from_secs(2);

/// A decision, and the name that it depends on.
pub(crate) struct Decided {
    pub(crate) decision: Decision,
    pub(crate) name: Option<DomainName>,
}

impl Shared {
    /// Whether the bytes of a flow are to be looked at.
    pub(crate) fn needs_name(&self, claims: &Claims, wanted: &Wanted) -> bool {
        let target = &wanted.target;
        if let Some(known) = wanted.known() {
            return self.may_change(claims, target, known);
        }
        let world = self.world.borrow();
        needs_name(&self.policy().rules, claims, target, &world)
    }

    /// Decides about a flow of which the app may have told a name: the table in [`super`]; where the
    /// app was told names of the address, [`choose`](crate::told::choose).
    pub(crate) async fn decide_told(
        &self,
        claims: &Claims,
        wanted: &Wanted,
        told: Option<&Sniffed>,
    ) -> Decided {
        let target = &wanted.target;
        if let Some(known) = wanted.known() {
            return self.decide_known(claims, target, known, told).await;
        }
        let (Some(told), Host::Address(address)) = (told, &target.host) else {
            return self.by_address(claims, target).await;
        };
        let name = &told.name;
        let decision = self
            .held(|rules, world| decide_told(rules, claims, target, name, world))
            .await;
        if !matches!(decision.verdict, Verdict::Direct(_)) {
            let name = Some(name.clone());
            return Decided { decision, name };
        }
        let by_address = self.by_address(claims, target).await;
        let is_direct = matches!(by_address.decision.verdict, Verdict::Direct(_));
        let is_believed =
            is_direct || told.by != ToldBy::Ech && self.is_address_of(claims, *address, name).await;
        match is_believed {
            true => Decided {
                decision,
                name: Some(name.clone()),
            },
            false => by_address,
        }
    }

    async fn by_address(&self, claims: &Claims, target: &Target) -> Decided {
        let decision = self.decide(claims, target).await;
        Decided {
            decision,
            name: None,
        }
    }

    /// Whether the machine's resolver has this address for the name, which is one of those that may
    /// be asked of it, and the address is one that an answer may open.
    async fn is_address_of(&self, claims: &Claims, address: IpAddr, name: &DomainName) -> bool {
        if !self.is_openable(address) {
            return false;
        }
        let policy = self.policy();
        let Some(book) = policy.book(claims) else {
            return false;
        };
        let family = match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        };
        let asked = timeout(CONFIRMED, book.responder.system_addresses(name, family));
        match asked.await {
            Ok(Ok(addresses)) => addresses.contains(&address),
            Ok(Err(error)) => {
                tracing::debug!(
                    error = crate::chain(&error),
                    "a told name was not confirmed"
                );
                false
            }
            Err(_) => false,
        }
    }
}
