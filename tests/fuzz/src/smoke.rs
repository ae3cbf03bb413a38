//! The run of `cargo test`: no luck, no clock, the same inputs each time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::{LONG, MOST, held};

/// How many mutations are tried.
const ROUNDS: u64 = 2000;

/// What parsers of ours split at, nest by, or repeat.
const UNITS: &[&[u8]] = &[
    b"(", b")", b"[", b"]", b"{", b"}", b"\"", b"\\", b"*", b"?", b"%", b".", b":", b"/", b",",
    b";", b"=", b"-", b"@", b"#", b"!", b"0", b"a", b" ", b"\n", b"\0", b"\xff", b"\xc0", b"\r\n",
    b"a.", b"a/", b"**/", b"*a", b"[a", b"[\"", b"{\"a\":", b"not ", b"\\x41", b"%41", b"a=b;",
];

pub(crate) fn run(name: &str, inputs: &[Vec<u8>], target: impl Fn(&[u8])) {
    let call = |input: &[u8]| {
        let called = catch_unwind(AssertUnwindSafe(|| held(&target, input)));
        if let Err(panic) = called {
            let shown = &input[..input.len().min(2000)];
            eprintln!(
                "{name}: this input, of {}: {}",
                input.len(),
                shown.escape_ascii()
            );
            resume_unwind(panic);
        }
    };
    call(b"");
    for input in inputs {
        call(input);
        for end in 0..input.len().min(400) {
            call(&input[..end]);
        }
    }
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for _ in 0..ROUNDS {
        let mut input = chance.of(inputs).cloned().unwrap_or_default();
        for _ in 0..=chance.below(4) {
            mutate(&mut input, inputs, &mut chance);
        }
        input.truncate(MOST);
        call(&input);
    }
    let begin = inputs.first().map_or(&b""[..], Vec::as_slice);
    for unit in UNITS
        .iter()
        .copied()
        .chain(inputs.iter().map(Vec::as_slice))
    {
        if !unit.is_empty() {
            let long = unit.repeat(LONG / unit.len() + 1);
            call(&long);
            call(&[begin, &long].concat());
        }
    }
}

fn mutate(input: &mut Vec<u8>, inputs: &[Vec<u8>], chance: &mut Chance) {
    let at = chance.below(input.len() + 1);
    match chance.below(7) {
        0 => input.truncate(at),
        1 => input.insert(at, chance.below(256) as u8),
        2 if at < input.len() => input[at] ^= 1 << chance.below(8),
        3 if at < input.len() => {
            let end = at + 1 + chance.below(input.len() - at);
            input.drain(at..end);
        }
        4 => {
            let piece = chance.of(UNITS).copied().unwrap_or_default();
            let piece = piece.repeat(1 + chance.below(8));
            input.splice(at..at, piece);
        }
        5 => {
            let other = chance.of(inputs).cloned().unwrap_or_default();
            let begin = chance.below(other.len() + 1);
            input.splice(at.., other[begin..].iter().copied());
        }
        _ => {
            let end = at + chance.below(input.len() - at + 1);
            let piece = input[at..end].to_vec();
            input.splice(at..at, piece);
        }
    }
}

/// Numbers that look like chance (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end.max(1)
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let at = self.below(all.len());
        all.get(at)
    }
}
