//! offramp-gateway
fn main() {}
