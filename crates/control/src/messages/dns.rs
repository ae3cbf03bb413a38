use serde::{Deserialize, Serialize};

use crate::App;

/// Asks for names that addresses stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesRequest {
    /// Only this name with all below it, or this address; none for all.
    #[serde(default)]
    pub name: Option<String>,
    /// Only those of apps of this profile, by its identifier.
    #[serde(default)]
    pub profile: Option<String>,
}

/// What the daemon knows of names, as far as the asking user may see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesAnswer {
    /// Those that flows use, then the latest used ones.
    pub names: Vec<KnownName>,
    /// Whether there are more than these.
    #[serde(default)]
    pub is_cut: bool,
    /// How many names there are, or of a user how many are the user's.
    #[serde(default)]
    pub counts: Vec<NameCount>,
    /// Answers of the far side that are kept for the user's programs, of root for all.
    #[serde(default)]
    pub answers: Vec<CachedAnswer>,
    /// Addresses of excluded names that the user's programs reach directly, of root all.
    #[serde(default)]
    pub approved: Vec<Approved>,
}

/// A name with the address that stands for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownName {
    /// The synthetic address, IPv4 or IPv6.
    pub address: String,
    /// The name that goes to the upstream.
    pub name: String,
    /// The profiles whose apps share it.
    pub profiles: Vec<String>,
    /// The users who asked for it; of other users than root alone root knows.
    pub users: Vec<u32>,
    /// Milliseconds since it was asked for, or used by a flow.
    pub unused_ms: u64,
    /// Open flows to it; of users other than root their own.
    pub flows: u64,
}

/// How many names there are of the profiles that share their addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameCount {
    /// These profiles.
    pub profiles: Vec<String>,
    /// Names with an IPv4 address.
    pub ipv4: u64,
    /// Names with an IPv6 address.
    pub ipv6: u64,
    /// How many there may be of each.
    pub most: u64,
}

/// An answer of the far side that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedAnswer {
    /// The name that was asked for.
    pub name: String,
    /// The type of record, such as `MX`.
    pub kind: String,
    /// The user whose programs asked.
    pub user: u32,
    /// The resolver that the apps asked.
    pub server: String,
    /// The profile by whose upstream it came.
    pub profile: String,
    /// How it went, such as `No Error`.
    pub code: String,
    /// Milliseconds that it is kept on.
    pub expires_ms: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// An address of an excluded name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved {
    /// The address.
    pub address: String,
    /// The names that were asked for; of a user none where others may have asked for them.
    #[serde(default)]
    pub names: Vec<String>,
    /// The profiles of the apps that reach it directly.
    pub profiles: Vec<String>,
    /// The users who asked; of other users root alone knows.
    #[serde(default)]
    pub users: Vec<u32>,
    /// Milliseconds that the answers live on; flows may hold it for longer.
    #[serde(default)]
    pub expires_ms: u64,
}

/// A look-up that was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// When it was answered, in Unix milliseconds.
    pub time: u64,
    /// Who asked.
    pub app: App,
    /// The identifier of the profile that it is under.
    pub profile: String,
    /// The server that the app asked.
    pub server: String,
    /// The name that was asked for.
    pub name: String,
    /// The type of record, such as `AAAA`.
    pub kind: String,
    /// Where the answer is from.
    pub answered: Answered,
    /// How it went, such as `No Error` or `Query Refused`.
    pub code: String,
    /// The first records of the answer, without their names.
    #[serde(default)]
    pub records: Vec<String>,
    /// Microseconds that it took.
    pub took_us: u64,
}

/// Where an answer is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answered {
    /// An address that stands for the name.
    Synthetic,
    /// The daemon itself, without asking anybody.
    Here,
    /// The machine's resolver.
    System,
    /// A resolver on the far side of the upstream, or what is kept of its answers.
    Far,
}

/// One line of the stream of look-ups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LookupEvent {
    /// A look-up was answered.
    Answered {
        /// It.
        lookup: Box<Lookup>,
    },
    /// The reader was too slow.
    Missed {
        /// How many events are left out here.
        count: u64,
    },
}
