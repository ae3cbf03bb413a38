//! The hidden command that is the origin: it tells everybody where they come from.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::failure::{FAILED, Failure};
use crate::output;

const LIMIT: Duration = Duration::from_secs(5);

/// Serves one request after the other until it is ended; prints a line when it listens and one
/// with the address of each client.
pub(crate) fn serve(listen: SocketAddr) -> Result<(), Failure> {
    let fail = |error| {
        Failure::new(
            FAILED,
            format!("origin: cannot listen at {listen}: {error}"),
        )
    };
    let listener = TcpListener::bind(listen).map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    output::print(&format!("listening on {address}\n"))?;
    for stream in listener.incoming() {
        // A client that leaves early is its own affair.
        let Ok(mut stream) = stream else { continue };
        let Ok(peer) = stream.peer_addr() else {
            continue;
        };
        output::print(&format!("{}\n", peer.ip()))?;
        let _ = answer(&mut stream, peer);
    }
    Ok(())
}

fn answer(stream: &mut TcpStream, peer: SocketAddr) -> std::io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") && head.len() < 16 * 1024 {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            count => head.extend_from_slice(&piece[..count]),
        }
    }
    let body = format!("you come from {}\n", peer.ip());
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes())
}
