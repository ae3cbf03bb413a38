//! Look-ups as fast as a resolver answers them.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::bail;

/// An answer that takes longer is lost.
const LIMIT: Duration = Duration::from_secs(1);
/// How many of the names are asked about in turn.
const NAMES: usize = 1000;

/// Asks `resolver` for addresses of names below `domain`, so many at a time, and prints how many
/// answers came, how many did not, and how many microseconds it took.
pub(crate) fn lookups(
    resolver: SocketAddr,
    domain: &str,
    outstanding: u16,
    duration: Duration,
) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((IpAddr::from(Ipv4Addr::UNSPECIFIED), 0))?;
    socket.connect(resolver)?;
    socket.set_read_timeout(Some(LIMIT))?;
    let queries: Vec<_> = (0..NAMES).map(|number| query(number, domain)).collect();
    let (mut sent, mut answered, mut lost) = (0_usize, 0_u64, 0_u64);
    let mut ask = || {
        let mut query = queries[sent % NAMES].clone();
        query[..2].copy_from_slice(&(sent as u16).to_be_bytes());
        sent += 1;
        socket.send(&query)
    };
    let begin = Instant::now();
    for _ in 0..outstanding {
        ask()?;
    }
    let mut answer = [0; 512];
    while begin.elapsed() < duration {
        match socket.recv(&mut answer) {
            Ok(length) if length > 12 && answer[2] & 0x80 != 0 && answer[6..8] != [0, 0] => {
                answered += 1;
                ask()?;
            }
            Ok(_) => bail!("an answer without an address: {:?}", &answer[..12]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                lost += u64::from(outstanding);
                for _ in 0..outstanding {
                    ask()?;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    println!("lookups {answered} {lost} {}", begin.elapsed().as_micros());
    Ok(())
}

/// A query for the IPv4 address of the name of this number.
fn query(number: usize, domain: &str) -> Vec<u8> {
    let mut query = b"\0\0\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    let name = format!("n{number}.{domain}");
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(b"\0\0\x01\0\x01");
    query
}
