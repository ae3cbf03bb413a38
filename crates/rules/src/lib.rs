//! The vocabulary of offramp, and the two functions that decide: [`claims`], which rules name an
//! app, and [`decide`], what happens to a flow of an app with these claims.
//!
//! Pure: no I/O, no clock, no async runtime. Start with [`Target`] and [`Verdict`].

mod app;
mod candidates;
mod cgroup;
mod claims;
mod decide;
mod facts;
#[cfg(test)]
mod fuzz;
mod identity;
mod name;
mod pattern;
mod prefix;
mod profile;
mod requirement;
mod resolver;
mod routes;
mod rule;
mod target;
mod user;
mod world;

pub use app::{App, Bundle, Program, User};
pub use candidates::{Candidates, candidates};
pub use cgroup::Cgroup;
pub use claims::{Claim, Claims, Finding, Found, claims, examine, is_settled};
pub use decide::{
    Decision, Exclusion, Outcome, Step, Verdict, Why, decide, decide_name, decide_told,
    direct_routes, is_in_force, needs_name,
};
pub use identity::{Identity, InvalidIdentity};
pub use name::{DomainName, InvalidName};
pub use pattern::Glob;
pub use prefix::{InvalidPrefix, Prefix};
pub use profile::{Layer, Overlay, Profile, Profiles, UnavailableAction};
pub use requirement::{InvalidRequirement, Requirement};
pub use resolver::{InvalidResolver, Resolver};
pub use routes::RouteSet;
pub use rule::{Mismatch, Rule};
pub use target::{Host, ProfileId, Protocol, Target};
pub use user::{InvalidUser, UserCondition};
pub use world::{Reason, State, World};
