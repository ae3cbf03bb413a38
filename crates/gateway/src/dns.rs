use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use aws_lc_rs::rand;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::answer::Refusal;

/// The largest query and answer: what fits the two bytes of length that DNS over TCP has.
pub(crate) const MAX_MESSAGE: usize = 65_535;
/// How long one server is given for one try.
const TRY: Duration = Duration::from_secs(2);
/// Tries at each server: UDP loses packets.
const TRIES: usize = 2;
/// Servers of resolv.conf that are asked, as in resolv.conf(5).
const SERVERS: usize = 3;
const HEADER: usize = 12;

/// The far side's resolver, asked for clients as the messages come.
pub(crate) struct Resolver(Vec<SocketAddr>);

impl Resolver {
    /// The given server, or those of resolv.conf, or the one on this machine.
    pub(crate) fn new(server: Option<SocketAddr>) -> Self {
        Self(match server {
            Some(server) => vec![server],
            None => servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
        })
    }

    /// Forwards one query and gives the answer with the query's own id.
    pub(crate) async fn forward(&self, query: &[u8]) -> Result<Bytes, Refusal> {
        // The third byte's first bit says response.
        if query.len() < HEADER || query.len() > MAX_MESSAGE || query[2] & 0x80 != 0 {
            return Err(Refusal::Malformed("the body is no DNS query"));
        }
        let mut failed = None;
        for _ in 0..TRIES {
            for server in &self.0 {
                match timeout(TRY, ask(*server, query)).await {
                    Ok(Ok(mut answer)) => {
                        answer[..2].copy_from_slice(&query[..2]);
                        return Ok(answer.into());
                    }
                    Ok(Err(error)) => failed = Some(error),
                    Err(_) => {}
                }
            }
        }
        Err(failed.map_or(Refusal::Timeout, Refusal::Dns))
    }
}

fn servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            match (words.next()?, words.next()?) {
                ("nameserver", address) => Some(SocketAddr::new(address.parse().ok()?, 53)),
                _ => None,
            }
        })
        .take(SERVERS)
        .collect();
    if found.is_empty() {
        found.push((IpAddr::from(Ipv4Addr::LOCALHOST), 53).into());
    }
    found
}

async fn ask(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    // Clients send id 0 (RFC 8484 section 4.1), which anybody can guess.
    let mut query = query.to_vec();
    rand::fill(&mut query[..2]).map_err(io::Error::other)?;
    let answer = ask_by_udp(server, &query).await?;
    // The truncation bit.
    if answer[2] & 0x02 == 0 {
        return Ok(answer);
    }
    ask_by_tcp(server, &query).await
}

async fn ask_by_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut answer = vec![0; MAX_MESSAGE];
    loop {
        let size = socket.recv(&mut answer).await?;
        if answers(&answer[..size], query) {
            answer.truncate(size);
            return Ok(answer);
        }
    }
}

async fn ask_by_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    if answers(&answer, query) {
        Ok(answer)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Whether a message is a response with the query's id.
fn answers(message: &[u8], query: &[u8]) -> bool {
    message.len() >= HEADER && message[..2] == query[..2] && message[2] & 0x80 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(resolv_conf: &str, expected: &[&str]) {
        let expected: Vec<SocketAddr> = expected.iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(servers(resolv_conf), expected);
    }

    #[test]
    fn resolv_conf_names_servers() {
        check("", &["127.0.0.1:53"]);
        check("search x\nnameserver 192.0.2.1\n", &["192.0.2.1:53"]);
        check(
            "nameserver  ::1\nnameserver x\n# nameserver 1.1.1.1",
            &["[::1]:53"],
        );
        let four =
            "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4";
        check(four, &["10.0.0.1:53", "10.0.0.2:53", "10.0.0.3:53"]);
    }

    #[tokio::test]
    async fn a_truncated_answer_is_asked_for_by_tcp() {
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(server).await.unwrap();
        let serve = async {
            let mut message = [0; 512];
            let (size, client) = udp.recv_from(&mut message).await.unwrap();
            // Another id is not taken for the answer.
            let mut other = message;
            other[0] ^= 1;
            other[2] = 0x80;
            udp.send_to(&other[..size], client).await.unwrap();
            message[2] = 0x82;
            udp.send_to(&message[..size], client).await.unwrap();
            let (mut stream, _) = tcp.accept().await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut query = vec![0; length.into()];
            stream.read_exact(&mut query).await.unwrap();
            query[2] = 0x80;
            query.extend_from_slice(&[7; 1000]);
            stream.write_u16(length + 1000).await.unwrap();
            stream.write_all(&query).await.unwrap();
        };
        let resolver = Resolver::new(Some(server));
        let query = [0xab, 0xcd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let (answer, ()) = tokio::join!(resolver.forward(&query), serve);
        let answer = answer.unwrap();
        assert_eq!(
            (&answer[..3], answer.len()),
            ([0xab, 0xcd, 0x80].as_slice(), 1012)
        );
        assert!(resolver.forward(&[0; 11]).await.is_err());
    }
}
