//! The vocabulary of offramp and the one function that decides what happens to a flow.
//!
//! Pure: no I/O, no clock, no async runtime. Start with [`Target`] and [`Verdict`].

mod decide;
mod name;
mod prefix;
mod profile;
mod routes;
mod target;
mod world;

pub use decide::{
    Decision, Exclusion, Outcome, Step, Verdict, Why, decide, decide_name, direct_routes,
};
pub use name::{DomainName, InvalidName};
pub use prefix::{InvalidPrefix, Prefix};
pub use profile::{
    App, Identity, InvalidIdentity, Layer, Profile, Profiles, Rule, UnavailableAction,
};
pub use routes::RouteSet;
pub use target::{Host, ProfileId, Protocol, Target};
pub use world::{Reason, State, World};
