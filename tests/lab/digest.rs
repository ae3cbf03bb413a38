//! A checksum that is fast without optimisation, and bytes worth checking.

/// Sums bytes up so that a lost, changed or moved byte shows; not for secrets.
#[derive(Debug, Default)]
pub struct Digest {
    state: u64,
    pending: [u8; 8],
    count: u64,
}

impl Digest {
    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !self.count.is_multiple_of(8) && !bytes.is_empty() {
            self.pending[(self.count % 8) as usize] = bytes[0];
            self.count += 1;
            bytes = &bytes[1..];
            if self.count.is_multiple_of(8) {
                self.mix(u64::from_le_bytes(self.pending));
            }
        }
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        self.count += (bytes.len() - rest.len()) as u64;
        for byte in rest {
            self.pending[(self.count % 8) as usize] = *byte;
            self.count += 1;
        }
    }

    /// How many bytes there were, and their sum.
    pub fn finish(&self) -> String {
        let tail = self.pending[..(self.count % 8) as usize].iter();
        let tail = tail.fold(1_u64, |sum, byte| sum << 8 | u64::from(*byte));
        format!("{} {:016x}", self.count, self.state ^ tail)
    }

    fn mix(&mut self, word: u64) {
        self.state = (self.state ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }
}

/// A block whose repetition is the payload of the bulk tests; its length is prime, so that no
/// buffer size divides it.
pub fn pattern() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..262_139).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_sum_to_the_whole() {
        let bytes = pattern();
        let mut whole = Digest::default();
        whole.update(&bytes);
        let mut pieces = Digest::default();
        for piece in bytes.chunks(13) {
            pieces.update(piece);
        }
        assert_eq!(whole.finish(), pieces.finish());
    }

    #[test]
    fn a_swap_shows() {
        let mut bytes = pattern();
        let mut before = Digest::default();
        before.update(&bytes);
        bytes.swap(10, 1000);
        let mut after = Digest::default();
        after.update(&bytes);
        assert_ne!(before.finish(), after.finish());
    }
}
