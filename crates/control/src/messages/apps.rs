use serde::{Deserialize, Serialize};

use crate::Way;

/// A running process that a profile claims, or below which a rule waits for a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningApp {
    /// Process id, in the daemon's own PID namespace.
    pub pid: u32,
    /// Real user id.
    pub uid: u32,
    /// The login name of that user, where there is one.
    #[serde(default)]
    pub user: Option<String>,
    /// Path of the executable, or its basename where the path is not known.
    pub program: String,
    /// The script, where the executable is an interpreter that runs one.
    #[serde(default)]
    pub script: Option<String>,
    /// The rules that claim it, in the order in which their profiles are asked.
    #[serde(default)]
    pub claims: Vec<AppClaim>,
    /// The number of the class that the kernel has it in; none while that is not settled.
    #[serde(default)]
    pub class: Option<u16>,
    /// What happens now to a flow of it to a target that no profile excludes.
    pub way: Way,
    /// The same in words, with the reason.
    pub verdict: String,
}

/// A rule that claims a process, and by what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppClaim {
    /// The profile's identifier.
    pub profile: String,
    /// The rule's `Identifier`; none where `offramp run` put the process under the profile.
    #[serde(default)]
    pub rule: Option<String>,
    /// How the process came under it.
    pub by: ClaimedBy,
}

/// How a process came under a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimedBy {
    /// The rule names it.
    Rule,
    /// The rule names a process that started it, or named it at its start.
    Inheritance,
    /// `offramp run` started it, or one of its ancestors.
    Wrapper,
    /// The rule names tools that it may start; the process itself is left alone.
    Tools,
}
