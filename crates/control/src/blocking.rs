//! The calls of the launcher, without runtime and without threads.
//!
//! The daemon labels the process that calls, and a label is set on one task: a second thread would
//! stay without. So this is HTTP/1.1 by hand over a blocking socket, enough for one request with a
//! body of known length.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::error::{check_answer, read_json};
use crate::{ClientError, MAX_BODY, ProfileStatus, RunAnswer, RunRequest, paths};

const MAX_HEAD: usize = 16 * 1024;

/// An hour, in seconds: no call waits for longer.
const LONGEST_WAIT: u64 = 3600;

/// Has the daemon put this process under a profile, within the time limit.
///
/// Opens one close-on-exec descriptor and closes it again before it returns.
pub fn run(socket: &Path, request: &RunRequest, limit: Duration) -> Result<RunAnswer, ClientError> {
    let body = serde_json::to_vec(request).expect("a run request has string keys only");
    read_json(&call(socket, "POST", paths::RUN, &body, limit)?)
}

/// The profiles that the user may see, within the time limit.
pub fn profiles(socket: &Path, limit: Duration) -> Result<Vec<ProfileStatus>, ClientError> {
    read_json(&call(socket, "GET", paths::PROFILES, b"", limit)?)
}

fn call(
    socket: &Path,
    method: &str,
    path: &str,
    body: &[u8],
    limit: Duration,
) -> Result<Vec<u8>, ClientError> {
    let deadline = Deadline {
        at: Instant::now() + limit,
        limit,
    };
    let mut stream = open(socket, &deadline)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: offramp\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let sent = send(&mut stream, &deadline, &[head.as_bytes(), body].concat());
    // A daemon that refuses early answers without having read everything.
    let (status, answer) = match (sent, receive(&mut stream, &deadline)) {
        (_, Ok(received)) => received,
        (Err(error), Err(_)) | (Ok(()), Err(error)) => return Err(error),
    };
    check_answer(status, &answer)?;
    Ok(answer)
}

struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    fn left(&self) -> Result<Duration, ClientError> {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(self.passed())
        } else {
            Ok(left)
        }
    }

    fn passed(&self) -> ClientError {
        ClientError::TimedOut { limit: self.limit }
    }

    fn explain(&self, error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.passed(),
            _ => ClientError::Lost(Box::new(error)),
        }
    }
}

fn open(path: &Path, deadline: &Deadline) -> Result<UnixStream, ClientError> {
    let left = deadline.left()?;
    let connected = || -> nix::Result<UnixStream> {
        let fd = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        // The send time limit bounds connect as well, which waits while the backlog is full.
        let seconds = left.as_secs().min(LONGEST_WAIT) as i64;
        let limit = TimeVal::new(seconds, left.subsec_micros().max(1).into());
        setsockopt(&fd, sockopt::SendTimeout, &limit)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(UnixStream::from(fd))
    };
    connected().map_err(|errno| match errno {
        nix::Error::EAGAIN => deadline.passed(),
        _ => ClientError::Unreachable {
            socket: path.to_owned(),
            source: errno.into(),
        },
    })
}

fn send(stream: &mut UnixStream, deadline: &Deadline, mut bytes: &[u8]) -> Result<(), ClientError> {
    while !bytes.is_empty() {
        let left = deadline.left()?;
        stream
            .set_write_timeout(Some(left))
            .map_err(|error| deadline.explain(error))?;
        match stream.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(deadline.explain(error)),
        }
    }
    Ok(())
}

fn receive(stream: &mut UnixStream, deadline: &Deadline) -> Result<(u16, Vec<u8>), ClientError> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if bytes.len() > MAX_HEAD {
            return Err(garbled("its head is too long"));
        }
        if !more(stream, deadline, &mut bytes)? {
            return Err(garbled("it ends within the head"));
        }
    };
    let head = Head::read(&bytes[..end])?;
    let mut body = bytes.split_off(end);
    match head.length {
        Some(length) if length > MAX_BODY => return Err(garbled("it is too large")),
        Some(length) => {
            while body.len() < length {
                if !more(stream, deadline, &mut body)? {
                    return Err(garbled("it ends within the body"));
                }
            }
            body.truncate(length);
        }
        None => {
            while more(stream, deadline, &mut body)? {
                if body.len() > MAX_BODY {
                    return Err(garbled("it is too large"));
                }
            }
        }
    }
    Ok((head.status, body))
}

/// Reads once; false at the end of the stream.
fn more(
    stream: &mut UnixStream,
    deadline: &Deadline,
    into: &mut Vec<u8>,
) -> Result<bool, ClientError> {
    let mut piece = [0; 4096];
    loop {
        let left = deadline.left()?;
        stream
            .set_read_timeout(Some(left))
            .map_err(|error| deadline.explain(error))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                into.extend_from_slice(&piece[..count]);
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(deadline.explain(error)),
        }
    }
}

pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) length: Option<usize>,
}

impl Head {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, ClientError> {
        let text = std::str::from_utf8(bytes).map_err(|_| garbled("its head is not text"))?;
        let mut lines = text.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1."))
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| garbled("it has no status"))?;
        let mut length = None;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(garbled("its body has no known length"));
            }
            if name.eq_ignore_ascii_case("content-length") {
                let count = value
                    .trim()
                    .parse()
                    .map_err(|_| garbled("its length is no number"))?;
                length = Some(count);
            }
        }
        Ok(Self { status, length })
    }
}

fn garbled(what: &str) -> ClientError {
    ClientError::Garbled(what.to_owned())
}

#[cfg(test)]
mod tests;
