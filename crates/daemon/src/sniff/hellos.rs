//! Hellos of a real client, for tests: rustls in each of its forms.

use std::sync::Arc;

use rustls::client::{EchGreaseConfig, EchMode};
use rustls::crypto::aws_lc_rs::{self, hpke};
use rustls::crypto::hpke::Hpke as _;
use rustls::quic::{self, Keys, Version};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Side};

/// How a client greets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Tls12,
    /// With a post-quantum key, which makes it longer than a segment.
    Tls13,
    /// The same with ECH for show.
    Grease,
}

pub(crate) const FORMS: [Form; 3] = [Form::Tls12, Form::Tls13, Form::Grease];

fn config(form: Form) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = match form {
        Form::Tls12 => builder.with_protocol_versions(&[&TLS12]).unwrap(),
        Form::Tls13 => builder.with_protocol_versions(&[&TLS13]).unwrap(),
        Form::Grease => {
            let suite = hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
            let (key, _) = suite.generate_key_pair().unwrap();
            let grease = EchGreaseConfig::new(suite, key);
            builder.with_ech(EchMode::Grease(grease)).unwrap()
        }
    };
    let config = builder.with_root_certificates(RootCertStore::empty());
    Arc::new(config.with_no_client_auth())
}

/// The first flight over TCP, as one record.
pub(crate) fn tls(name: &str, form: Form) -> Vec<u8> {
    let name = name.to_owned().try_into().unwrap();
    let mut client = ClientConnection::new(config(form), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same bytes in records of `length`.
pub(crate) fn in_records(record: &[u8], length: usize) -> Vec<u8> {
    let parts = record[5..].chunks(length);
    let each = parts.flat_map(|part| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&record[..3], &length, part].concat()
    });
    each.collect()
}

/// A handshake message for QUIC.
pub(crate) fn handshake(name: &str, form: Form) -> Vec<u8> {
    let name = name.to_owned().try_into().unwrap();
    let version = Version::V1;
    let client = quic::ClientConnection::new(config(form), version, name, vec![1, 2, 3]);
    let mut message = Vec::new();
    client.unwrap().write_hs(&mut message);
    message
}

/// A packet of the client with these frames.
pub(crate) fn packet(version: Version, number: u32, frames: &[u8]) -> Vec<u8> {
    let destination = [8, 7, 6, 5, 4, 3, 2, 1];
    let suite = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let (suite, quic) = (
        suite.tls13().unwrap(),
        suite.tls13().unwrap().quic_suite().unwrap(),
    );
    let keys = Keys::initial(version, suite, quic.quic, &destination, Side::Client);
    let mut packet = match version {
        Version::V2 => vec![0xd3, 0x6b, 0x33, 0x43, 0xcf],
        _ => vec![0xc3, 0, 0, 0, 1],
    };
    packet.push(8);
    packet.extend(destination);
    // The source's id, then a token.
    packet.extend([2, 0xaa, 0xbb, 3, 1, 2, 3]);
    let length = u16::try_from(4 + frames.len() + 16).unwrap() | 0x4000;
    packet.extend(length.to_be_bytes());
    let at = packet.len();
    packet.extend(number.to_be_bytes());
    let mut payload = frames.to_vec();
    let tag = keys
        .local
        .packet
        .encrypt_in_place(number.into(), &packet, &mut payload);
    packet.extend(payload);
    packet.extend(tag.unwrap().as_ref());
    let (header, rest) = packet.split_at_mut(at + 4);
    let (first, header) = header.split_first_mut().unwrap();
    let protected = keys
        .local
        .header
        .encrypt_in_place(&rest[..16], first, &mut header[at - 1..]);
    protected.unwrap();
    packet
}

/// A CRYPTO frame.
pub(crate) fn crypto(offset: usize, part: &[u8]) -> Vec<u8> {
    let mut frame = vec![6];
    for number in [offset, part.len()] {
        frame.extend((u16::try_from(number).unwrap() | 0x4000).to_be_bytes());
    }
    frame.extend_from_slice(part);
    frame
}
