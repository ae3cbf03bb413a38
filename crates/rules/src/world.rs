use std::collections::BTreeMap;
use std::fmt;

use crate::{Prefix, ProfileId, RouteSet};

/// What a decision depends on besides the profiles: the machine's networks and how the upstreams
/// are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    local: RouteSet,
    states: BTreeMap<ProfileId, State>,
}

impl World {
    /// A world in which the machine's interfaces have these `on_link` blocks.
    ///
    /// A block so wide that only a hostile network would hand it out (IPv4 under 8 bits, IPv6
    /// under 32) is not believed. Link-local, multicast and broadcast are always local.
    pub fn new(on_link: impl IntoIterator<Item = Prefix>) -> Self {
        let fixed = [
            "169.254.0.0/16",
            "fe80::/10",
            "224.0.0.0/4",
            "ff00::/8",
            "255.255.255.255/32",
        ]
        .map(|text| text.parse().expect("all are blocks"));
        let credible =
            |block: &Prefix| block.length() >= if block.address().is_ipv4() { 8 } else { 32 };
        Self {
            local: on_link.into_iter().filter(credible).chain(fixed).collect(),
            states: BTreeMap::new(),
        }
    }

    /// Notes the state of a profile.
    pub fn set_state(&mut self, profile: ProfileId, state: State) {
        self.states.insert(profile, state);
    }

    /// The state of a profile; one that was never noted is [`Reason::NotStarted`].
    pub fn state(&self, profile: &ProfileId) -> State {
        self.states
            .get(profile)
            .copied()
            .unwrap_or(State::Disconnected(Reason::NotStarted))
    }

    /// The blocks that count as local networks.
    pub fn local_networks(&self) -> &RouteSet {
        &self.local
    }
}

/// How a profile's upstream is, as its flows see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// A user switched it off.
    Off,
    /// No server has answered yet; flows may be held for a while.
    Connecting,
    /// A server answers.
    Connected,
    /// A server answered a moment ago and is sought again; flows are still taken.
    Reasserting,
    /// No server can be used.
    Disconnected(Reason),
}

/// Why a profile is disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// An on-demand rule says that this network needs no upstream: flows go directly.
    OnDemand,
    /// Nothing has been tried yet.
    NotStarted,
    /// No server could be reached.
    Unreachable,
    /// A server could not prove who it is.
    Untrusted,
    /// A server did not accept the credentials.
    NotAuthorised,
    /// A credential or another asset of the profile is missing.
    MissingAsset,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Off => f.write_str("switched off"),
            State::Connecting => f.write_str("connecting"),
            State::Connected => f.write_str("connected"),
            State::Reasserting => f.write_str("reasserting"),
            State::Disconnected(reason) => write!(f, "disconnected: {reason}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::OnDemand => "not needed on this network",
            Reason::NotStarted => "not started",
            Reason::Unreachable => "no server can be reached",
            Reason::Untrusted => "the server could not prove who it is",
            Reason::NotAuthorised => "the server did not accept the credentials",
            Reason::MissingAsset => "a credential is missing",
        })
    }
}
