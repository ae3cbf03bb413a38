//! Many bytes in one flow, with checksums.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use offramp_tests::{Digest, pattern};

/// Sends `bytes`, ends its side, and prints its own and the target's digest.
pub(crate) fn upload(target: SocketAddr, bytes: usize) -> anyhow::Result<()> {
    let mut flow = open(target)?;
    let mine = send(&mut flow, bytes)?;
    let mut answer = String::new();
    flow.read_to_string(&mut answer)?;
    println!("sent {mine}\nseen {}", answer.trim());
    Ok(())
}

/// Asks for `bytes` and prints the digest of what comes.
pub(crate) fn download(target: SocketAddr, bytes: usize) -> anyhow::Result<()> {
    let mut flow = open(target)?;
    writeln!(flow, "{bytes}")?;
    println!("seen {}", receive(&mut flow)?);
    Ok(())
}

/// Reads until the target ends its side, and only then sends `bytes`.
pub(crate) fn ends_first(target: SocketAddr, bytes: usize) -> anyhow::Result<()> {
    let mut flow = open(target)?;
    let mut first = String::new();
    flow.read_to_string(&mut first)?;
    println!("first {}\nsent {}", first.trim(), send(&mut flow, bytes)?);
    // The end is seen when the target has read everything and closes.
    let mut rest = Vec::new();
    flow.read_to_end(&mut rest)?;
    Ok(())
}

fn open(target: SocketAddr) -> std::io::Result<TcpStream> {
    let flow = TcpStream::connect(target)?;
    flow.set_read_timeout(Some(Duration::from_secs(60)))?;
    flow.set_write_timeout(Some(Duration::from_secs(60)))?;
    Ok(flow)
}

fn send(flow: &mut TcpStream, bytes: usize) -> std::io::Result<String> {
    let block = pattern();
    let mut digest = Digest::default();
    let mut left = bytes;
    while left > 0 {
        let piece = &block[..left.min(block.len())];
        flow.write_all(piece)?;
        digest.update(piece);
        left -= piece.len();
    }
    flow.shutdown(Shutdown::Write)?;
    Ok(digest.finish())
}

fn receive(flow: &mut TcpStream) -> std::io::Result<String> {
    let mut digest = Digest::default();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match flow.read(&mut buffer)? {
            0 => return Ok(digest.finish()),
            count => digest.update(&buffer[..count]),
        }
    }
}
