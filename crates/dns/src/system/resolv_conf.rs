use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// As many servers as the C library asks.
const MOST_SERVERS: usize = 3;

/// A resolv.conf, read again when the file is another or says something else.
#[derive(Debug)]
pub(super) struct ResolvConf {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Conf)>>,
}

/// What changes with a file's contents: device, inode, size, and the times of change of contents and
/// inode in seconds and nanoseconds.
type Stamp = [i64; 7];

/// What a resolv.conf says (resolv.conf(5)); what is not here is for those who ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conf {
    pub(crate) servers: Vec<Server>,
    /// How long a server is waited for; none: nothing is said of it.
    pub(crate) timeout: Option<Duration>,
    /// How often all servers are asked; none: nothing is said of it.
    pub(crate) attempts: Option<usize>,
    /// Whether each look-up begins with another server.
    pub(crate) rotate: bool,
    /// Whether servers are asked over TCP.
    pub(crate) over_tcp: bool,
}

/// An address, and the link that it is on: a number or a name.
pub(crate) type Server = (IpAddr, Option<String>);

impl ResolvConf {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            read: Mutex::new(None),
        }
    }

    pub(super) fn current(&self) -> Conf {
        let stamp = stamp(&self.path);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(stamp), Some((known, conf))) = (stamp, &*read)
            && stamp == *known
        {
            return conf.clone();
        }
        // The file is small and local, so reading it here holds nobody up for long.
        let conf = parse(&fs::read(&self.path).unwrap_or_default());
        *read = stamp.map(|stamp| (stamp, conf.clone()));
        conf
    }
}

impl Conf {
    /// Where the servers are now: a link may be another one by the same name.
    pub(super) fn addresses(&self, port: u16) -> Vec<SocketAddr> {
        let servers = self.servers.iter();
        servers.filter_map(|server| at(server, port)).collect()
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some([
        metadata.dev().cast_signed(),
        metadata.ino().cast_signed(),
        metadata.size().cast_signed(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ])
}

pub(crate) fn parse(text: &[u8]) -> Conf {
    let text = String::from_utf8_lossy(text);
    let mut conf = Conf::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => conf.servers.extend(words.next().and_then(server)),
            Some("options") => words.for_each(|option| conf.set(option)),
            _ => {}
        }
    }
    conf.servers.truncate(MOST_SERVERS);
    if conf.servers.is_empty() {
        // What the C library does without a server line.
        conf.servers.push((Ipv4Addr::LOCALHOST.into(), None));
    }
    conf
}

impl Conf {
    fn set(&mut self, option: &str) {
        let number = |text: &str| text.parse::<u16>().ok();
        match option.split_once(':') {
            Some(("timeout", seconds)) => {
                let seconds = number(seconds).map(|seconds| u64::from(seconds.clamp(1, 5)));
                self.timeout = seconds.map(Duration::from_secs).or(self.timeout);
            }
            Some(("attempts", times)) => {
                let times = number(times).map(|times| usize::from(times.clamp(1, 5)));
                self.attempts = times.or(self.attempts);
            }
            None if option == "rotate" => self.rotate = true,
            None if option == "use-vc" => self.over_tcp = true,
            // How names are searched is the apps' own matter, and what is in a query is theirs.
            _ => {}
        }
    }
}

fn server(word: &str) -> Option<Server> {
    match word.split_once('%') {
        Some((address, scope)) => {
            let address: Ipv6Addr = address.parse().ok()?;
            let is_name = !scope.is_empty() && !scope.contains('/') && !scope.starts_with('.');
            is_name.then(|| (address.into(), Some(scope.to_owned())))
        }
        None => Some((word.parse().ok()?, None)),
    }
}

fn interface(scope: &str) -> Option<u32> {
    if let Ok(index) = scope.parse() {
        return Some(index);
    }
    let index = fs::read_to_string(format!("/sys/class/net/{scope}/ifindex")).ok()?;
    index.trim().parse().ok()
}

fn at((address, scope): &Server, port: u16) -> Option<SocketAddr> {
    match (address, scope) {
        (IpAddr::V6(address), Some(scope)) => {
            Some(SocketAddrV6::new(*address, port, 0, interface(scope)?).into())
        }
        (address, _) => Some((*address, port).into()),
    }
}
