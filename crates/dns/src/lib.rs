//! Answers the lookups of managed apps and remembers which name an address stands for.
//!
//! It opens no socket that an app can reach: query bytes come in, answer bytes go out. Start with
//! [`Names`], which keeps the synthetic addresses, and [`Responder`], which answers.

mod cache;
mod far;
#[cfg(test)]
mod fuzz;
mod message;
mod names;
mod responder;
mod svcb;
mod system;
mod tcp;
mod wire;

pub use cache::{Cached, Source};
pub use names::{Family, Held, Known, Listed, Names, NoAddress};
pub use responder::{Begun, By, Lookup, Observed, Question, Responder, Transport, Way};
pub use system::{ResolveError, SystemResolver};
pub use tcp::exchange_tcp;
