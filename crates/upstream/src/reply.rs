use http::{HeaderMap, StatusCode};

use crate::config::Endpoint;
use crate::error::{ConnectError, OpenError};

/// What an open does next.
pub(crate) enum Failure {
    /// The connection ended before an answer: another one may do.
    Stale(String),
    /// The server's fault: another server may do.
    Server(OpenError),
    /// No server would do better.
    Target(OpenError),
}

/// Says whose fault an answer is that is not a success.
pub(crate) fn judge(endpoint: &Endpoint, status: StatusCode, headers: &HeaderMap) -> Failure {
    let server = endpoint.name.to_string();
    // Envoy answers 401 where RFC 9110 wants 407.
    if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED || status == StatusCode::UNAUTHORIZED {
        return Failure::Server(OpenError::Unauthorized {
            server,
            status: status.as_u16(),
            advice: endpoint.advice,
        });
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Failure::Server(OpenError::Unavailable {
            server: server.clone(),
            source: ConnectError::LockedOut { server }.into(),
        });
    }
    let error = proxy_error(headers);
    Failure::Target(match (error, status) {
        (Some("dns_error" | "dns_timeout"), _) => OpenError::Unresolved { server },
        (Some("connection_timeout" | "connection_read_timeout"), _)
        | (None, StatusCode::GATEWAY_TIMEOUT) => OpenError::Timeout { server },
        (Some("destination_ip_prohibited" | "http_request_denied"), _)
        | (None, StatusCode::FORBIDDEN) => OpenError::Forbidden { server },
        (Some(error), _) => OpenError::Refused {
            server,
            detail: format!("{} ({error})", status.as_u16()),
        },
        (None, _) => OpenError::Refused {
            server,
            detail: format!("status {}", status.as_u16()),
        },
    })
}

/// The `error` parameter of the first member of `Proxy-Status` that has one (RFC 9209).
pub(crate) fn proxy_error(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all("proxy-status")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([';', ',']))
        .find_map(|part| part.trim().strip_prefix("error="))
        .map(|error| error.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Server, Timeouts, Trust};

    fn endpoint() -> Endpoint {
        let authority = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
        let server = Server {
            name: "p".into(),
            host: offramp_rules::Host::Address([127, 0, 0, 1].into()),
            port: 443,
            server_name: None,
            trust: Trust::Anchors(authority.cert.pem().into_bytes()),
            authorization: None,
        };
        Endpoint::new(&server, Timeouts::default()).unwrap()
    }

    #[test]
    fn blames_the_right_one() {
        let endpoint = endpoint();
        for (status, proxy_status, expected) in [
            (
                407,
                "",
                "server: p does not accept the credentials (status 407): the profile has none for it",
            ),
            (
                401,
                "",
                "server: p does not accept the credentials (status 401): the profile has none for it",
            ),
            (429, "", "server: p is not available"),
            (403, "", "target: p does not allow this target"),
            (504, "", "target: the target did not answer p in time"),
            (
                502,
                "",
                "target: p could not connect to the target: status 502",
            ),
            (
                503,
                "",
                "target: p could not connect to the target: status 503",
            ),
            (
                502,
                "gw; error=connection_refused; next-hop=\"x\"",
                "target: p could not connect to the target: 502 (connection_refused)",
            ),
            (
                502,
                "a, b;error=dns_error",
                "target: p could not find the target's name",
            ),
            (
                502,
                "gw;error=connection_timeout",
                "target: the target did not answer p in time",
            ),
            (
                502,
                "gw; error=destination_ip_prohibited",
                "target: p does not allow this target",
            ),
        ] {
            let mut headers = HeaderMap::new();
            if !proxy_status.is_empty() {
                headers.insert("proxy-status", proxy_status.parse().unwrap());
            }
            let said = match judge(&endpoint, StatusCode::from_u16(status).unwrap(), &headers) {
                Failure::Stale(why) => format!("stale: {why}"),
                Failure::Server(error) => format!("server: {error}"),
                Failure::Target(error) => format!("target: {error}"),
            };
            assert_eq!(said, expected, "{status} {proxy_status}");
        }
    }
}
