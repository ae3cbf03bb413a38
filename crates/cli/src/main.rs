//! offramp
fn main() {}
