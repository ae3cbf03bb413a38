//! Tunnels through a server in this process that behaves well, or oddly.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

#[path = "loopback/credentials.rs"]
mod credentials;
#[path = "loopback/fake.rs"]
mod fake;
#[path = "loopback/http1.rs"]
mod http1;
#[path = "loopback/http2.rs"]
mod http2;
#[path = "loopback/servers.rs"]
mod servers;
#[path = "loopback/udp.rs"]
mod udp;

/// Every test ends, whatever happens.
async fn limited(test: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_secs(30), test)
        .await
        .expect("within the limit");
}
