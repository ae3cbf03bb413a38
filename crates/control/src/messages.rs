mod apps;
mod dns;
mod explain;
mod user;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::apps::{AppClaim, ClaimedBy, RunningApp};
pub use self::dns::{
    Answered, Approved, CachedAnswer, KnownName, Lookup, LookupEvent, NameCount, NamesAnswer,
    NamesRequest,
};
pub use self::explain::{
    Decided, DecidedStep, ExplainRequest, ExplainTarget, Explanation, Fact, Finding, KernelView,
    Subject,
};
pub use self::user::{Content, UserAnswer, UserFile, UserFiles};

/// What the daemon is and does, as far as the asking user may see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Name of the instance, `default` unless it was started with another one.
    pub instance: String,
    /// How far start or shutdown has come.
    pub lifecycle: Lifecycle,
    /// Milliseconds since the daemon started.
    pub uptime_ms: u64,
    /// The profiles in the order in which they are asked.
    pub profiles: Vec<ProfileStatus>,
    /// What is wrong with the configuration; the last good one stays in force.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// Counts since the start, under the names that the metrics use.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
}

/// How far the daemon's start or shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// Not capturing yet.
    Starting,
    /// Capturing.
    Ready,
    /// Capturing with the configuration from before, while the new one is read.
    Reloading,
    /// No new flows; the live ones may end by themselves until the deadline.
    Stopping,
}

/// One profile as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProfileStatus {
    /// Its `Identifier`.
    pub identifier: String,
    /// Its `VisibleName`.
    #[serde(default)]
    pub visible_name: Option<String>,
    /// `managed`, `recommended`, `user` or `run`.
    pub layer: String,
    /// Its `Order`; the lower one is asked first.
    #[serde(default)]
    pub order: i64,
    /// Its `Enabled` as written.
    pub enabled: bool,
    /// Switched on; a person may switch it off for a while.
    pub on: bool,
    /// The state of its upstream.
    pub state: ProfileState,
    /// Why it is in this state, in plain words.
    #[serde(default)]
    pub reason: Option<String>,
    /// The name of the server in use, or of the first one while none is.
    #[serde(default)]
    pub server: Option<String>,
    /// The protocol spoken to it, such as `h2`.
    #[serde(default)]
    pub protocol: Option<String>,
    /// Whether it carries UDP; none while that is not known.
    #[serde(default)]
    pub udp: Option<bool>,
    /// Live processes under this profile.
    #[serde(default)]
    pub apps: u64,
    /// Live flows under this profile.
    #[serde(default)]
    pub flows: u64,
    /// The `ServerToken` of the declaration.
    #[serde(default)]
    pub token: Option<String>,
    /// The file that it was read from, or the command that made it.
    #[serde(default)]
    pub source: Option<String>,
}

/// The state of a profile's upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileState {
    /// The first attempt is under way; flows wait for a moment.
    Connecting,
    /// Flows are relayed.
    Connected,
    /// Lost and being reached again; flows are tried.
    Reasserting,
    /// Flows are refused.
    Disconnected,
}

/// Something wrong, with its place as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What kind it is, such as `Error.UnknownPayloadKeys`.
    #[serde(default)]
    pub code: Option<String>,
    /// The file that it is in.
    #[serde(default)]
    pub file: Option<String>,
    /// Line, from 1.
    #[serde(default)]
    pub line: Option<u32>,
    /// Column, from 1.
    #[serde(default)]
    pub column: Option<u32>,
    /// The path of the key, such as `Servers[0].URL`.
    #[serde(default)]
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The configuration is not taken.
    Error,
    /// The configuration is taken.
    Warning,
}

/// One flow as it stands, or as it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Counts up from the daemon's start.
    pub id: u64,
    /// Who opened it.
    pub app: App,
    /// The identifier of the profile that it is under.
    pub profile: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// The app's own address and port.
    pub source: String,
    /// Where it wants to go: name or address, and port.
    pub target: String,
    /// The name that the app has told of an address that it chose itself, where a rule needed one, or
    /// was told the address for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
    /// What was done with it.
    pub way: Way,
    /// The upstream that carries it, if one does.
    #[serde(default)]
    pub upstream: Option<String>,
    /// Bytes from the app to the target.
    pub sent: u64,
    /// Bytes from the target to the app.
    pub received: u64,
    /// When it began, in Unix milliseconds.
    pub started: u64,
    /// How long it has lived, in milliseconds.
    pub duration_ms: u64,
    /// Where it is in its life.
    pub state: FlowState,
    /// Why it failed or was refused.
    #[serde(default)]
    pub error: Option<String>,
}

/// A name that an app has told of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The name.
    pub name: String,
    /// What told it.
    pub by: ToldBy,
}

/// What tells a name of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToldBy {
    /// The server name of TLS.
    Sni,
    /// That of QUIC.
    Quic,
    /// The same of either, on the outside of a hello that may have another one inside (ECH).
    Ech,
    /// The target of an HTTP request, or its `Host`.
    Host,
    /// The look-up that was answered with the address.
    Dns,
}

impl fmt::Display for ToldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ToldBy::Sni => "sni",
            ToldBy::Quic => "quic",
            ToldBy::Ech => "ech",
            ToldBy::Host => "host",
            ToldBy::Dns => "dns",
        })
    }
}

/// The process that opened a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Process id, in the daemon's own PID namespace.
    pub pid: u32,
    /// Real user id.
    pub uid: u32,
    /// Path of the executable, or its basename where the path is not known.
    pub executable: String,
    /// The command as it was started, where that is known.
    #[serde(default)]
    pub command: Option<String>,
}

/// What a flow speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// One TCP connection.
    Tcp,
    /// One UDP conversation.
    Udp,
}

/// What is done with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Through an upstream.
    Relay,
    /// Straight to the target.
    Direct,
    /// Nowhere.
    Refused,
}

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowState {
    /// The upstream has not answered yet.
    Opening,
    /// Bytes may go both ways.
    Open,
    /// One direction has ended.
    HalfClosed,
    /// Over.
    Closed,
}

/// One line of the stream of flows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum FlowEvent {
    /// A flow began.
    Begin {
        /// The flow.
        flow: Flow,
    },
    /// A flow ended, with its last counts.
    End {
        /// The flow.
        flow: Flow,
    },
    /// The reader was too slow.
    Missed {
        /// How many events are left out here.
        count: u64,
    },
}

/// Puts the asking process under a profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// The profile's identifier; none for the only one that there is.
    #[serde(default)]
    pub profile: Option<String>,
    /// A server of its own instead of a profile; not both.
    #[serde(default)]
    pub server: Option<RunServer>,
    /// The program that the process is going to execute, as an absolute path.
    pub program: String,
}

/// A server for one command, until its last process ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunServer {
    /// Such as `https://proxy.example:443`.
    pub url: String,
    /// Certificates to trust instead of the system's, in PEM.
    #[serde(default)]
    pub ca_pem: Option<String>,
}

/// The asking process is under a profile now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAnswer {
    /// The profile's identifier.
    pub profile: String,
    /// The label that the process carries.
    pub label: u64,
    /// What the person should know, such as that a managed profile claims the program.
    #[serde(default)]
    pub notices: Vec<String>,
}

/// Switches a profile, or all of them, off or on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchRequest {
    /// The profile's identifier; none for all that the user may switch.
    #[serde(default)]
    pub profile: Option<String>,
    /// What it is to be.
    pub on: bool,
}

/// What a switch did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchAnswer {
    /// The profiles that changed; those that were so before are left out.
    pub changed: Vec<String>,
}

/// A profile with its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProfileText {
    /// How it stands.
    pub status: ProfileStatus,
    /// The declaration as it was read.
    pub text: String,
}

/// What installing or removing a profile did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreAnswer {
    /// The profile's identifier.
    pub identifier: String,
    /// False where everything was so before.
    pub changed: bool,
    /// Warnings; with an error nothing would have changed.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// What reading the configuration again did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadAnswer {
    /// False where the configuration is as it was, or is bad and the one from before stays.
    pub changed: bool,
    /// What is wrong with it.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// One thing that `doctor` looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at, in a few words.
    pub name: String,
    /// How it is.
    pub outcome: Outcome,
    /// What was seen.
    pub detail: String,
    /// What to do, where something is to be done.
    #[serde(default)]
    pub remedy: Option<String>,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Works, with something that a person should know.
    Warning,
    /// Does not work.
    Failure,
}
