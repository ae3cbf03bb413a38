//! The commands against a daemon that only answers what the test says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod explain;
mod fake;
mod run;
mod user;
