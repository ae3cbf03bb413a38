use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A block of addresses, such as `10.0.0.0/8` or `fd00::/8`; no bit is set past its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text or a pair is not a [`Prefix`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrefix {
    /// Not `ADDRESS/LENGTH`.
    #[error("not an address block such as 10.0.0.0/8 or fd00::/8")]
    Malformed,
    /// Longer than the address has bits.
    #[error("the length is over {0}")]
    TooLong(u8),
    /// Something is set behind the length.
    #[error("bits are set behind the length: the block is {0}")]
    HostBits(Prefix),
}

impl Prefix {
    /// The block of `length` bits that begins with `address`, which must have no other bit set.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, InvalidPrefix> {
        let block = Self::containing(address, length)?;
        if block.address == address.to_canonical() {
            Ok(block)
        } else {
            Err(InvalidPrefix::HostBits(block))
        }
    }

    /// The block of `length` bits that `address` is in. A v4-mapped IPv6 block is an IPv4 block:
    /// `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
    pub fn containing(address: IpAddr, length: u8) -> Result<Self, InvalidPrefix> {
        let (address, length) = match address.to_canonical() {
            v4 @ IpAddr::V4(_) if address.is_ipv6() && (96..=128).contains(&length) => {
                (v4, length - 96)
            }
            _ => (address, length),
        };
        let address = match address {
            IpAddr::V4(_) if length > 32 => return Err(InvalidPrefix::TooLong(32)),
            IpAddr::V6(_) if length > 128 => return Err(InvalidPrefix::TooLong(128)),
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Ok(Self { address, length })
    }

    /// The block of this one address.
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            length: if address.is_ipv4() { 32 } else { 128 },
        }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits are fixed.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The two blocks of half the size; none of a single address.
    pub(crate) fn halves(&self) -> impl Iterator<Item = Prefix> + use<> {
        let length = self.length + 1;
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        let upper = match self.address {
            IpAddr::V4(v4) => IpAddr::V4(
                (v4.to_bits() | 1u32.checked_shl(32 - u32::from(length)).unwrap_or(0)).into(),
            ),
            IpAddr::V6(v6) => IpAddr::V6(
                (v6.to_bits() | 1u128.checked_shl(128 - u32::from(length)).unwrap_or(0)).into(),
            ),
        };
        [self.address, upper]
            .into_iter()
            .filter(move |_| length <= bits)
            .map(move |address| Prefix { address, length })
    }

    /// Whether `address` is in the block. A v4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::containing(address.to_canonical(), self.length)
            .is_ok_and(|block| block.address == self.address)
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Prefix) -> bool {
        let (wide, narrow) = if self.length <= other.length {
            (self, other)
        } else {
            (other, self)
        };
        wide.contains(narrow.address)
    }
}

impl FromStr for Prefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, length) = text.split_once('/').ok_or(InvalidPrefix::Malformed)?;
        let address: IpAddr = address.parse().map_err(|_| InvalidPrefix::Malformed)?;
        // u8's own parser takes a leading '+'.
        if !length.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidPrefix::Malformed);
        }
        Self::new(
            address,
            length.parse().map_err(|_| InvalidPrefix::Malformed)?,
        )
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn contains(prefix: &str, address: &str, expected: bool) {
        let prefix: Prefix = prefix.parse().unwrap();
        assert_eq!(prefix.contains(address.parse().unwrap()), expected);
    }

    #[test]
    fn blocks_contain_what_they_should() {
        contains("10.0.0.0/8", "10.255.0.1", true);
        contains("10.0.0.0/8", "11.0.0.0", false);
        contains("0.0.0.0/0", "255.255.255.255", true);
        contains("0.0.0.0/0", "::1", false);
        contains("::/0", "::1", true);
        contains("10.0.0.0/8", "::ffff:10.1.2.3", true);
        contains("::ffff:10.0.0.0/104", "10.1.2.3", true);
        contains("::ffff:10.0.0.0/104", "11.1.2.3", false);
        contains("192.0.2.7/32", "192.0.2.7", true);
        contains("fd00::/8", "fdff::1", true);
    }

    #[test]
    fn bad_blocks_say_why() {
        let error = |text: &str| text.parse::<Prefix>().unwrap_err();
        assert_eq!(error("10.0.0.0"), InvalidPrefix::Malformed);
        assert_eq!(error("10.0.0.0/+8"), InvalidPrefix::Malformed);
        assert_eq!(error("10.0.0.0/33"), InvalidPrefix::TooLong(32));
        assert_eq!(
            error("10.0.0.1/8").to_string(),
            "bits are set behind the length: the block is 10.0.0.0/8"
        );
    }
}
