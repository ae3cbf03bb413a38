//! The lab: a client, a router, a proxy, an origin and a name server, each in network namespaces
//! of its own, and everything the suites need to run real programs there.
//!
//! It is not a mock of anything: packets pass a real router, servers are real servers. Start with
//! [`Lab`] and [`Host`]. Everything ends with the test process: each host lives as long as a pipe
//! of the test process is open, whatever way the test ends.

pub mod addresses;
mod authority;
mod capture;
mod digest;
mod first;
mod host;
mod lab;
mod matrix;
mod origin;
mod person;
mod process;
mod product;
mod resolvers;
mod servers;

pub use authority::{Authority, Identity};
pub use capture::{Capture, Packet, Packets, Transport};
pub use digest::{Digest, pattern};
pub use first::build_first;
pub use host::{Host, User};
pub use lab::Lab;
pub use matrix::{Case, Expected, check_matrix};
pub use origin::{Origin, Seen, port};
pub use person::{Person, Visit, Way, copy_probe};
pub use process::{Finished, Running, wait_until};
pub use product::{Daemon, Gateway, Held, PROFILE, binary};
pub use resolvers::{ALL_MODULES, Resolvers};
pub use servers::{Names, Postgres, Shell};
