use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// Wrong credentials that one address may send in a window.
const ALLOWED: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered at one time.
const ADDRESSES: usize = 65_536;

/// Wrong credentials by client address; an IPv6 /64 counts as one address.
#[derive(Debug, Default)]
pub(super) struct Attempts(HashMap<IpAddr, (u32, Instant)>);

impl Attempts {
    /// Whether credentials from this address are checked at all. Counts them as wrong at once, so
    /// that many at one time are counted too.
    pub(super) fn may_try(&mut self, peer: IpAddr) -> bool {
        self.make_room();
        let (count, since) = self.0.entry(client(peer)).or_insert((0, Instant::now()));
        if since.elapsed() >= WINDOW {
            (*count, *since) = (0, Instant::now());
        }
        if *count >= ALLOWED {
            return false;
        }
        *count += 1;
        true
    }

    /// Takes one count back.
    pub(super) fn succeeded(&mut self, peer: IpAddr) {
        if let Some((count, _)) = self.0.get_mut(&client(peer)) {
            *count = count.saturating_sub(1);
        }
    }

    fn make_room(&mut self) {
        if self.0.len() < ADDRESSES {
            return;
        }
        self.0.retain(|_, (_, since)| since.elapsed() < WINDOW);
        if self.0.len() >= ADDRESSES {
            self.0.clear();
        }
    }
}

fn client(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_is_locked_out_for_a_while() {
        let mut attempts = Attempts::default();
        let (a, b) = (
            "2001:db8::1".parse().unwrap(),
            "2001:db8::2".parse().unwrap(),
        );
        let other = "2001:db8:0:1::1".parse().unwrap();
        for _ in 0..ALLOWED {
            assert!(attempts.may_try(a));
            attempts.succeeded(a);
            assert!(attempts.may_try(a));
        }
        assert!(!attempts.may_try(b));
        assert!(attempts.may_try(other));
        tokio::time::advance(WINDOW).await;
        assert!(attempts.may_try(a));
    }
}
