use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use offramp_relay::Limits;
use offramp_rules::Prefix;

/// What a gateway is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients are awaited; port 0 takes a free one.
    pub listen: SocketAddr,
    /// PEM file with the certificate and its chain.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
    /// File with one user a line; without it nobody is asked for a name.
    pub users: Option<PathBuf>,
    /// PEM file with the authorities of client certificates; with it every client needs one.
    pub client_ca: Option<PathBuf>,
    /// Blocks that may be reached although they are private. Default none.
    pub allow: Vec<Prefix>,
    /// Where metrics are served, over plain HTTP. Default nowhere.
    pub metrics: Option<SocketAddr>,
    /// The resolver that `/dns-query` is forwarded to. Default those of `/etc/resolv.conf`.
    pub resolver: Option<SocketAddr>,
    /// Client connections at one time. Default 10,000.
    pub connections: usize,
    /// Flows at one time over all connections. Default 50,000.
    pub flows: usize,
    /// UDP associations at one time over all connections. Default 10,000.
    pub associations: usize,
    /// How long flows may go on after a stop. Default 10 seconds.
    pub drain: Duration,
    /// How long a TCP flow may stand still.
    pub limits: Limits,
    /// How long a UDP association may stand still. Default 2 minutes.
    pub udp_idle: Duration,
}

impl Config {
    /// The defaults, for these three that have none.
    pub fn new(listen: SocketAddr, certificate: PathBuf, key: PathBuf) -> Self {
        Self {
            listen,
            certificate,
            key,
            users: None,
            client_ca: None,
            allow: Vec::new(),
            metrics: None,
            resolver: None,
            connections: 10_000,
            flows: 50_000,
            associations: 10_000,
            drain: Duration::from_secs(10),
            limits: Limits::default(),
            udp_idle: Duration::from_secs(120),
        }
    }
}
