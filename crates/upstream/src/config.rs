use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use offramp_rules::{DomainName, Host};

use crate::tls;

/// The proxy servers of one profile.
#[derive(Clone, Debug)]
pub struct Config {
    /// In failover order; at least one.
    pub servers: Vec<Server>,
    /// How long each step of an open may take.
    pub timeouts: Timeouts,
}

/// One proxy server, spoken to over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// What people call it; used in messages and in [`crate::State`].
    pub name: String,
    /// Where it is; a name is looked up by the machine's own resolver.
    pub host: Host,
    /// Its TCP port.
    pub port: u16,
    /// The name asked for (SNI) and verified, where it is not `host`.
    pub server_name: Option<DomainName>,
    /// Whose certificates are believed.
    pub trust: Trust,
    /// Sent with every request, before the server asks.
    pub authorization: Option<Authorization>,
}

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The certificate authorities of the machine, read when the upstream is made.
    System,
    /// These alone: one or more PEM certificates.
    Anchors(Vec<u8>),
}

/// How the server knows us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// `Basic` (RFC 7617).
    Password {
        /// Without a colon.
        user: String,
        /// Any text without control characters.
        password: Secret,
    },
    /// `Bearer` (RFC 6750).
    Bearer(Secret),
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Keeps the text.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How long each step of an open may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Lookup of the server's name and TCP handshake; 5 s.
    pub connect: Duration,
    /// TLS handshake and the first exchange of HTTP/2; 10 s.
    pub tls: Duration,
    /// From a request to the head of its answer; 15 s.
    pub answer: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            tls: Duration::from_secs(10),
            answer: Duration::from_secs(15),
        }
    }
}

/// Why a declaration of servers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is nothing to connect to.
    #[error("no server is named")]
    NoServer,
    /// The anchors hold no certificate, or one that cannot be read.
    #[error("server {server}: the trusted certificates cannot be read: {reason}")]
    Anchors {
        /// The server's name.
        server: String,
        /// What is wrong with them.
        reason: String,
    },
    /// The machine has no certificate authorities.
    #[error(
        "server {server}: no certificate authority was found on this machine: \
         install ca-certificates or name the server's own authority"
    )]
    NoAuthorities {
        /// The server's name.
        server: String,
    },
    /// The name cannot stand in a certificate.
    #[error("server {server}: {name} cannot be the name of a TLS server")]
    ServerName {
        /// The server's name.
        server: String,
        /// The name that was given.
        name: String,
    },
    /// The user name has a colon, or a character cannot stand in a header.
    #[error("server {server}: the user name or the secret has a character that cannot be sent")]
    Authorization {
        /// The server's name.
        server: String,
    },
}

/// A server, ready to be dialled.
pub(crate) struct Endpoint {
    pub(crate) name: Arc<str>,
    pub(crate) host: Host,
    pub(crate) port: u16,
    /// `host` or `host:port`, as the authority of requests for the server itself.
    pub(crate) authority: String,
    pub(crate) server_name: ServerName<'static>,
    /// One per server: sessions are resumed only within one configuration.
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) authorization: Option<HeaderValue>,
    /// What to do where the server does not accept the credentials.
    pub(crate) advice: &'static str,
    pub(crate) timeouts: Timeouts,
}

impl Endpoint {
    pub(crate) fn new(server: &Server, timeouts: Timeouts) -> Result<Self, ConfigError> {
        Ok(Self {
            name: server.name.as_str().into(),
            host: server.host.clone(),
            port: server.port,
            authority: authority(&server.host, server.port),
            server_name: server_name(server)?,
            tls: tls::client_config(server)?,
            authorization: authorization(server)?,
            advice: match server.authorization {
                Some(Authorization::Password { .. }) => "check the user name and the password",
                Some(Authorization::Bearer(_)) => "check the token",
                None => "the profile has none for it",
            },
            timeouts,
        })
    }
}

fn authority(host: &Host, port: u16) -> String {
    let host = match host {
        Host::Name(name) => name.to_string(),
        Host::Address(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        Host::Address(address) => address.to_string(),
    };
    match port {
        443 => host,
        port => format!("{host}:{port}"),
    }
}

fn server_name(server: &Server) -> Result<ServerName<'static>, ConfigError> {
    let name = match (&server.server_name, &server.host) {
        (Some(name), _) | (None, Host::Name(name)) => name.to_string(),
        (None, Host::Address(address)) => return Ok((*address).into()),
    };
    ServerName::try_from(name.clone()).map_err(|_| ConfigError::ServerName {
        server: server.name.clone(),
        name,
    })
}

fn authorization(server: &Server) -> Result<Option<HeaderValue>, ConfigError> {
    let refused = || ConfigError::Authorization {
        server: server.name.clone(),
    };
    let text = match &server.authorization {
        None => return Ok(None),
        Some(Authorization::Password { user, password }) => {
            let password = password.expose();
            if user.contains(':') || user.chars().chain(password.chars()).any(char::is_control) {
                return Err(refused());
            }
            format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
        }
        Some(Authorization::Bearer(token)) => {
            if token.expose().is_empty() || !token.expose().bytes().all(|b| b.is_ascii_graphic()) {
                return Err(refused());
            }
            format!("Bearer {}", token.expose())
        }
    };
    let mut value = HeaderValue::try_from(text).map_err(|_| refused())?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        let authority = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
        Server {
            name: "one".into(),
            host: Host::Name(DomainName::parse("proxy.test").unwrap()),
            port: 8443,
            server_name: None,
            trust: Trust::Anchors(authority.cert.pem().into_bytes()),
            authorization: None,
        }
    }

    fn check(change: impl FnOnce(&mut Server), expected: &str) {
        let mut server = server();
        change(&mut server);
        let said = match Endpoint::new(&server, Timeouts::default()) {
            Ok(endpoint) => endpoint.authority,
            Err(error) => error.to_string(),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn tells_what_cannot_be_used() {
        let password = |user: &str, password: &str| Authorization::Password {
            user: user.into(),
            password: Secret::new(password),
        };
        let secret = "server one: the user name or the secret has a character that cannot be sent";
        check(|_| {}, "proxy.test:8443");
        check(|server| server.port = 443, "proxy.test");
        check(
            |server| server.host = Host::Address("2001:db8::1".parse().unwrap()),
            "[2001:db8::1]:8443",
        );
        check(
            |server| server.trust = Trust::Anchors(b"nothing".to_vec()),
            "server one: the trusted certificates cannot be read: there is no PEM certificate",
        );
        check(|s| s.authorization = Some(password("a:b", "c")), secret);
        check(
            |s| s.authorization = Some(password("a", "c\r\nX: y")),
            secret,
        );
        check(
            |s| s.authorization = Some(Authorization::Bearer(Secret::new("two words"))),
            secret,
        );
        check(
            |s| s.authorization = Some(password("ä", "ö")),
            "proxy.test:8443",
        );
    }

    #[test]
    fn never_prints_a_secret() {
        let authorization = Authorization::Bearer(Secret::new("token"));
        assert_eq!(format!("{authorization:?}"), "Bearer(***)");
    }
}
