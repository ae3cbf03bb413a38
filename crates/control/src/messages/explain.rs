use serde::{Deserialize, Serialize};

use crate::Way;

/// Asks why a flow goes the way it goes. One of the two has to be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// Whose flow; none: as if an app of each profile asked.
    #[serde(default)]
    pub subject: Option<Subject>,
    /// Where to; none: the flow's own target, or one that no profile excludes.
    #[serde(default)]
    pub target: Option<ExplainTarget>,
}

/// Whose flow is to be explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The process with this number if there is one, otherwise the flow.
    Number(u64),
    /// A running process, by its id in the daemon's own PID namespace.
    Process(u32),
    /// What the asking user would start from this absolute path.
    Executable(String),
    /// A live flow, by its [`id`](crate::Flow::id).
    Flow(u64),
}

/// Where a flow wants to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExplainTarget {
    /// A connection, as `HOST:PORT` with a name, an IPv4 address or an IPv6 one in brackets.
    Address(String),
    /// The look-up of a name.
    Name(String),
}

/// Why a flow goes the way it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What is explained, in a few words.
    pub subject: String,
    /// What is known of the app, in the order in which a person reads it.
    #[serde(default)]
    pub facts: Vec<Fact>,
    /// Every rule of every profile that the user may see, held against the app.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// What the kernel has for the process; none where no process is meant.
    #[serde(default)]
    pub kernel: Option<KernelView>,
    /// One for the target; where a target alone was asked about, one for each profile.
    #[serde(default)]
    pub decisions: Vec<Decided>,
    /// What else a person should know.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One thing that is known of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is, such as `executable`.
    pub label: String,
    /// How it is.
    pub value: String,
}

/// What came of holding a rule against an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The profile's identifier.
    pub profile: String,
    /// The rule's `Identifier`; none for a sentence about the whole profile.
    #[serde(default)]
    pub rule: Option<String>,
    /// Whether the rule claims the app.
    pub matches: bool,
    /// Why, or why not.
    pub sentence: String,
}

/// What the kernel has for a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelView {
    /// The number of its class; none where it is unmanaged or not settled.
    #[serde(default)]
    pub class: Option<u16>,
    /// Whether that is what the rules come to now.
    pub agrees: bool,
    /// The same in words.
    pub sentence: String,
}

/// One decision, with the way to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// The profile as whose app it was decided; none where the app itself was asked about.
    #[serde(default)]
    pub profile: Option<String>,
    /// Where to: a name or an address, and a port where one is meant.
    pub target: String,
    /// What each profile said, in order.
    #[serde(default)]
    pub steps: Vec<DecidedStep>,
    /// What happens.
    pub way: Way,
    /// The same in words, with the reason.
    pub verdict: String,
    /// What the target's name or address stands for, where that is known.
    #[serde(default)]
    pub note: Option<String>,
}

/// What one profile said about a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecidedStep {
    /// The profile's identifier.
    pub profile: String,
    /// The rule that claims the app, if one does.
    #[serde(default)]
    pub rule: Option<String>,
    /// What it said.
    pub sentence: String,
}
