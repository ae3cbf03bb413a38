use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use offramp_rules::{Host, Target};
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::answer::Refusal;
use crate::policy::Policy;

/// From the request to an open target, lookup and all addresses together.
const LIMIT: Duration = Duration::from_secs(5);
/// How long an address is tried alone (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 8;

/// Opens a TCP connection to the first address of the target that answers.
pub(crate) async fn tcp(policy: &Policy, target: &Target) -> Result<TcpStream, Refusal> {
    let attempt = async {
        let addresses = resolve(policy, target).await?;
        race(addresses).await.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => Refusal::Timeout,
            _ => Refusal::Connect(error),
        })
    };
    let stream = timeout(LIMIT, attempt)
        .await
        .map_err(|_| Refusal::Timeout)??;
    stream.set_nodelay(true).map_err(Refusal::Connect)?;
    Ok(stream)
}

/// Opens a UDP socket that talks to the target's first address and to nobody else.
pub(crate) async fn udp(policy: &Policy, target: &Target) -> Result<UdpSocket, Refusal> {
    let addresses = timeout(LIMIT, resolve(policy, target))
        .await
        .map_err(|_| Refusal::Timeout)??;
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        let any = if address.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).await.map_err(Refusal::Connect)?;
        match socket.connect(address).await {
            Ok(()) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(Refusal::Connect(failed))
}

/// The addresses of the target that clients may reach, families taking turns; never empty.
async fn resolve(policy: &Policy, target: &Target) -> Result<Vec<SocketAddr>, Refusal> {
    policy.check_port(target.port)?;
    let found: Vec<SocketAddr> = match &target.host {
        Host::Address(address) => vec![SocketAddr::new(*address, target.port)],
        Host::Name(name) => lookup_host((name.as_str(), target.port))
            .await
            .map_err(Refusal::Dns)?
            .collect(),
    };
    if found.is_empty() {
        return Err(Refusal::Dns(io::ErrorKind::NotFound.into()));
    }
    let mut open = Vec::new();
    for address in found {
        if policy.check(address).is_ok() && !open.contains(&address) {
            open.push(address);
        }
    }
    if open.is_empty() {
        return Err(Refusal::AddressForbidden);
    }
    let mut open = take_turns(open);
    open.truncate(ADDRESSES);
    Ok(open)
}

/// Alternates the families, beginning with the one that the resolver put first.
fn take_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let count = addresses.len();
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (preferred, other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv4() == first_is_v4);
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut turns = Vec::with_capacity(count);
    while turns.len() < count {
        turns.extend(preferred.next());
        turns.extend(other.next());
    }
    turns
}

/// Tries the addresses one after the other, not waiting long for any; the first to answer wins.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failed = None;
    loop {
        match waiting.next() {
            Some(address) => drop(attempts.spawn(TcpStream::connect(address))),
            None if attempts.is_empty() => {
                return Err(failed.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()));
            }
            None => {}
        }
        let ended = tokio::select! {
            ended = attempts.join_next() => ended,
            () = sleep(STAGGER), if waiting.len() > 0 => None,
        };
        match ended {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => failed = Some(error),
            Some(Err(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str, port: u16) -> Target {
        let host = match host.parse() {
            Ok(address) => Host::Address(address),
            Err(_) => Host::Name(host.parse_name()),
        };
        Target { host, port }
    }

    trait ParseName {
        fn parse_name(&self) -> offramp_rules::DomainName;
    }

    impl ParseName for str {
        fn parse_name(&self) -> offramp_rules::DomainName {
            offramp_rules::DomainName::parse(self).unwrap()
        }
    }

    #[test]
    fn families_take_turns() {
        let addresses = |text: &str| -> Vec<SocketAddr> {
            text.split(' ')
                .map(|address| address.parse().unwrap())
                .collect()
        };
        let turns = take_turns(addresses("[2::1]:1 [2::2]:1 [2::3]:1 1.1.1.1:1 1.1.1.2:1"));
        assert_eq!(
            turns,
            addresses("[2::1]:1 1.1.1.1:1 [2::2]:1 1.1.1.2:1 [2::3]:1")
        );
    }

    #[tokio::test]
    async fn a_name_that_stands_for_a_private_address_is_refused() {
        let policy = Policy::new(Vec::new(), Vec::new());
        let refused = tcp(&policy, &target("localhost", 80)).await;
        assert!(matches!(refused, Err(Refusal::AddressForbidden)));
        let refused = udp(&policy, &target("localhost", 53)).await;
        assert!(matches!(refused, Err(Refusal::AddressForbidden)));
    }

    #[tokio::test]
    async fn the_address_that_answers_wins() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
            listener.local_addr().unwrap()
        };
        let stream = race(vec![closed, open]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        let error = race(vec![closed]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
