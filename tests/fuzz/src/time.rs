//! CPU time of the thread: a busy machine does not count.

/// What `call` returns, and the CPU seconds that it took.
pub(crate) fn spent<T, M>(call: impl FnOnce() -> (T, M)) -> (T, f64, M) {
    let before = now();
    let (value, memory) = call();
    (value, now() - before, memory)
}

#[expect(unsafe_code, reason = "calls clock_gettime")]
fn now() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
