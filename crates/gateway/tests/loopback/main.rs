//! The gateway over loopback, with real TLS and real clients.

mod curl;
mod http1;
mod http2;
mod lab;
mod limits;
mod process;
mod udp;
