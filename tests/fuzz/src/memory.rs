//! How much memory a thread holds, counted by the allocator of the test program.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    /// Held now, and the most that was; in bytes, by this thread.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// What `call` returns, and the most bytes that it held at one time.
pub(crate) fn peak<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get().0;
    HELD.set((before, before));
    let value = call();
    let most = HELD.get().1 - before;
    (value, most.unsigned_abs())
}

fn count(more: usize, less: usize) {
    // A thread that ends frees what it has behind its own counters.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        let now = now + more as isize - less as isize;
        held.set((now, most.max(now)));
    });
}

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: everything is the system's own allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller promises what the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, size) }
    }
}
