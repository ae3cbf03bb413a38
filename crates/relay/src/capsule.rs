//! UDP payloads as capsules in a byte stream: RFC 9297 section 3.2 and RFC 9298 section 5.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The capsule type of a datagram.
const DATAGRAM: u64 = 0x00;
/// The largest UDP payload and the longest context id before it.
const MAX_LENGTH: u64 = 65_535 + 8;

/// Why a capsule stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapsuleError {
    /// A datagram that no UDP socket could send.
    #[error("a datagram capsule of {0} bytes is over the limit")]
    TooLong(u64),
    /// A datagram without the context id that RFC 9298 asks for.
    #[error("a datagram capsule is too short for its context id")]
    NoContextId,
}

/// Appends `payload` as one datagram capsule with context id 0.
pub fn encode_datagram(payload: &[u8], out: &mut BytesMut) {
    out.reserve(payload.len() + 10);
    put_varint(DATAGRAM, out);
    put_varint(payload.len() as u64 + 1, out);
    put_varint(0, out);
    out.put_slice(payload);
}

/// Reads datagrams out of a byte stream that arrives in pieces of any size.
///
/// Capsules of unknown types are skipped without being kept, datagrams with an unknown context id
/// are dropped. Of a capsule that has not arrived whole, what is there is kept: at most the pieces
/// pushed since the last [`next`](Self::next) and one datagram.
#[derive(Debug, Default)]
pub struct Decoder {
    pieces: VecDeque<Bytes>,
    buffered: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Header,
    Datagram(usize),
    Skip(u64),
    Failed(CapsuleError),
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what has arrived; call [`next`](Self::next) until it gives `None` before adding more.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.buffered += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// The next payload, or `None` when more must arrive first. An error is final.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator's None is an end, here it is a pause"
    )]
    pub fn next(&mut self) -> Result<Option<Bytes>, CapsuleError> {
        loop {
            match self.state {
                State::Failed(error) => return Err(error),
                State::Header => match self.header() {
                    Some(state) => self.state = state,
                    None => return Ok(None),
                },
                State::Skip(left) => {
                    let now = usize::try_from(left)
                        .unwrap_or(usize::MAX)
                        .min(self.buffered);
                    self.advance(now);
                    match left - now as u64 {
                        0 => self.state = State::Header,
                        left => {
                            self.state = State::Skip(left);
                            return Ok(None);
                        }
                    }
                }
                State::Datagram(length) => {
                    if self.buffered < length {
                        return Ok(None);
                    }
                    let mut datagram = self.take(length);
                    self.state = State::Header;
                    match get_varint(&datagram) {
                        None => self.state = State::Failed(CapsuleError::NoContextId),
                        Some((0, size)) => {
                            datagram.advance(size);
                            return Ok(Some(datagram));
                        }
                        Some(_) => {}
                    }
                }
            }
        }
    }

    /// Reads type and length once both are whole.
    fn header(&mut self) -> Option<State> {
        let mut head = [0; 16];
        let mut filled = 0;
        for piece in &self.pieces {
            let size = piece.len().min(head.len() - filled);
            head[filled..filled + size].copy_from_slice(&piece[..size]);
            filled += size;
            if filled == head.len() {
                break;
            }
        }
        let (kind, kind_size) = get_varint(&head[..filled])?;
        let (length, length_size) = get_varint(&head[kind_size..filled])?;
        self.advance(kind_size + length_size);
        Some(match kind {
            DATAGRAM if length > MAX_LENGTH => State::Failed(CapsuleError::TooLong(length)),
            DATAGRAM => State::Datagram(length as usize),
            _ => State::Skip(length),
        })
    }

    fn advance(&mut self, mut size: usize) {
        self.buffered -= size;
        while size > 0 {
            let Some(piece) = self.pieces.front_mut() else {
                return;
            };
            let now = size.min(piece.len());
            piece.advance(now);
            size -= now;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    fn take(&mut self, size: usize) -> Bytes {
        if let Some(piece) = self.pieces.front_mut()
            && piece.len() >= size
        {
            let taken = piece.split_to(size);
            self.buffered -= size;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            return taken;
        }
        let mut whole = BytesMut::with_capacity(size);
        for piece in &self.pieces {
            let now = piece.len().min(size - whole.len());
            whole.put_slice(&piece[..now]);
        }
        self.advance(size);
        whole.freeze()
    }
}

/// Appends a variable-length integer of RFC 9000 section 16 in its shortest form.
fn put_varint(value: u64, out: &mut BytesMut) {
    match value {
        0..=0x3f => out.put_u8(value as u8),
        0x40..=0x3fff => out.put_u16(value as u16 | 0x4000),
        0x4000..=0x3fff_ffff => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value | 0xc000_0000_0000_0000),
    }
}

/// Reads one, in whatever length it was written, with the bytes that it takes.
fn get_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let size = 1 << (first >> 6);
    let rest = bytes.get(1..size)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, byte| {
        value << 8 | u64::from(*byte)
    });
    Some((value, size))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every payload that comes out when the stream arrives in these pieces.
    fn decode(stream: &[u8], cuts: &[usize]) -> Result<Vec<Bytes>, CapsuleError> {
        let mut decoder = Decoder::new();
        let mut payloads = Vec::new();
        let mut rest = Bytes::copy_from_slice(stream);
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let size = cuts.next().map_or(rest.len(), |cut| (*cut).min(rest.len()));
            decoder.push(rest.split_to(size));
            while let Some(payload) = decoder.next()? {
                payloads.push(payload);
            }
        }
        Ok(payloads)
    }

    #[derive(Clone, Debug)]
    enum Piece {
        Datagram(Vec<u8>),
        OtherContext(Vec<u8>),
        Unknown(u64, Vec<u8>),
    }

    fn pieces() -> impl Strategy<Value = Vec<Piece>> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..3000);
        prop::collection::vec(
            prop_oneof![
                bytes().prop_map(Piece::Datagram),
                bytes().prop_map(Piece::OtherContext),
                (1_u64..1 << 62, bytes()).prop_map(|(kind, bytes)| Piece::Unknown(kind, bytes)),
            ],
            0..8,
        )
    }

    /// The integer in 1, 2, 4 or 8 bytes: the shortest that fits or one that is longer.
    fn put_long_varint(value: u64, longer: u32, out: &mut BytesMut) {
        let shortest = [6, 14, 30, 62]
            .iter()
            .filter(|bits| value >> **bits != 0)
            .count() as u32;
        let log = (shortest + longer).min(3);
        let size = 1 << log;
        let bytes = value.to_be_bytes();
        let at = out.len();
        out.put_slice(&bytes[8 - size..]);
        out[at] |= (log as u8) << 6;
    }

    proptest! {
        #[test]
        fn every_split_gives_the_same_payloads(
            pieces in pieces(),
            cuts in prop::collection::vec(1_usize..500, 1..6),
            longer in 0_u32..4,
        ) {
            let mut stream = BytesMut::new();
            let mut expected = Vec::new();
            for piece in &pieces {
                match piece {
                    Piece::Datagram(bytes) => {
                        expected.push(Bytes::copy_from_slice(bytes));
                        if longer == 0 {
                            encode_datagram(bytes, &mut stream);
                            continue;
                        }
                        let mut context = BytesMut::new();
                        put_long_varint(0, longer, &mut context);
                        put_long_varint(DATAGRAM, longer, &mut stream);
                        put_long_varint((context.len() + bytes.len()) as u64, longer, &mut stream);
                        stream.put_slice(&context);
                        stream.put_slice(bytes);
                    }
                    Piece::OtherContext(bytes) => {
                        put_varint(DATAGRAM, &mut stream);
                        put_varint(bytes.len() as u64 + 1, &mut stream);
                        stream.put_u8(2);
                        stream.put_slice(bytes);
                    }
                    Piece::Unknown(kind, bytes) => {
                        put_long_varint(*kind, longer, &mut stream);
                        put_long_varint(bytes.len() as u64, longer, &mut stream);
                        stream.put_slice(bytes);
                    }
                }
            }
            prop_assert_eq!(decode(&stream, &cuts).unwrap(), expected);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(
            stream in prop::collection::vec(any::<u8>(), 0..200),
            cuts in prop::collection::vec(1_usize..20, 1..4),
        ) {
            let whole = decode(&stream, &[]);
            prop_assert_eq!(decode(&stream, &cuts), whole);
        }
    }

    #[test]
    fn a_datagram_has_this_form() {
        let mut out = BytesMut::new();
        encode_datagram(b"abc", &mut out);
        assert_eq!(&out[..], b"\x00\x04\x00abc");
    }

    #[test]
    fn the_largest_datagram_passes_and_a_larger_one_does_not() {
        let mut out = BytesMut::new();
        encode_datagram(&[7; 65_535], &mut out);
        assert_eq!(
            decode(&out, &[1000]).unwrap(),
            [Bytes::from(vec![7; 65_535])]
        );
        let mut out = BytesMut::new();
        encode_datagram(&[7; 65_543], &mut out);
        assert_eq!(decode(&out, &[1000]), Err(CapsuleError::TooLong(65_544)));
        assert_eq!(decode(&[0, 0], &[1]), Err(CapsuleError::NoContextId));
    }

    #[test]
    fn a_huge_unknown_capsule_is_skipped_without_being_kept() {
        let mut decoder = Decoder::new();
        let mut head = BytesMut::new();
        put_varint(0x29, &mut head);
        put_varint(1 << 30, &mut head);
        decoder.push(head.freeze());
        let piece = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..1 << 10 {
            decoder.push(piece.clone());
            assert_eq!(decoder.next(), Ok(None));
            assert_eq!((decoder.buffered, decoder.pieces.len()), (0, 0));
        }
        let mut out = BytesMut::new();
        encode_datagram(b"after", &mut out);
        decoder.push(out.freeze());
        assert_eq!(decoder.next(), Ok(Some(Bytes::from_static(b"after"))));
    }
}
