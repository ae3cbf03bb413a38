//! How bytes move between two ends: the copy loop, the accept loop, datagrams over a byte stream.
//!
//! Knows nothing of TLS, HTTP, names or rules. Start with [`copy`] and [`serve`].

pub mod capsule;
mod copy;
pub mod datagram;
#[cfg(test)]
mod fuzz;
mod pool;
mod reset;
mod serve;

pub use copy::{Counters, End, Limits, copy};
pub use reset::reset;
pub use serve::{Limit, Listener, Served, WhenFull, serve};
