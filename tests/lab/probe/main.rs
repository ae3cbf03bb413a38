//! `offramp-probe`: the small client of the suites, for the sockets that no common program opens.

#![expect(clippy::print_stdout, reason = "a test reads what it prints")]

fn main() -> anyhow::Result<()> {
    println!("offramp-probe");
    Ok(())
}
