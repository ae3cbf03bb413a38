//! offrampd
fn main() {}
