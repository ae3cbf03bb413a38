//! Flows that another daemon relays: as they are handed over, and as they are taken.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use offramp_dns::{Family, Held};
use offramp_intercept::ClassId;
use offramp_rules::{Host, ProfileId};

use super::*;
use crate::classes::KeptClaims;
use crate::policy::Policy;
use crate::takeover::wire;

impl Flows {
    /// The daemon that shows these flows, where there is one.
    pub(crate) fn successor(&self) -> Option<&Successor> {
        self.successor.get()
    }

    /// From here on the ends of flows are told to this one.
    pub(crate) fn set_successor(&self, successor: Successor) {
        // There is one in the life of a process.
        let _ = self.successor.set(successor);
    }

    /// Every live flow, and the number of the last one.
    pub(crate) fn hand(&self) -> (Vec<wire::Flow>, u64) {
        let flows = self.lock().values().map(|record| record.hand()).collect();
        (flows, self.next.load(Ordering::Relaxed))
    }

    /// The numbers of live flows with their bytes, sent and received.
    pub(crate) fn progress(&self) -> HashMap<u64, (u64, u64)> {
        let live = self.lock();
        let counts = |record: &Arc<Record>| (record.counters.sent(), record.counters.received());
        live.iter()
            .map(|(id, record)| (*id, counts(record)))
            .collect()
    }

    /// Numbers of flows go on behind this one.
    pub(crate) fn go_on_behind(&self, last: u64) {
        self.next.fetch_max(last, Ordering::Relaxed);
    }

    /// Cuts the ways of a flow to a target, or all of them.
    pub(crate) fn cut(&self, flow: u64, target: Option<&Target>) {
        let record = self.lock().get(&flow).cloned();
        let Some(record) = record else { return };
        for leg in record.legs().iter() {
            if target.is_none_or(|target| leg.target == *target) {
                leg.cut.cancel();
            }
        }
    }

    /// Shows a flow that another daemon relays. None: it cannot be read.
    pub(crate) fn adopt(self: &Arc<Self>, flow: &wire::Flow) -> Option<FlowGuard> {
        let age = Duration::from_millis(flow.age_ms);
        let beginning = Beginning {
            identity: Identity {
                class: ClassId::new(flow.class).unwrap_or(ClassId::UNDECIDED),
                exec: flow.exec,
                pid: flow.pid,
                uid: flow.uid,
                cookie: flow.cookie,
            },
            executable: flow.executable.as_str().into(),
            profile: ProfileId::new(&flow.profile),
            claims: Arc::new(flow.claims.to_claims()),
            protocol: match flow.is_tcp {
                true => Protocol::Tcp,
                false => Protocol::Udp,
            },
            source: flow.source,
            target: flow.target.read()?,
            told: flow.told.as_ref().and_then(Sniffed::read),
        };
        let began = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        let guard = self.enter(flow.id, beginning, began, flow.began_unix_ms);
        guard.count(flow.sent, flow.received);
        if flow.is_open {
            let way = match flow.is_relayed {
                true => control::Way::Relay,
                false => control::Way::Direct,
            };
            guard.opened(way, flow.server.as_deref());
        }
        Some(guard)
    }
}

impl FlowGuard {
    /// Claims the address of the name that the flow goes to.
    pub(crate) fn hold_name(&self, policy: &Policy, target: &Target) -> Option<Held> {
        let Host::Name(name) = &target.host else {
            return None;
        };
        let family = match self.record.source.ip().to_canonical() {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        };
        let book = policy.book(&self.record.claims())?;
        book.names.hold_name(name, family, self.record.identity.uid)
    }

    /// Says how many bytes were sent and received so far.
    pub(crate) fn count(&self, sent: u64, received: u64) {
        let counters = &self.record.counters;
        counters.sent.store(sent, Ordering::Relaxed);
        counters.received.store(received, Ordering::Relaxed);
    }
}

impl Record {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn error(&self) -> Option<String> {
        self.error.get().cloned()
    }

    fn hand(&self) -> wire::Flow {
        let legs = self.legs();
        let ways = legs.iter();
        let ways = ways.filter_map(|leg| Way::of(&leg.target, leg.name.as_ref(), &leg.verdict));
        wire::Flow {
            id: self.id,
            class: self.identity.class.number(),
            exec: self.identity.exec,
            pid: self.identity.pid,
            uid: self.identity.uid,
            cookie: self.identity.cookie,
            executable: self.executable.to_string(),
            profile: self.profile().to_string(),
            claims: KeptClaims::of(&self.claims()),
            is_tcp: self.protocol == Protocol::Tcp,
            source: self.source,
            target: wire::WireTarget::of(&self.target),
            told: self.told.get().map(Sniffed::describe),
            age_ms: self.began.elapsed().as_millis() as u64,
            began_unix_ms: self.began_unix_ms,
            is_open: self.state() == control::FlowState::Open,
            is_relayed: matches!(self.way(), control::Way::Relay),
            server: self.server(),
            sent: self.counters.sent(),
            received: self.counters.received(),
            ways: ways.collect(),
        }
    }
}
