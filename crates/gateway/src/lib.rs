//! The server end of offramp: a proxy for TCP, UDP and DNS over TLS, by HTTP/1.1 and HTTP/2.
//!
//! It opens what clients ask for and nothing on its own: no cache, no inspection. Start with
//! [`Config`] and [`Gateway`].

mod answer;

mod config;
mod connect;
mod connection;
mod dns;
mod flow;
#[cfg(test)]
mod fuzz;
mod gateway;
mod http1;
mod http2;
mod metrics;
mod policy;
mod request;
mod service;
mod tls;
mod udp;
pub mod users;

pub use config::Config;
pub use gateway::{Gateway, StartError};
