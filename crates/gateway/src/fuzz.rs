//! What clients ask a gateway for.

use http::{Method, Request, Uri};
use offramp_fuzz::fuzz;

use crate::request::Ask;

/// A request of lines: method, target, headers; the last may be a `:protocol`.
fn ask(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let method = lines.next().and_then(|line| Method::from_bytes(line).ok());
    let target = lines.next().and_then(|line| Uri::try_from(line).ok());
    let (Some(method), Some(target)) = (method, target) else {
        return;
    };
    let mut request = Request::builder().method(method).uri(target);
    let mut protocol = None;
    for line in lines {
        let Some(at) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        match std::str::from_utf8(&line[at + 1..]) {
            Ok(text) if at == 0 => protocol = Some(text),
            _ => request = request.header(&line[..at], &line[at + 1..]),
        }
    }
    let Ok((head, ())) = request.body(()).map(Request::into_parts) else {
        return;
    };
    match Ask::read(&head, protocol) {
        Ok(Ask::Tcp(target) | Ask::Udp(target)) => assert_ne!(target.port, 0),
        Ok(Ask::Dns) => {}
        Err(refusal) => {
            assert!(refusal.status().is_client_error() || refusal.status().is_server_error())
        }
    }
}

#[test]
fn requests() {
    let seeds: &[&[u8]] = &[
        b"CONNECT\nexample.com:443", b"CONNECT\n[2001:db8::1]:80",
        b"CONNECT\nhttps://gw/.well-known/masque/udp/2001%3Adb8%3A%3a1/53/\n:connect-udp",
        b"GET\n/.well-known/masque/udp/192.0.2.1/53/\nconnection:keep-alive, Upgrade\nupgrade:connect-udp",
        b"POST\n/dns-query\ncontent-type:application/dns-message",
    ];
    fuzz("requests", seeds, ask);
}
