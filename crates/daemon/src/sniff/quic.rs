//! The ClientHello in the first packets of QUIC (RFC 9000, RFC 9001, RFC 9369), whose keys everybody
//! on the way can have.

use offramp_control::ToldBy;
use rustls::Side;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{DirectionalKeys, Version};

use super::{Found, MOST, tls};

const LONG_HEADER: u8 = 0x80;
/// A longer one is not of these versions (RFC 9000 section 17.2).
const LONGEST_ID: usize = 20;
/// Where the sample begins, behind the longest packet number, and its length.
const NUMBER: usize = 4;
const SAMPLE: usize = 16;
/// How many datagrams a hello may come in.
const DATAGRAMS: usize = 16;

const PADDING: u64 = 0;
const PING: u64 = 1;
const ACK: u64 = 2;
const ACK_ECN: u64 = 3;
const CRYPTO: u64 = 6;

/// A hello that comes in datagrams.
#[derive(Default)]
pub(crate) struct Hello {
    datagrams: usize,
    /// Those of the client, from the first packet on.
    keys: Option<DirectionalKeys>,
    stream: Stream,
}

/// What was sent of the handshake, in any order.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    has: Vec<bool>,
}

/// The first packet of some bytes.
struct Packet<'a> {
    /// With its header, of which the first part is not encrypted.
    bytes: &'a [u8],
    /// Where the number begins.
    number: usize,
    version: Version,
    /// Whose id the keys come from.
    destination: &'a [u8],
    is_initial: bool,
    rest: &'a [u8],
}

impl Hello {
    /// What all datagrams up to this one come to.
    pub(crate) fn take(&mut self, datagram: &[u8]) -> Found {
        self.datagrams += 1;
        let mut rest = datagram;
        let mut is_any = false;
        // What follows the last packet, or is not one, is left alone (RFC 9000 section 12.2).
        while let Some(packet) = Packet::read(rest) {
            rest = packet.rest;
            if packet.is_initial {
                if self.open(&packet).is_none() {
                    return Found::Nothing;
                }
                is_any = true;
            }
        }
        if !is_any && self.keys.is_none() {
            return Found::Nothing;
        }
        match tls::handshake(self.stream.beginning(), ToldBy::Quic) {
            Found::More if self.datagrams >= DATAGRAMS => Found::Nothing,
            found => found,
        }
    }

    /// None: it is not the client's, or says what clients do not say.
    fn open(&mut self, packet: &Packet<'_>) -> Option<()> {
        let keys = match &self.keys {
            Some(keys) => keys,
            None => self.keys.insert(packet.keys()?),
        };
        let mut bytes = packet.bytes.to_vec();
        let (header, rest) = bytes.split_at_mut_checked(packet.number + NUMBER)?;
        let (first, header) = header.split_first_mut()?;
        let sample = rest.get(..SAMPLE)?;
        let number = &mut header[packet.number - 1..];
        keys.header.decrypt_in_place(sample, first, number).ok()?;
        let length = usize::from(*first & 3) + 1;
        let number = number[..length]
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte));
        let (header, payload) = bytes.split_at_mut(packet.number + length);
        let payload = keys.packet.decrypt_in_place(number, header, payload);
        self.stream.frames(payload.ok()?)
    }
}

impl Stream {
    /// What there is without a gap.
    fn beginning(&self) -> &[u8] {
        let end = self.has.iter().position(|has| !has);
        &self.bytes[..end.unwrap_or(self.bytes.len())]
    }

    fn frames(&mut self, mut rest: &[u8]) -> Option<()> {
        while !rest.is_empty() {
            match number(&mut rest)? {
                PADDING | PING => {}
                kind @ (ACK | ACK_ECN) => acknowledged(&mut rest, kind == ACK_ECN)?,
                CRYPTO => {
                    let (offset, length) = (size(&mut rest)?, size(&mut rest)?);
                    self.put(offset, take(&mut rest, length)?)?;
                }
                _ => return None,
            }
        }
        Some(())
    }

    fn put(&mut self, offset: usize, part: &[u8]) -> Option<()> {
        let end = offset.checked_add(part.len()).filter(|end| *end <= MOST)?;
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
            self.has.resize(end, false);
        }
        self.bytes[offset..end].copy_from_slice(part);
        self.has[offset..end].fill(true);
        Some(())
    }
}

fn acknowledged(rest: &mut &[u8], with_ecn: bool) -> Option<()> {
    let _largest_and_delay = (number(rest)?, number(rest)?);
    let more = number(rest)?;
    let _first = number(rest)?;
    let counts = if with_ecn { 3 } else { 0 };
    // Each takes a byte at least, so that a great count ends with the packet.
    for _ in 0..more.checked_mul(2)?.checked_add(counts)? {
        number(rest)?;
    }
    Some(())
}

impl<'a> Packet<'a> {
    /// None: it has a short header, a version that is not known, or no length.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let first = *take(&mut rest, 1)?.first()?;
        if first & LONG_HEADER == 0 {
            return None;
        }
        let version = match take(&mut rest, 4)? {
            [0, 0, 0, 1] => Version::V1,
            [0x6b, 0x33, 0x43, 0xcf] => Version::V2,
            _ => return None,
        };
        let kind = match version {
            Version::V2 => Kind::of((first >> 4 & 3).wrapping_sub(1) & 3),
            _ => Kind::of(first >> 4 & 3),
        };
        let destination = id(&mut rest)?;
        let _source = id(&mut rest)?;
        match kind {
            Kind::Retry => return None,
            Kind::Initial => {
                let token = size(&mut rest)?;
                take(&mut rest, token)?;
            }
            Kind::Other => {}
        }
        let length = size(&mut rest)?;
        let number = bytes.len() - rest.len();
        take(&mut rest, length)?;
        Some(Self {
            bytes: &bytes[..bytes.len() - rest.len()],
            number,
            version,
            destination,
            is_initial: kind == Kind::Initial,
            rest,
        })
    }

    /// Those by which a server reads it.
    fn keys(&self) -> Option<DirectionalKeys> {
        let suite = TLS13_AES_128_GCM_SHA256.tls13()?.quic_suite()?;
        let keys = suite.keys(self.destination, Side::Server, self.version);
        Some(keys.remote)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Initial,
    /// 0-RTT and Handshake.
    Other,
    Retry,
}

impl Kind {
    /// As version 1 numbers them; version 2 has each one higher.
    fn of(bits: u8) -> Self {
        match bits {
            0 => Kind::Initial,
            3 => Kind::Retry,
            _ => Kind::Other,
        }
    }
}

fn id<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(take(rest, 1)?[0]);
    take(rest, Some(length).filter(|length| *length <= LONGEST_ID)?)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(taken)
}

/// A number of variable length (RFC 9000 section 16).
fn number(rest: &mut &[u8]) -> Option<u64> {
    let length = 1 << (rest.first()? >> 6);
    let bytes = take(rest, length)?;
    let high = u64::from(bytes[0] & 0x3f);
    let low = bytes[1..].iter();
    Some(low.fold(high, |number, byte| number << 8 | u64::from(*byte)))
}

fn size(rest: &mut &[u8]) -> Option<usize> {
    number(rest)?.try_into().ok()
}
