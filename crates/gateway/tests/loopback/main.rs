//! The gateway over loopback, with real TLS and real clients.

#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod curl;
mod http1;
mod http2;
mod lab;
mod limits;
mod process;
mod udp;
