//! Reaches a target through a proxy server over TLS: HTTP/2 and HTTP/1.1 CONNECT, CONNECT-UDP
//! (RFC 9298), and lookups at the server itself (RFC 8484).
//!
//! It decides nothing about flows and moves no bytes between two ends. Start with [`Upstream`],
//! which shares warm connections among all flows of one profile, and [`Tunnel`].
//!
//! # Life of a server
//!
//! [`Upstream::run`] keeps one warm connection to the first server in order that answers, and
//! keeps trying those before it. A server that gets credentials has to accept them before it
//! counts as ready. The state is `Connecting` until a server has answered or all
//! have been tried; `Reasserting` for at most 10 s after the last connection was lost; then
//! `Disconnected`, in which an open fails at once with the last reason while reconnecting goes on
//! (at once, then after 100 ms, 250 ms, 500 ms, 1 s and every 2 s). Where a server turns the
//! credentials down (401 or 407) the state is `Disconnected` at once, and they are tried again
//! after 5 s, 15 s and then every 30 s, since servers lock out who tries wrong ones too often.

mod config;
mod connection;
mod dial;
mod error;
#[cfg(test)]
mod fuzz;
mod h1;
mod h2;
mod health;
mod keeper;
mod open;
mod proof;
mod reply;
mod slot;
mod tls;
mod tunnel;
mod udp;
mod way;

pub use config::{Authorization, Config, ConfigError, Secret, Server, Timeouts, Trust};
pub use error::{CertificateProblem, ConnectError, OpenError};
pub use health::State;
pub use open::Upstream;
pub use tunnel::Tunnel;
pub use udp::UdpTunnel;
