use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use offramp_rules::Host;

use crate::config::Endpoint;
use crate::error::ConnectError;
use crate::tls;

/// How long one address has before the next is tried beside it (RFC 8305 section 8).
const STAGGER: Duration = Duration::from_millis(250);
/// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Opens an encrypted connection; every step is bounded by the endpoint's time limits.
pub(crate) async fn dial(endpoint: &Endpoint) -> Result<tls::Stream, ConnectError> {
    let stream = match timeout(endpoint.timeouts.connect, connect(endpoint)).await {
        Ok(connected) => connected?,
        Err(_) => {
            return Err(ConnectError::ConnectTimeout {
                server: endpoint.name.to_string(),
            });
        }
    };
    prepare(&stream).map_err(|source| unreachable(endpoint, source))?;
    tls::handshake(endpoint, stream).await
}

async fn connect(endpoint: &Endpoint) -> Result<TcpStream, ConnectError> {
    let mut addresses = addresses(endpoint).await?.into_iter();
    let mut attempts = JoinSet::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        let more = match addresses.next() {
            Some(address) => {
                attempts.spawn(TcpStream::connect(address));
                addresses.len() > 0
            }
            None => false,
        };
        tokio::select! {
            Some(attempt) = attempts.join_next() => match attempt {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(error) => last = io::Error::other(error),
            },
            () = sleep(STAGGER), if more => {}
        }
        if attempts.is_empty() && addresses.len() == 0 {
            return Err(unreachable(endpoint, last));
        }
    }
}

async fn addresses(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, ConnectError> {
    let name = match &endpoint.host {
        Host::Address(address) => return Ok(vec![SocketAddr::new(*address, endpoint.port)]),
        Host::Name(name) => name.as_str(),
    };
    let failed = |source| ConnectError::Lookup {
        server: endpoint.name.to_string(),
        source,
    };
    let found: Vec<_> = tokio::net::lookup_host((name, endpoint.port))
        .await
        .map_err(failed)?
        .collect();
    if found.is_empty() {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    Ok(found)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_secs(30))
            .with_interval(Duration::from_secs(10))
            .with_retries(3),
    )?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

fn unreachable(endpoint: &Endpoint, source: io::Error) -> ConnectError {
    let server = endpoint.name.to_string();
    match source.kind() {
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            ConnectError::NoNetwork { server }
        }
        _ => ConnectError::Connect { server, source },
    }
}
