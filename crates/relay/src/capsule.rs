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
