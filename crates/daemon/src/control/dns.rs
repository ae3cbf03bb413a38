//! `offramp dns`: which names addresses stand for.

use std::net::IpAddr;
use std::sync::Arc;

use offramp_control::{
    Approved, CachedAnswer, Code, KnownName, NameCount, NamesAnswer, NamesRequest, Refusal,
};
use offramp_dns::{Cached, Known};
use offramp_rules::{DomainName, ProfileId};

use super::{Desk, scope, sees};
use crate::active::Active;
use crate::api::Peer;
use crate::approvals::Shown;
use crate::policy::{Blocks, Policy};

/// Names in one answer.
const MOST: usize = 10_000;

/// Which names are asked about.
#[derive(Clone)]
enum Wanted {
    All,
    /// With all below it.
    Name(DomainName),
    Address(IpAddr),
}

impl Wanted {
    fn read(request: &NamesRequest) -> Result<Self, Refusal> {
        let Some(text) = &request.name else {
            return Ok(Self::All);
        };
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let bad = |error| {
            let message = format!("{text:?} is neither a name nor an address: {error}");
            Refusal::new(Code::BadRequest, message)
        };
        DomainName::parse(text).map(Self::Name).map_err(bad)
    }

    fn is_text(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Name(wanted) => DomainName::parse(name).is_ok_and(|name| name.is_within(wanted)),
            Self::Address(_) => false,
        }
    }

    fn is_shown(&self, shown: &Shown) -> bool {
        match self {
            Self::All => true,
            Self::Name(wanted) => shown.names.iter().any(|name| name.is_within(wanted)),
            Self::Address(wanted) => shown.address == *wanted,
        }
    }

    fn is(&self, name: &DomainName, address: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Name(wanted) => name.is_within(wanted),
            Self::Address(wanted) => address == *wanted,
        }
    }
}

impl Desk {
    pub(super) async fn known_names(
        &self,
        peer: &Peer,
        request: NamesRequest,
    ) -> Result<NamesAnswer, Refusal> {
        let wanted = Wanted::read(&request)?;
        let policy = self.shared.policy();
        let only = request.profile.as_ref().map(|id| self.meant(peer, id));
        if let Some(id) = &only
            && !profiles(&policy, peer, |_| true).contains(id)
        {
            let message = format!("there is no enabled profile {id}");
            return Err(Refusal::new(Code::NotFound, message));
        }
        let mut answer = NamesAnswer::default();
        for (blocks, book) in policy.books() {
            let profiles = profiles(&policy, peer, |of| of == blocks);
            if only.as_ref().is_some_and(|only| !profiles.contains(only)) {
                continue;
            }
            let profiles: Vec<_> = profiles.iter().map(ToString::to_string).collect();
            let (names, own) = (Arc::clone(&book.names), wanted.clone());
            let (uid, most) = (peer.uid, MOST - answer.names.len());
            // There may be many, held against the request one by one.
            let list = move || names.list(uid, most, |name, address| own.is(name, address));
            let listed = tokio::task::spawn_blocking(list).await;
            let listed = listed.map_err(|error| Refusal::new(Code::Internal, error.to_string()))?;
            answer.is_cut |= listed.is_cut;
            answer.counts.push(NameCount {
                profiles: profiles.clone(),
                ipv4: listed.counts[0] as u64,
                ipv6: listed.counts[1] as u64,
                most: listed.most as u64,
            });
            let cached = book.responder.cached().into_iter();
            let cached = cached.filter(|kept| {
                sees(peer, kept.asker)
                    && only
                        .as_ref()
                        .is_none_or(|only| kept.source.profile == *only)
                    && wanted.is_text(&kept.name)
            });
            answer.answers.extend(cached.take(MOST).map(kept));
            let names = listed.names.into_iter();
            answer
                .names
                .extend(names.map(|known| told(known, &profiles)));
        }
        let shown = self.shared.approvals.shown(scope(peer)).await.into_iter();
        let shown = shown.filter(|shown| wanted.is_shown(shown));
        answer.approved = shown
            .filter_map(|shown| self.approved(&policy, shown, only.as_ref()))
            .take(MOST)
            .collect();
        Ok(answer)
    }

    fn approved(
        &self,
        policy: &Policy,
        shown: Shown,
        only: Option<&ProfileId>,
    ) -> Option<Approved> {
        let claims = self.shared.class(shown.class)?;
        let claiming = policy.claiming(&claims);
        let of: Vec<_> = claiming.map(|active| active.profile.id()).collect();
        if only.is_some_and(|only| !of.contains(&only)) {
            return None;
        }
        Some(Approved {
            address: shown.address.to_string(),
            names: shown.names.iter().map(ToString::to_string).collect(),
            profiles: of.into_iter().map(ToString::to_string).collect(),
            users: shown.users,
            expires_ms: shown.left.as_millis() as u64,
        })
    }
}

/// The enabled profiles with such blocks that this user may see.
fn profiles(policy: &Policy, peer: &Peer, is: impl Fn(&Blocks) -> bool) -> Vec<ProfileId> {
    let visible = policy.rules.iter().filter(|profile| {
        let active = policy.active.get(&profile.id);
        let owner = |active: &Arc<Active>| profile.owner.or(active.owner());
        active.is_some_and(|active| owner(active).is_none_or(|owner| sees(peer, owner)))
    });
    let of_blocks =
        visible.filter(|profile| policy.blocks_of(&profile.id).is_some_and(|of| is(&of)));
    of_blocks.map(|profile| profile.id.clone()).collect()
}

fn kept(kept: Cached) -> CachedAnswer {
    CachedAnswer {
        name: kept.name,
        kind: kept.kind,
        user: kept.asker,
        server: kept.resolver.to_string(),
        profile: kept.source.profile.to_string(),
        code: kept.code,
        expires_ms: kept.expires.as_millis() as u64,
        bytes: kept.bytes as u64,
    }
}

fn told(known: Known, profiles: &[String]) -> KnownName {
    KnownName {
        address: known.address.to_string(),
        name: known.name.to_string(),
        profiles: profiles.to_vec(),
        users: known.askers,
        unused_ms: known.unused.as_millis() as u64,
        flows: known.holders as u64,
    }
}
