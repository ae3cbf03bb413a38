//! The messages between the daemon and its clients, and the client.
//!
//! HTTP/1.1 with JSON over a Unix socket. This crate holds what both ends share and the client end;
//! it decides nothing and knows nothing of flows but how they are written down. The two types to
//! start with are [`Client`] for programs with a runtime and [`blocking::run`] for the launcher,
//! which must stay one single thread.

pub mod blocking;
mod client;
mod error;
#[cfg(test)]
mod fuzz;
mod messages;
pub mod paths;

pub use client::{Client, EventStream};
pub use error::{ClientError, Code, ErrorBody, Refusal};
pub use messages::{
    Answered, App, AppClaim, Approved, CachedAnswer, Check, ClaimedBy, Content, Decided,
    DecidedStep, ExplainRequest, ExplainTarget, Explanation, Fact, Finding, Flow, FlowEvent,
    FlowState, KernelView, KnownName, Lifecycle, Lookup, LookupEvent, NameCount, NamesAnswer,
    NamesRequest, Outcome, Problem, ProfileState, ProfileStatus, ProfileText, Protocol,
    ReloadAnswer, RunAnswer, RunRequest, RunServer, RunningApp, Severity, Status, StoreAnswer,
    Subject, SwitchAnswer, SwitchRequest, Told, ToldBy, UserAnswer, UserFile, UserFiles, Way,
};

/// Where the daemon listens unless it was told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/offramp/control.sock";

/// Largest body of a request, and of an answer to the launcher, in bytes.
pub const MAX_BODY: usize = 1024 * 1024;

/// Largest body of any other answer, in bytes; a stream has no such limit.
pub const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Longest line of a stream, in bytes.
pub const MAX_LINE: usize = 64 * 1024;
