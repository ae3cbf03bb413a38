//! Capsules, cut in any place.

use bytes::{Bytes, BytesMut};
use offramp_fuzz::fuzz;

use crate::capsule::{CapsuleError, Decoder, encode_datagram};

/// All that comes out of a stream that arrives in pieces of these sizes, and how it ends.
fn decode(mut stream: Bytes, cuts: &[u8]) -> (Vec<Bytes>, Option<CapsuleError>) {
    let mut decoder = Decoder::new();
    let mut found = Vec::new();
    let mut cuts = cuts.iter().cycle();
    while !stream.is_empty() {
        let size = cuts
            .next()
            .map_or(stream.len(), |cut| usize::from(*cut) + 1);
        decoder.push(stream.split_to(size.min(stream.len())));
        loop {
            match decoder.next() {
                Ok(Some(payload)) => found.push(payload),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

#[test]
fn capsules() {
    let seeds: &[&[u8]] = &[
        b"\x00\x06\x00hello",
        b"\x00\x06\x01hello",
        b"\x40\x40\x00\x02xy\x00\x01\x00",
        b"\x00\x80\x01\x00\x05",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x02xx\x00\x02\x00z",
        b"\x00\x00",
    ];
    fuzz("capsules", seeds, |input| {
        let stream = Bytes::copy_from_slice(input);
        let whole = decode(stream.clone(), &[]);
        let cuts = input.get(..8).unwrap_or(input);
        assert_eq!(
            whole,
            decode(stream.clone(), cuts),
            "cut anywhere, the same"
        );
        assert_eq!(whole, decode(stream, &[0]), "octet by octet, the same");
        let mut again = BytesMut::new();
        for payload in &whole.0 {
            encode_datagram(payload, &mut again);
        }
        assert_eq!(decode(again.freeze(), cuts), (whole.0, None));
    });
}
