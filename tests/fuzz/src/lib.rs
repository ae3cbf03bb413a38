//! Hands hostile bytes to a parser, and holds it to what every parser of ours owes: no panic, no
//! more memory and no more time than the input is worth.
//!
//! A target is an ordinary test that calls [`fuzz`]. `cargo test` gives it its seeds, what was once
//! found (`tests/fuzz/found/NAME`), their mutations and long repetitions: the same ones each time.
//! `scripts/fuzz` builds the same test with coverage and runs it under libFuzzer.

#[cfg(fuzzing)]
mod guided;
mod memory;
#[cfg(not(fuzzing))]
mod smoke;
mod time;

use std::path::PathBuf;

/// Longest input of libFuzzer and of mutations, in bytes; repetitions are [`LONG`].
const MOST: usize = 16 << 10;
/// What a repetition is long.
const LONG: usize = 128 << 10;
/// A parser may hold this much at one time, in bytes: a fixed part, and for each byte of its input.
const MEMORY: (usize, usize) = (4 << 20, 512);
/// A parser may take this long for an input of [`LONG`], in CPU time: linear ones take a hundredth,
/// quadratic ones minutes.
const SECONDS: f64 = 4.0;

/// Calls `target` with the seeds, with what was found before, and with what becomes of them.
///
/// # Panics
///
/// Where `target` panics, takes too much memory or too much time; the message has the input.
pub fn fuzz(name: &str, seeds: &[&[u8]], target: impl Fn(&[u8])) {
    let mut inputs: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).collect();
    inputs.extend(found(name));
    #[cfg(not(fuzzing))]
    smoke::run(name, &inputs, target);
    #[cfg(fuzzing)]
    guided::run(name, &inputs, target);
}

/// What was found once and has to stay mended.
fn found(name: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("found")
        .join(name);
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    let read = |path| std::fs::read(path).expect("a file of the repository can be read");
    paths.into_iter().map(read).collect()
}

/// One call, held to the limits.
fn held(target: &impl Fn(&[u8]), input: &[u8]) {
    let ((), seconds, most) = time::spent(|| memory::peak(|| target(input)));
    let (fixed, per_byte) = MEMORY;
    assert!(
        most <= fixed + per_byte * input.len(),
        "{most} bytes of memory for an input of {}",
        input.len()
    );
    assert!(
        seconds <= SECONDS,
        "{seconds} s of CPU time for an input of {}",
        input.len()
    );
}
