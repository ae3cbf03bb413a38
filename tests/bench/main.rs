//! `offramp-bench`: measures the product beside others in the lab, with the same client in one run.
//!
//! `scripts/bench` builds and starts it as root.

#![expect(
    clippy::print_stdout,
    reason = "people and scripts read what it prints"
)]

mod dns;
mod rounds;

use anyhow::bail;

const USAGE: &str = "scripts/bench dns [--json] [--rounds COUNT=5] [--milliseconds COUNT=1000]";

/// How much is measured, and how it is told.
struct Options {
    json: bool,
    rounds: usize,
    milliseconds: u64,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next();
    let mut options = Options {
        json: false,
        rounds: 5,
        milliseconds: 1000,
    };
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse::<u32>().ok());
        match (argument.as_str(), &mut options) {
            ("--json", options) => options.json = true,
            ("--rounds", options) => match number() {
                Some(rounds @ 1..) => options.rounds = rounds as usize,
                _ => bail!(USAGE),
            },
            ("--milliseconds", options) => match number() {
                Some(milliseconds @ 1..) => options.milliseconds = milliseconds.into(),
                _ => bail!(USAGE),
            },
            _ => bail!(USAGE),
        }
    }
    match what.as_deref() {
        Some("dns") => dns::measure(&options),
        _ => bail!(USAGE),
    }
}
