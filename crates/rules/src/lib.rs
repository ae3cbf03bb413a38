//! The vocabulary of offramp and the one function that decides what happens to a flow.
//!
//! Pure: no I/O, no clock, no async runtime. Start with [`Target`] and [`Verdict`].

mod name;
mod prefix;
mod target;

pub use name::{DomainName, InvalidName};
pub use prefix::{InvalidPrefix, Prefix};
pub use target::{Host, ProfileId, Protocol, Target};
