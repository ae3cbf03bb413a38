use std::net::IpAddr;

use crate::Prefix;

/// A set of address blocks that answers which of them an address is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteSet {
    // Sorted, so that a block stands before those it covers; no duplicates.
    blocks: Vec<Prefix>,
}

impl RouteSet {
    /// The set of every address there is.
    pub fn everything() -> Self {
        ["0.0.0.0/0", "::/0"]
            .map(|text| text.parse().expect("both are blocks"))
            .into_iter()
            .collect()
    }

    /// The longest block that `address` is in. A v4-mapped IPv6 address counts as IPv4.
    pub fn longest(&self, address: IpAddr) -> Option<Prefix> {
        let address = address.to_canonical();
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (0..=bits)
            .rev()
            .filter_map(|length| Prefix::containing(address, length).ok())
            .find(|block| self.blocks.binary_search(block).is_ok())
    }

    /// Whether `address` is in any block.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.longest(address).is_some()
    }

    /// The same addresses in the fewest of the given blocks: sorted, none within another.
    pub fn normalised(&self) -> Vec<Prefix> {
        let mut kept: Vec<Prefix> = Vec::new();
        for block in &self.blocks {
            // Sorted order puts a covering block first, and all it covers right behind it.
            if kept.last().is_none_or(|last| !last.overlaps(block)) {
                kept.push(*block);
            }
        }
        kept
    }

    /// The addresses that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &RouteSet) -> RouteSet {
        let mut common = Vec::new();
        for a in self.normalised() {
            for b in other.normalised() {
                if a.overlaps(&b) {
                    common.push(if a.length() >= b.length() { a } else { b });
                }
            }
        }
        common.into_iter().collect()
    }

    /// The addresses that are in none of `holes`.
    #[must_use]
    pub fn without(&self, holes: &[Prefix]) -> RouteSet {
        let mut left = Vec::new();
        let mut waiting = self.normalised();
        while let Some(block) = waiting.pop() {
            let hit = |hole: &&Prefix| hole.overlaps(&block);
            match holes.iter().find(hit) {
                None => left.push(block),
                Some(hole) if hole.length() <= block.length() => {}
                // The hole is within: what is beside it is in the one half or in the other.
                Some(_) => waiting.extend(block.halves()),
            }
        }
        left.into_iter().collect()
    }
}

impl FromIterator<Prefix> for RouteSet {
    fn from_iter<I: IntoIterator<Item = Prefix>>(blocks: I) -> Self {
        let mut blocks: Vec<Prefix> = blocks.into_iter().collect();
        blocks.sort_unstable();
        blocks.dedup();
        Self { blocks }
    }
}
