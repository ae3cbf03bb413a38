//! What servers answer.

use offramp_fuzz::fuzz;

use crate::h1::{dechunk, parse};
use crate::reply::proxy_error;

#[test]
fn answers() {
    let seeds: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\n\r\nrest", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\nProxy-Status: a, gw; error=dns_error; next-hop=\"x\"\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.0 407 X\r\nProxy-Authenticate: Basic realm=\"a\"\r\n\r\n", b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ];
    fuzz("answers", seeds, |input| {
        if let Ok(Some((length, status, headers))) = parse(input) {
            assert!(length <= input.len() && (100..1000).contains(&status.as_u16()));
            // A head that is whole stays what it is, whatever follows.
            assert_eq!(
                parse(&input[..length]).unwrap().map(|head| head.0),
                Some(length)
            );
            proxy_error(&headers);
        }
    });
}

#[test]
fn chunks() {
    let seeds: &[&[u8]] = &[
        b"3\r\nabc\r\n0\r\n\r\n",
        b"a;x=y\r\n0123456789\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"0\r\n\r\n",
    ];
    fuzz("chunks", seeds, |input| {
        if let Ok(Some(body)) = dechunk(input) {
            assert!(body.len() < input.len());
        }
    });
}
