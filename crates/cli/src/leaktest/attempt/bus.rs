//! Asks systemd-resolved over the system bus, as `resolvectl query` does: as much of D-Bus as that
//! takes (<https://dbus.freedesktop.org/doc/dbus-specification.html>).

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;

use nix::libc;

use super::lookup::is_absent;
use super::{Outcome, PATIENCE, Trace, Tried, refused, skipped};
use crate::leaktest::doors::BUS;

/// More than any answer to these questions has.
const LONGEST: usize = 64 << 10;
/// Messages that may come before the answer does.
const OTHERS: usize = 16;
/// `NO_AUTO_START`: who is not there is not started for this.
const FLAGS: u8 = 2;
const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;

/// Asks for the IPv4 address of `name`.
pub(super) fn ask(name: &str) -> io::Result<Tried> {
    let mut stream = match UnixStream::connect(BUS) {
        Ok(stream) => stream,
        Err(error) if is_absent(&error) => return Ok(skipped("there is no system bus")),
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    sign_in(&mut stream)?;
    let bus = Call {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
        member: "Hello",
        signature: "",
    };
    stream.write_all(&bus.message(1, &[]))?;
    reply(&mut stream, 1)?;
    let question = Call {
        destination: "org.freedesktop.resolve1",
        path: "/org/freedesktop/resolve1",
        interface: "org.freedesktop.resolve1.Manager",
        member: "ResolveHostname",
        signature: "isit",
    };
    stream.write_all(&question.message(2, &arguments(name)))?;
    let outcome = match reply(&mut stream, 2) {
        Ok(answer) => answer.outcome(),
        Err(error) => refused(&error),
    };
    Ok((Trace::default(), outcome))
}

/// As the user that the kernel says we are.
fn sign_in(stream: &mut UnixStream) -> io::Result<()> {
    let user: String = nix::unistd::geteuid()
        .to_string()
        .bytes()
        .map(|digit| format!("{digit:02x}"))
        .collect();
    stream.write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") && line.len() < 1024 {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    match line.starts_with(b"OK ") {
        true => stream.write_all(b"BEGIN\r\n"),
        false => Err(io::Error::from_raw_os_error(libc::EACCES)),
    }
}

struct Call {
    destination: &'static str,
    path: &'static str,
    interface: &'static str,
    member: &'static str,
    signature: &'static str,
}

impl Call {
    fn message(&self, serial: u32, body: &[u8]) -> Vec<u8> {
        let mut fields = Vec::new();
        for (code, kind, value) in [
            (1, b'o', self.path),
            (2, b's', self.interface),
            (3, b's', self.member),
            (6, b's', self.destination),
        ] {
            pad(&mut fields, 8);
            fields.extend([code, 1, kind, 0]);
            put_string(&mut fields, value);
        }
        if !self.signature.is_empty() {
            pad(&mut fields, 8);
            fields.extend([8, 1, b'g', 0, self.signature.len() as u8]);
            fields.extend(self.signature.as_bytes());
            fields.push(0);
        }
        let mut message = vec![b'l', CALL, FLAGS, 1];
        message.extend((body.len() as u32).to_le_bytes());
        message.extend(serial.to_le_bytes());
        message.extend((fields.len() as u32).to_le_bytes());
        message.extend(fields);
        pad(&mut message, 8);
        message.extend(body);
        message
    }
}

/// On any link, an IPv4 address, in whatever way.
fn arguments(name: &str) -> Vec<u8> {
    let mut body = 0_i32.to_le_bytes().to_vec();
    put_string(&mut body, name);
    pad(&mut body, 4);
    body.extend(libc::AF_INET.to_le_bytes());
    pad(&mut body, 8);
    body.extend(0_u64.to_le_bytes());
    body
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

/// A message that came.
#[derive(Debug, PartialEq)]
struct Message {
    kind: u8,
    is_big: bool,
    /// Of the call that it answers.
    serial: u32,
    /// The name of an error.
    error: String,
    body: Vec<u8>,
}

/// The answer to the call with this serial number.
fn reply(stream: &mut impl Read, serial: u32) -> io::Result<Message> {
    for _ in 0..OTHERS {
        let message = Message::read(stream)?;
        if message.serial == serial && matches!(message.kind, RETURN | ERROR) {
            return Ok(message);
        }
    }
    Err(io::Error::from_raw_os_error(libc::EPROTO))
}

impl Message {
    fn read(stream: &mut impl Read) -> io::Result<Self> {
        let broken = || io::Error::from_raw_os_error(libc::EPROTO);
        let mut head = [0; 16];
        stream.read_exact(&mut head)?;
        let is_big = head[0] == b'B';
        let at = |start| number(is_big, &head, start).unwrap_or_default() as usize;
        let (body, fields) = (at(4), at(12));
        if body > LONGEST || fields > LONGEST {
            return Err(broken());
        }
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        stream.read_exact(&mut rest)?;
        let mut message = Self {
            kind: head[1],
            is_big,
            serial: 0,
            error: String::new(),
            body: rest.split_off(fields.next_multiple_of(8)),
        };
        message.take_fields(&rest[..fields]).ok_or_else(broken)?;
        Ok(message)
    }

    fn take_fields(&mut self, fields: &[u8]) -> Option<()> {
        let mut at = 0;
        while at < fields.len() {
            let (code, kind) = (*fields.get(at)?, *fields.get(at + 2)?);
            at += 4;
            match kind {
                b'u' => {
                    let value = number(self.is_big, fields, at)?;
                    if code == 5 {
                        self.serial = value;
                    }
                    at += 4;
                }
                b's' | b'o' => {
                    let length = number(self.is_big, fields, at)? as usize;
                    let text = fields.get(at + 4..at.checked_add(4 + length)?)?;
                    if code == 4 {
                        self.error = String::from_utf8_lossy(text).into_owned();
                    }
                    at += 4 + length + 1;
                }
                b'g' => at += 1 + usize::from(*fields.get(at)?) + 1,
                _ => return None,
            }
            at = at.next_multiple_of(8);
        }
        Some(())
    }

    fn outcome(&self) -> Outcome {
        if self.kind == RETURN {
            return match self.address() {
                Some(address) => Outcome::Resolved(address),
                None => Outcome::Answered("no address".to_owned()),
            };
        }
        let name = self.error.rsplit('.').next().unwrap_or_default();
        match name {
            "ServiceUnknown" | "NameHasNoOwner" => {
                Outcome::Skipped("systemd-resolved is not on the bus".to_owned())
            }
            "AccessDenied" => Outcome::Refused(libc::EACCES),
            "NXDOMAIN" => Outcome::Answered("no such name".to_owned()),
            name => Outcome::Answered(name.to_owned()),
        }
    }

    /// The first one of an answer, `a(iiay)st`.
    fn address(&self) -> Option<IpAddr> {
        let is = |at, value| number(self.is_big, &self.body, at) == Some(value);
        if is(0, 0) || !is(12, libc::AF_INET as u32) || !is(16, 4) {
            return None;
        }
        let address: [u8; 4] = self.body.get(20..24)?.try_into().ok()?;
        Some(Ipv4Addr::from(address).into())
    }
}

fn number(is_big: bool, bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(match is_big {
        true => u32::from_be_bytes(bytes),
        false => u32::from_le_bytes(bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer as systemd-resolved gives it.
    fn answer(kind: u8, field: &[u8], body: &[u8]) -> Vec<u8> {
        let mut fields = vec![5, 1, b'u', 0, 2, 0, 0, 0];
        fields.extend(field);
        let mut message = vec![b'l', kind, 1, 1];
        message.extend((body.len() as u32).to_le_bytes());
        message.extend([9, 0, 0, 0]);
        message.extend((fields.len() as u32).to_le_bytes());
        message.extend(fields);
        pad(&mut message, 8);
        message.extend(body);
        message
    }

    fn address() -> Vec<u8> {
        let mut body = 20_u32.to_le_bytes().to_vec();
        body.extend([0; 4]);
        body.extend([2, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 203, 0, 113, 10]);
        body.extend([0; 4]);
        body
    }

    #[test]
    fn answers_are_read() {
        let mut error = vec![4, 1, b's', 0];
        put_string(&mut error, "org.freedesktop.resolve1.DnsError.NXDOMAIN");
        let mut absent = vec![4, 1, b's', 0];
        put_string(&mut absent, "org.freedesktop.DBus.Error.ServiceUnknown");
        let signature = [
            8, 1, b'g', 0, 9, b'a', b'(', b'i', b'i', b'a', b'y', b')', b's', b't', 0,
        ];
        let found = Outcome::Resolved(Ipv4Addr::new(203, 0, 113, 10).into());
        for (bytes, outcome) in [
            (answer(RETURN, &signature, &address()), found),
            (
                answer(RETURN, &signature, &[0; 16]),
                Outcome::Answered("no address".into()),
            ),
            (
                answer(ERROR, &error, b""),
                Outcome::Answered("no such name".into()),
            ),
            (
                answer(ERROR, &absent, b""),
                Outcome::Skipped("systemd-resolved is not on the bus".into()),
            ),
        ] {
            let signal = answer(4, &[], b"").repeat(3);
            let mut stream = [signal.as_slice(), &bytes].concat();
            assert_eq!(reply(&mut stream.as_slice(), 2).unwrap().outcome(), outcome);
            // Broken off anywhere, it is an error and no more.
            while stream.pop().is_some() {
                reply(&mut stream.as_slice(), 2).unwrap_err();
            }
        }
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for byte in 0..=255 {
            let mut junk = vec![byte; 4096];
            assert!(
                Message::read(&mut junk.as_slice()).is_ok_and(|read| read.body.len() < 4096)
                    || Message::read(&mut junk.as_slice()).is_err()
            );
            junk[..16].copy_from_slice(b"l\x02\0\x01\0\0\0\0\0\0\0\0\x40\0\0\0");
            let _ = Message::read(&mut junk.as_slice());
        }
    }

    #[test]
    fn a_call_is_laid_out_as_the_bus_reads_it() {
        let call = Call {
            destination: "a.b",
            path: "/",
            interface: "c.d",
            member: "E",
            signature: "isit",
        };
        let message = call.message(2, &arguments("x.test"));
        let read = Message::read(&mut message.as_slice()).unwrap();
        assert_eq!((read.kind, read.body.len()), (CALL, 32));
        assert_eq!(message.len() % 8, 0);
        assert_eq!(read.body[..11], *b"\0\0\0\0\x06\0\0\0x.t");
    }
}
