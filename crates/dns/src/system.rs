use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::message;
use crate::{Names, Transport, exchange_tcp};

use self::resolv_conf::ResolvConf;

pub(crate) mod answer;
pub(crate) mod resolv_conf;

/// How long one server is waited for, per try, where resolv.conf says nothing else.
const TRY_LIMIT: Duration = Duration::from_secs(2);

/// How often all servers are asked, where resolv.conf says nothing else.
const ATTEMPTS: usize = 2;

/// How long all tries may take; apps ask again after five seconds, and then give up.
const WHOLE_LIMIT: Duration = Duration::from_secs(12);

/// How many lookups run at a time; more of them fail at once.
const PARALLEL: usize = 256;

/// Why the system's resolver gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// All servers of resolv.conf stand in the synthetic ranges.
    #[error("no resolver is configured that may be asked")]
    NoServer,
    /// 256 lookups are under way.
    #[error("too many lookups at a time")]
    Busy,
    /// Nobody answered; the source is what happened at the last try.
    #[error("no resolver answered")]
    NoAnswer(#[source] io::Error),
}

/// The resolver that the machine's own programs use.
#[derive(Debug)]
pub struct SystemResolver {
    conf: ResolvConf,
    port: u16,
    permits: Semaphore,
    /// How many look-ups there were, for `options rotate`.
    asked: AtomicUsize,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::new()
    }
}

impl SystemResolver {
    /// Asks the servers of `/etc/resolv.conf`, which is read again when it changes.
    pub fn new() -> Self {
        Self::at("/etc/resolv.conf", 53)
    }

    /// Asks the servers of the resolv.conf at `path`, on `port`.
    pub fn at(path: impl Into<PathBuf>, port: u16) -> Self {
        Self {
            conf: ResolvConf::new(path.into()),
            port,
            permits: Semaphore::new(PARALLEL),
            asked: AtomicUsize::new(0),
        }
    }

    /// Forwards `query` as it is, but for its id, and returns the answer, whose id is not the
    /// query's. Servers in the ranges of `synthetic` are left out: asking them would be a loop.
    pub(crate) async fn exchange(
        &self,
        query: &[u8],
        transport: Transport,
        synthetic: &Names,
    ) -> Result<Bytes, ResolveError> {
        let _permit = self.permits.try_acquire().map_err(|_| ResolveError::Busy)?;
        let conf = self.conf.current();
        let mut servers = conf.addresses(self.port);
        servers.retain(|server| !synthetic.contains(server.ip()));
        if conf.rotate && !servers.is_empty() {
            let first = self.asked.fetch_add(1, Ordering::Relaxed) % servers.len();
            servers.rotate_left(first);
        }
        let transport = match conf.over_tcp {
            true => Transport::Tcp,
            false => transport,
        };
        let limit = conf.timeout.unwrap_or(TRY_LIMIT);
        let end = Instant::now() + WHOLE_LIMIT;
        let mut failed = None;
        let mut negative = None;
        for _ in 0..conf.attempts.unwrap_or(ATTEMPTS) {
            for server in &servers {
                let limit = limit.min(end.saturating_duration_since(Instant::now()));
                match ask(*server, query, transport, limit).await {
                    Ok(answer) if is_failure(&answer) => negative = Some(answer),
                    Ok(answer) => return Ok(answer),
                    Err(error) => {
                        tracing::debug!(server = %server, error = %error, "a resolver gave no answer");
                        failed = Some(error);
                    }
                }
            }
            // Whoever has said that it does not know says it again.
            if negative.is_some() || Instant::now() >= end {
                break;
            }
        }
        match (negative, failed) {
            (Some(answer), _) => Ok(answer),
            (None, Some(error)) => Err(ResolveError::NoAnswer(error)),
            (None, None) => Err(ResolveError::NoServer),
        }
    }

    /// The same from one server, twice if need be: a datagram may be lost.
    pub(crate) async fn ask_one(
        &self,
        server: SocketAddr,
        query: &[u8],
        transport: Transport,
    ) -> Result<Bytes, ResolveError> {
        let _permit = self.permits.try_acquire().map_err(|_| ResolveError::Busy)?;
        if let Ok(answer) = ask(server, query, transport, TRY_LIMIT).await {
            return Ok(answer);
        }
        let again = ask(server, query, transport, TRY_LIMIT).await;
        again.map_err(ResolveError::NoAnswer)
    }
}

async fn ask(
    server: SocketAddr,
    query: &[u8],
    transport: Transport,
    limit: Duration,
) -> io::Result<Bytes> {
    let mut query = query.to_vec();
    query[..2].copy_from_slice(&message::random_id().to_be_bytes());
    if transport == Transport::Tcp {
        return timeout(limit, ask_tcp(server, &query)).await?;
    }
    let answer = timeout(limit, ask_udp(server, &query)).await??;
    if !message::is_truncated(&answer) {
        return Ok(answer);
    }
    // The app can ask again over TCP itself if this fails.
    match timeout(limit, ask_tcp(server, &query)).await {
        Ok(Ok(whole)) => Ok(whole),
        Ok(Err(_)) | Err(_) => Ok(answer),
    }
}

async fn ask_udp(server: SocketAddr, query: &[u8]) -> io::Result<Bytes> {
    // A socket of its own for each query, so that its port is one more thing to guess.
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = &buffer[..length];
        if answer.get(..2) == query.get(..2) && message::answers(query, answer) {
            return Ok(Bytes::copy_from_slice(answer));
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Bytes> {
    let mut stream = TcpStream::connect(server).await?;
    exchange_tcp(&mut stream, query).await
}

/// SERVFAIL, NOTIMP or REFUSED: another server may know better.
fn is_failure(answer: &[u8]) -> bool {
    answer
        .get(3)
        .is_some_and(|flags| matches!(flags & 0xf, 2 | 4 | 5))
}

#[cfg(test)]
pub(crate) mod tests;
