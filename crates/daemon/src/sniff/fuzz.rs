//! What apps send first.

use offramp_control::ToldBy;
use offramp_fuzz::fuzz;
use rustls::quic::Version;
use rustls::server::Acceptor;

use super::hellos::{FORMS, Form, crypto, handshake, in_records, packet, tls};
use super::{Found, MOST, Sniffed, quic};

fn slices(seeds: &[Vec<u8>]) -> Vec<&[u8]> {
    seeds.iter().map(Vec::as_slice).collect()
}

fn check(found: &Found) {
    if let Found::Name(Sniffed { name, .. }) = found {
        assert!(name.as_str().len() <= 253);
    }
}

#[test]
fn tls_hellos() {
    let mut seeds: Vec<_> = FORMS.map(|form| tls("www.example.com", form)).into();
    seeds.push(in_records(&seeds[0], 7));
    fuzz("tls_hellos", &slices(&seeds), |input| {
        let found = super::tls::hello(input);
        check(&found);
        // What rustls reads in it, if it takes it at all.
        let mut acceptor = Acceptor::default();
        let mut rest = input;
        while !rest.is_empty() && acceptor.read_tls(&mut rest).is_ok_and(|read| read > 0) {}
        let Ok(Some(accepted)) = acceptor.accept() else {
            return;
        };
        if let Found::Name(Sniffed { name, .. }) = found {
            let hello = accepted.client_hello();
            let seen = hello.server_name().map(str::to_ascii_lowercase);
            assert_eq!(seen.as_deref(), Some(name.as_str()));
        }
    });
}

#[test]
fn http_requests() {
    let seeds: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nAccept: */*\r\nHost: www.example.com:8080\r\n\r\n",
        b"GET http://u@www.example.com/x HTTP/1.0\r\n\r\n",
        b"CONNECT www.example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    fuzz("http_requests", seeds, |input| {
        check(&super::name(input));
    });
}

#[test]
fn quic_datagrams() {
    let hello = handshake("www.example.com", Form::Tls13);
    let (first, second) = hello.split_at(1000);
    let mut two = packet(Version::V1, 0, &crypto(1000, second));
    two.extend(packet(Version::V1, 1, &crypto(0, first)));
    let seeds = [
        packet(Version::V1, 0, &crypto(0, first)),
        packet(Version::V2, 1, &crypto(0, &hello)),
        two,
    ];
    fuzz("quic_datagrams", &slices(&seeds), |input| {
        let mut hello = quic::Hello::default();
        check(&hello.take(input));
        check(&hello.take(input));
    });
}

/// The frames are encrypted, and what is in them would be hidden from the target above.
#[test]
fn quic_frames() {
    let hello = handshake("www.example.com", Form::Tls13);
    let mut ack = vec![2, 5, 0, 2, 1, 0, 0, 1, 0];
    ack.extend(crypto(0, &hello[..20]));
    let seeds = [crypto(0, &hello), ack, vec![1, 0, 0, 6, 0x7f, 0xff, 1]];
    fuzz("quic_frames", &slices(&seeds), |input| {
        let frames = &input[..input.len().min(MOST - 100)];
        let mut hello = quic::Hello::default();
        let found = hello.take(&packet(Version::V1, 0, frames));
        check(&found);
        if let Found::Name(Sniffed { by, .. }) = found {
            assert!(matches!(by, ToldBy::Quic | ToldBy::Ech));
        }
    });
}
