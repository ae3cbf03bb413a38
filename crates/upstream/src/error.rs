use std::fmt;
use std::io;
use std::sync::Arc;

/// Why an open failed, by whose fault it was.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The target turned the server away, or the server found no way to it.
    #[error("{server} could not connect to the target: {detail}")]
    Refused {
        /// The server's name.
        server: String,
        /// Its words: the status, and the error of `Proxy-Status` (RFC 9209) where it sent one.
        detail: String,
    },
    /// The target, or the server on its behalf, did not answer in time.
    #[error("the target did not answer {server} in time")]
    Timeout {
        /// The server's name.
        server: String,
    },
    /// The server found no address for the target's name.
    #[error("{server} could not find the target's name")]
    Unresolved {
        /// The server's name.
        server: String,
    },
    /// The server's rules do not allow this target.
    #[error("{server} does not allow this target")]
    Forbidden {
        /// The server's name.
        server: String,
    },
    /// The server does not accept the credentials, or has got none.
    #[error("{server} does not accept the credentials (status {status}): {advice}")]
    Unauthorized {
        /// The server's name.
        server: String,
        /// Its answer: 401 or 407.
        status: u16,
        /// What to do.
        advice: &'static str,
    },
    /// The server cannot carry UDP.
    #[error("{server} cannot carry UDP")]
    UdpUnsupported {
        /// The server's name.
        server: String,
    },
    /// No server could be reached; the source says why for the first that matters.
    #[error("{server} is not available")]
    Unavailable {
        /// The server's name.
        server: String,
        /// What went wrong on the way to it.
        source: Arc<ConnectError>,
    },
}

/// Why a proxy server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Its name has no address, or the lookup failed.
    #[error("the address of {server} cannot be looked up")]
    Lookup {
        /// The server's name.
        server: String,
        /// The resolver's words.
        source: io::Error,
    },
    /// No TCP connection.
    #[error("{server} cannot be reached")]
    Connect {
        /// The server's name.
        server: String,
        /// The kernel's words.
        source: io::Error,
    },
    /// The machine has no route to it.
    #[error("{server} cannot be reached: this machine has no network")]
    NoNetwork {
        /// The server's name.
        server: String,
    },
    /// No TCP connection within the time limit.
    #[error("{server} cannot be reached: no answer in time")]
    ConnectTimeout {
        /// The server's name.
        server: String,
    },
    /// The server's certificate is not one for it.
    #[error("the certificate of {server} was not accepted for {name}: {problem}")]
    Certificate {
        /// The server's name.
        server: String,
        /// The name that was verified.
        name: String,
        /// What is wrong and what to do.
        problem: CertificateProblem,
    },
    /// The TLS handshake failed for another reason.
    #[error("the TLS handshake with {server} failed")]
    Tls {
        /// The server's name.
        server: String,
        /// The alert or the I/O error.
        source: io::Error,
    },
    /// The TLS handshake, or the first exchange of HTTP/2, took too long.
    #[error("{server} did not complete the handshake in time")]
    TlsTimeout {
        /// The server's name.
        server: String,
    },
    /// It does not speak HTTP as it should, or ended the connection.
    #[error("the connection to {server} failed: {detail}")]
    Protocol {
        /// The server's name.
        server: String,
        /// What was seen.
        detail: String,
    },
    /// It does not accept the credentials, or has got none.
    #[error("{server} does not accept the credentials (status {status}): {advice}")]
    Unauthorized {
        /// The server's name.
        server: String,
        /// Its answer: 401 or 407.
        status: u16,
        /// What to do.
        advice: &'static str,
    },
    /// It checks no credentials from this machine's address for a while.
    #[error(
        "{server} takes no credentials for a while (status 429): too many wrong ones were sent"
    )]
    LockedOut {
        /// The server's name.
        server: String,
    },
    /// Nothing has been tried within the time limit of an open.
    #[error("no connection to {server} came up in time")]
    Waiting {
        /// The server's name.
        server: String,
    },
}

impl ConnectError {
    /// Whether it is about credentials: trying again soon is of no use and may do harm.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Unauthorized { .. } | Self::LockedOut { .. })
    }
}

/// What is wrong with a certificate; its text says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateProblem {
    /// Its time is over.
    Expired,
    /// Its time has not come, or this machine's clock is wrong.
    NotYetValid,
    /// No trusted authority stands behind it.
    UnknownIssuer,
    /// It is for these other names.
    OtherName(String),
    /// Its authority took it back.
    Revoked,
    /// It is one of an authority (`CA:TRUE`), as openssl makes them where nothing else is asked.
    Authority,
    /// Anything else, in the verifier's words.
    Unusable(String),
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => {
                f.write_str("it has expired: renew it on the server, or check this machine's clock")
            }
            Self::NotYetValid => {
                f.write_str("it is not valid yet: check the clocks of this machine and the server")
            }
            Self::UnknownIssuer => f.write_str(
                "its issuer is not trusted: name the authority that signed it in the profile",
            ),
            Self::OtherName(names) if names.is_empty() => {
                f.write_str("it is for another name: use that name, or set the TLS server name")
            }
            Self::OtherName(names) => write!(
                f,
                "it is for {names}: use one of these names, or set the TLS server name"
            ),
            Self::Revoked => f.write_str("it was revoked: the server needs a new one"),
            Self::Authority => f.write_str(
                "it is an authority's (CA:TRUE), not a server's: make it with \
                 `-addext basicConstraints=critical,CA:FALSE`",
            ),
            Self::Unusable(reason) => write!(f, "{reason}: the server needs another one"),
        }
    }
}

/// The message of an error followed by those of its sources, for a reason that is shown.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
