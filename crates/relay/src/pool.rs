use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The size that measured best; larger buffers fall out of the cache.
pub(crate) const LARGE: usize = 64 * 1024;
/// What a flow gets while too many large buffers are pinned by ends that do not read.
const SMALL: usize = 4 * 1024;
/// Large buffers in hand at one time in the whole process: 256 MiB.
const LARGE_IN_HAND: usize = 4096;
/// Large buffers that one thread keeps for the next flow.
const KEPT: usize = 16;

static IN_HAND: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer that goes back to the pool of the thread on which it is dropped.
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    /// Takes a buffer: [`LARGE`], or small when large ones are short.
    pub(crate) fn take() -> Self {
        if IN_HAND.fetch_add(1, Ordering::Relaxed) >= LARGE_IN_HAND {
            IN_HAND.fetch_sub(1, Ordering::Relaxed);
            return Self(vec![0; SMALL].into());
        }
        let kept = POOL.with_borrow_mut(Vec::pop);
        Self(kept.unwrap_or_else(|| vec![0; LARGE].into()))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.len() != LARGE {
            return;
        }
        IN_HAND.fetch_sub(1, Ordering::Relaxed);
        let buffer = std::mem::take(&mut self.0);
        // The pool is gone when a thread's last flows are dropped with the thread.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < KEPT {
                pool.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_reused_and_bounded() {
        let first = Buffer::take();
        assert_eq!(first.len(), LARGE);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(Buffer::take().as_ptr(), address);
        let all: Vec<Buffer> = (0..LARGE_IN_HAND).map(|_| Buffer::take()).collect();
        assert!(all.iter().all(|buffer| buffer.len() == LARGE));
        assert_eq!(Buffer::take().len(), SMALL);
        drop(all);
        assert_eq!(Buffer::take().len(), LARGE);
        assert_eq!(POOL.with_borrow(Vec::len), KEPT);
    }
}
