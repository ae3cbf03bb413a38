use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// As many servers as the C library asks.
const MOST_SERVERS: usize = 3;

/// The server lines of a resolv.conf, read again when the file changes.
#[derive(Debug)]
pub(super) struct ResolvConf {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Vec<Server>)>>,
}

/// What changes with a file's contents: inode, size, and time of change in seconds and
/// nanoseconds.
type Stamp = [i64; 4];

/// An address, and the interface it belongs to (0: any).
pub(crate) type Server = (IpAddr, u32);

impl ResolvConf {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            read: Mutex::new(None),
        }
    }

    pub(super) fn servers(&self, port: u16) -> Vec<SocketAddr> {
        let servers = self.current();
        servers.into_iter().map(|server| at(server, port)).collect()
    }

    fn current(&self) -> Vec<Server> {
        let stamp = stamp(&self.path);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(stamp), Some((known, servers))) = (stamp, &*read)
            && stamp == *known
        {
            return servers.clone();
        }
        // The file is small and local, so reading it here holds nobody up for long.
        let servers = parse(&fs::read(&self.path).unwrap_or_default());
        *read = stamp.map(|stamp| (stamp, servers.clone()));
        servers
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    let inode = metadata.ino().cast_signed();
    let size = metadata.size().cast_signed();
    Some([inode, size, metadata.mtime(), metadata.mtime_nsec()])
}

pub(crate) fn parse(text: &[u8]) -> Vec<Server> {
    let text = String::from_utf8_lossy(text);
    let servers: Vec<Server> = text.lines().filter_map(server).take(MOST_SERVERS).collect();
    if servers.is_empty() {
        // What the C library does without a server line (resolv.conf(5)).
        return vec![(Ipv4Addr::LOCALHOST.into(), 0)];
    }
    servers
}

fn server(line: &str) -> Option<Server> {
    let mut words = line.split_ascii_whitespace();
    if words.next() != Some("nameserver") {
        return None;
    }
    let word = words.next()?;
    match word.split_once('%') {
        Some((address, scope)) => {
            let address: Ipv6Addr = address.parse().ok()?;
            Some((address.into(), interface(scope)?))
        }
        None => Some((word.parse().ok()?, 0)),
    }
}

fn interface(scope: &str) -> Option<u32> {
    if let Ok(index) = scope.parse() {
        return Some(index);
    }
    if scope.contains('/') || scope.starts_with('.') {
        return None;
    }
    let index = fs::read_to_string(format!("/sys/class/net/{scope}/ifindex")).ok()?;
    index.trim().parse().ok()
}

fn at((address, scope): Server, port: u16) -> SocketAddr {
    match address {
        IpAddr::V4(address) => SocketAddr::from((address, port)),
        IpAddr::V6(address) => SocketAddrV6::new(address, port, 0, scope).into(),
    }
}
