//! Doors by which names are looked up.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixStream;

use super::sockets::{nobody, trace_of};
use super::{Outcome, PATIENCE, Trace, Tried, refused, skipped};
use crate::leaktest::doors::{HTTPS, Plan, Resolver, name};

/// The longest DNS message.
const MESSAGE: usize = 65_535;

/// Asks for the IPv4 address of the door's name.
pub(super) fn ask(
    number: usize,
    resolver: Resolver,
    target: SocketAddr,
    plan: &Plan,
) -> io::Result<Tried> {
    let question = question(number as u16, &name(number, plan));
    match resolver {
        Resolver::ConfiguredTcp => by_tcp(target, &question),
        _ => by_udp(target, &question),
    }
}

fn by_udp(target: SocketAddr, question: &[u8]) -> io::Result<Tried> {
    let socket = UdpSocket::bind(nobody(target))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut answer = vec![0; MESSAGE];
    let heard = socket
        .connect(target)
        .and_then(|()| socket.send(question))
        .and_then(|_| socket.recv(&mut answer));
    let trace = trace_of(&socket, target);
    let outcome = match heard {
        Ok(count) => read(&answer[..count]),
        Err(error) => refused(&error),
    };
    Ok((trace, outcome))
}

fn by_tcp(target: SocketAddr, question: &[u8]) -> io::Result<Tried> {
    let mut stream = match TcpStream::connect_timeout(&target, PATIENCE) {
        Ok(stream) => stream,
        Err(error) => {
            let trace = Trace {
                target: Some(target),
                ..Trace::default()
            };
            return Ok((trace, refused(&error)));
        }
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let trace = trace_of(&stream, target);
    let length = (question.len() as u16).to_be_bytes();
    let mut answer = Vec::new();
    let heard = stream
        .write_all(&[&length, question].concat())
        .and_then(|()| {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            answer.resize(u16::from_be_bytes(length).into(), 0);
            stream.read_exact(&mut answer)
        });
    let outcome = match heard {
        Ok(()) => read(&answer),
        Err(error) => match refused(&error) {
            Outcome::Silent => Outcome::Connected,
            other => other,
        },
    };
    Ok((trace, outcome))
}

/// A question for an A record.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    // Recursion is wanted; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// What an answer says: an address where its last record is one, as ours are.
fn read(message: &[u8]) -> Outcome {
    let code = message.get(3).map_or(0, |flags| flags & 0xf);
    let answers = message.get(6..8).is_some_and(|count| count != [0, 0]);
    match (answers, message.last_chunk::<6>()) {
        (true, Some([0, 4, address @ ..])) => Outcome::Resolved(Ipv4Addr::from(*address).into()),
        _ => Outcome::Answered(match code {
            0 => "no address".to_owned(),
            2 => "server failure".to_owned(),
            3 => "no such name".to_owned(),
            5 => "refused".to_owned(),
            code => format!("error {code}"),
        }),
    }
}

/// As most programs do it.
pub(super) fn libc(number: usize, plan: &Plan) -> Tried {
    let outcome = match (name(number, plan).as_str(), HTTPS).to_socket_addrs() {
        Ok(mut found) => match found.find(SocketAddr::is_ipv4) {
            Some(address) => Outcome::Resolved(address.ip()),
            None => Outcome::Answered("no address".to_owned()),
        },
        Err(error) => Outcome::Answered(error.to_string()),
    };
    (Trace::default(), outcome)
}

/// A Unix socket whose owner asks for others.
pub(super) fn service(path: &str) -> io::Result<Tried> {
    match UnixStream::connect(path) {
        Ok(_) => Ok((Trace::default(), Outcome::Opened)),
        Err(error) if is_absent(&error) => Ok(skipped("it does not run")),
        Err(error) => Err(error),
    }
}

/// Whether there is nothing to connect to.
pub(super) fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let mut message = question(7, "a.test");
        assert_eq!(message[12..], *b"\x01a\x04test\0\0\x01\0\x01");
        assert_eq!(read(&message), Outcome::Answered("no address".into()));
        message[7] = 1;
        message.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04");
        message.extend([198, 18, 1, 0]);
        let address = Ipv4Addr::new(198, 18, 1, 0);
        assert_eq!(read(&message), Outcome::Resolved(address.into()));
        assert_eq!(read(b""), Outcome::Answered("no address".into()));
        assert_eq!(
            read(b"\0\0\x81\x83\0\x01\0\0\0\0\0\0"),
            Outcome::Answered("no such name".into())
        );
    }
}
