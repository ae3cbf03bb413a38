use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use offramp_rules::{DomainName, Host, Prefix, ProfileId};
use serde::Deserialize;

use crate::secret::Secret;

/// A profile that is ready to use: everything in it has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// What decides about flows; its name and layer are the profile's.
    pub rules: offramp_rules::Profile,
    /// The name that people see.
    pub visible_name: String,
    /// What it is for, as people see it.
    pub description: Option<String>,
    /// Who manages the machine, as people see it.
    pub organization: Option<String>,
    /// Names the revision: equal tokens, equal profiles. A hash of the text by default.
    pub token: String,
    /// Grows with every change; 0 by default.
    pub revision: u32,
    /// The servers in the order in which they are tried; at least one.
    pub servers: Vec<Server>,
    /// Names for which browsers are claimed too, whichever this machine has.
    pub browser_domains: Vec<DomainName>,
    /// The block whose IPv4 addresses stand for names; 198.18.0.0/15 by default.
    pub synthetic_v4: Prefix,
    /// The same for IPv6; none means the daemon's own.
    pub synthetic_v6: Option<Prefix>,
    /// Whether its apps take connections from other machines; false by default.
    pub allow_inbound: bool,
    /// What users may change for their own processes: paths such as `ExcludedDomains`; empty by
    /// default.
    pub overridable: BTreeSet<String>,
    /// Whether users are kept from removing it; true in the managed layer by default.
    pub removal_disallowed: bool,
    /// Where it was read.
    pub source: Source,
}

impl Profile {
    /// The name that no other profile in force has: the `Identifier`, for a user's own profile
    /// `Identifier~UID`.
    ///
    /// A user's profile never takes a bare `Identifier`, which may have been another's before: what
    /// runs under that name must not pass to this user's servers.
    pub fn id(&self) -> &ProfileId {
        &self.rules.id
    }

    /// The `Identifier` as written.
    pub fn identifier(&self) -> &str {
        let id = self.rules.id.as_str();
        let own = self.rules.owner.and_then(|uid| {
            let (identifier, end) = id.rsplit_once(OWN)?;
            (end.parse() == Ok(uid)).then_some(identifier)
        });
        own.unwrap_or(id)
    }
}

/// Stands between the `Identifier` of a user's profile and the user's id.
const OWN: char = '~';

/// The name of a profile, which may be a user's.
pub(crate) fn id(identifier: &str, owner: Option<u32>) -> ProfileId {
    match owner {
        Some(uid) => ProfileId::new(&format!("{identifier}{OWN}{uid}")),
        None => ProfileId::new(identifier),
    }
}

/// Whether an `Identifier` could be taken for the name of a user's profile.
pub(crate) fn is_reserved(identifier: &str) -> bool {
    identifier
        .rsplit_once(OWN)
        .is_some_and(|(_, end)| !end.is_empty() && end.bytes().all(|b| b.is_ascii_digit()))
}

/// Where a profile was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file; none for a profile that was made from a URL or read from elsewhere.
    pub file: Option<PathBuf>,
    /// The whole text of the file; empty for a profile that was made from a URL.
    pub text: Arc<str>,
}

/// A proxy server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name within the profile.
    pub name: String,
    /// Where it is.
    pub host: Host,
    /// Its TCP port, and its UDP port if it speaks QUIC.
    pub port: u16,
    /// What its certificate has to be made out to; the host by default.
    pub server_name: Host,
    /// PEM certificates to trust instead of the system's.
    pub anchors: Option<Asset>,
    /// How to show who one is; none means not at all.
    pub authentication: Option<Authentication>,
}

/// How to show a server who one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// The kind of credential.
    pub method: Method,
    /// The credential.
    pub asset: Asset,
}

/// The kind of credential that a server asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum Method {
    /// A user and a password.
    Password,
    /// A bearer token (RFC 6750).
    Bearer,
}

/// Something that is not in the profile itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asset {
    /// `credential:NAME`: a file that [`Credentials`](crate::Credentials) finds; the name has
    /// been checked.
    Credential(String),
    /// The same of a user's own profile: one of this user's credentials and nobody else's.
    Own {
        /// The user.
        owner: u32,
        /// The name, which has been checked.
        name: String,
    },
    /// Given with the profile, as `offramp run --server` does.
    Inline(Secret),
}
