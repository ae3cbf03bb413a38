//! A bounded queue for datagrams: when it is full, the oldest give way.

use std::collections::VecDeque;

use bytes::Bytes;

/// Datagrams on their way into a byte stream; one task owns it.
///
/// A stream that stalls must not hold a conversation's future back: late datagrams are worth less
/// than new ones, so they are dropped and counted.
#[derive(Debug)]
pub struct Queue {
    datagrams: VecDeque<Bytes>,
    bytes: usize,
    dropped: u64,
    max_count: usize,
    max_bytes: usize,
}

impl Queue {
    /// At most `max_count` datagrams and `max_bytes` of payload.
    pub fn new(max_count: usize, max_bytes: usize) -> Self {
        Self {
            datagrams: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            max_count,
            max_bytes,
        }
    }

    /// Adds a datagram and drops the oldest until the limits hold; one that is over the byte
    /// limit by itself is dropped and nothing else.
    pub fn push(&mut self, datagram: Bytes) {
        if datagram.len() > self.max_bytes || self.max_count == 0 {
            self.dropped += 1;
            return;
        }
        self.bytes += datagram.len();
        self.datagrams.push_back(datagram);
        while self.datagrams.len() > self.max_count || self.bytes > self.max_bytes {
            self.pop();
            self.dropped += 1;
        }
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<Bytes> {
        let datagram = self.datagrams.pop_front()?;
        self.bytes -= datagram.len();
        Some(datagram)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Datagrams that wait.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Bytes of payload that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Datagrams dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_give_way() {
        let mut queue = Queue::new(2, 10);
        for datagram in ["one", "two", "three"] {
            queue.push(Bytes::from(datagram));
        }
        assert_eq!((queue.len(), queue.bytes(), queue.dropped()), (2, 8, 1));
        queue.push(Bytes::from("seventeen"));
        assert_eq!((queue.len(), queue.bytes(), queue.dropped()), (1, 9, 3));
        queue.push(Bytes::from("far too large"));
        assert_eq!((queue.len(), queue.dropped()), (1, 4));
        assert_eq!(queue.pop().as_deref(), Some(b"seventeen".as_slice()));
        assert_eq!(queue.pop(), None);
        assert!(queue.is_empty());
    }
}
