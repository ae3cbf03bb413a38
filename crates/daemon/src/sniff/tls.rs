//! The name in a ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3).

use std::ops::Deref;

use offramp_control::ToldBy;

use super::{Found, MOST, Sniffed, domain};

/// The type of a record with a part of the handshake.
pub(crate) const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What the records at the beginning of a TCP flow come to.
pub(crate) fn hello(bytes: &[u8]) -> Found {
    let mut message = Vec::new();
    let mut rest = Reader(bytes);
    loop {
        let Some(record) = Record::read(&mut rest) else {
            return Found::More;
        };
        // The version of a record is 3.1 or 3.3 (RFC 8446 section 5.1); an empty one is an error.
        if record.kind != HANDSHAKE || record.version >> 8 != 3 || record.is_bad() {
            return Found::Nothing;
        }
        message.extend_from_slice(record.part);
        match handshake(&message, ToldBy::Sni) {
            Found::More if record.part.len() == record.length => {}
            found => return found,
        }
    }
}

/// A record, of which a part may be missing.
struct Record<'a> {
    kind: u8,
    version: u16,
    length: usize,
    part: &'a [u8],
}

impl<'a> Record<'a> {
    fn read(rest: &mut Reader<'a>) -> Option<Self> {
        let (kind, version) = (rest.byte()?, rest.number()?);
        let length = usize::from(rest.number()?);
        let part = rest.take(length.min(rest.len()))?;
        Some(Self {
            kind,
            version,
            length,
            part,
        })
    }

    fn is_bad(&self) -> bool {
        self.length == 0 || self.length > MOST
    }
}

/// What the beginning of a handshake comes to, which is `by` TCP or QUIC.
pub(crate) fn handshake(message: &[u8], by: ToldBy) -> Found {
    let mut rest = Reader(message);
    let Some(kind) = rest.byte() else {
        return Found::More;
    };
    if kind != CLIENT_HELLO {
        return Found::Nothing;
    }
    let (Some(high), Some(low)) = (rest.byte(), rest.number()) else {
        return Found::More;
    };
    let length = usize::from(high) << 16 | usize::from(low);
    if length > MOST {
        return Found::Nothing;
    }
    let Some(body) = rest.take(length) else {
        return Found::More;
    };
    let Some(hello) = ClientHello::read(body) else {
        return Found::Nothing;
    };
    let name = hello.name.and_then(|name| std::str::from_utf8(name).ok());
    let by = match hello.has_ech {
        true => ToldBy::Ech,
        false => by,
    };
    name.and_then(domain)
        .map_or(Found::Nothing, |name| Found::Name(Sniffed { name, by }))
}

#[derive(Default)]
struct ClientHello<'a> {
    name: Option<&'a [u8]>,
    has_ech: bool,
}

impl<'a> ClientHello<'a> {
    /// None: it is malformed, or says two things.
    fn read(body: &'a [u8]) -> Option<Self> {
        let mut rest = Reader(body);
        let _version_and_random = rest.take(2 + 32)?;
        let _session = rest.short()?;
        let _ciphers = rest.long()?;
        let _compression = rest.short()?;
        let mut hello = Self::default();
        if rest.is_empty() {
            return Some(hello);
        }
        let mut extensions = rest.long()?;
        if !rest.is_empty() {
            return None;
        }
        let mut had_name = false;
        while !extensions.is_empty() {
            let (kind, data) = (extensions.number()?, extensions.long()?);
            match kind {
                SERVER_NAME if had_name => return None,
                SERVER_NAME => {
                    had_name = true;
                    hello.name = Some(server_name(data)?);
                }
                // RFC 9849, its drafts, and what was before them.
                0xfe08..=0xfe0d | 0xffce => hello.has_ech = true,
                _ => {}
            }
        }
        Some(hello)
    }
}

fn server_name<'a>(mut data: Reader<'a>) -> Option<&'a [u8]> {
    let mut list = data.long()?;
    let (kind, name) = (list.byte()?, list.long()?);
    (kind == HOST_NAME && list.is_empty() && data.is_empty()).then_some(name.0)
}

/// What is left of some bytes; None where there are not enough.
struct Reader<'a>(&'a [u8]);

impl Deref for Reader<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What has its length before it, in one byte.
    fn short(&mut self) -> Option<Self> {
        let length = self.byte()?;
        self.take(length.into()).map(Self)
    }

    /// The same in two bytes.
    fn long(&mut self) -> Option<Self> {
        let length = self.number()?;
        self.take(length.into()).map(Self)
    }
}
