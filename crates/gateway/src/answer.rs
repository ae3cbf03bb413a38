use std::io;

use http::header::{HeaderName, PROXY_AUTHENTICATE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Why a request gets no flow.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    #[error("credentials are missing or wrong")]
    Unauthenticated,
    #[error("too many wrong credentials from this address")]
    TooManyAttempts,
    #[error("the target's address is private")]
    AddressForbidden,
    #[error("the target's port is not open to clients")]
    PortForbidden,
    #[error("no such resource")]
    NotFound,
    #[error("the protocol to upgrade to is unknown")]
    UnknownProtocol,
    #[error("the limit of flows is reached")]
    Full,
    #[error("the name cannot be resolved")]
    Dns(#[source] io::Error),
    #[error("the target does not answer in time")]
    Timeout,
    #[error("the target cannot be reached")]
    Connect(#[source] io::Error),
}

impl Refusal {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
            Refusal::Unauthenticated => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            Refusal::TooManyAttempts => StatusCode::TOO_MANY_REQUESTS,
            Refusal::AddressForbidden | Refusal::PortForbidden => StatusCode::FORBIDDEN,
            Refusal::NotFound => StatusCode::NOT_FOUND,
            Refusal::UnknownProtocol => StatusCode::NOT_IMPLEMENTED,
            Refusal::Full => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Dns(_) | Refusal::Connect(_) => StatusCode::BAD_GATEWAY,
            Refusal::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The error type of RFC 9209 section 2.3.
    fn proxy_error(&self) -> Option<&'static str> {
        Some(match self {
            Refusal::Malformed(_) => "http_request_error",
            Refusal::AddressForbidden => "destination_ip_prohibited",
            Refusal::PortForbidden => "http_request_denied",
            Refusal::Full => "connection_limit_reached",
            Refusal::Dns(_) => "dns_error",
            Refusal::Timeout => "connection_timeout",
            Refusal::Connect(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => "connection_refused",
                io::ErrorKind::ConnectionReset => "connection_terminated",
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                    "destination_ip_unroutable"
                }
                _ => "proxy_internal_error",
            },
            Refusal::Unauthenticated
            | Refusal::TooManyAttempts
            | Refusal::NotFound
            | Refusal::UnknownProtocol => return None,
        })
    }

    /// The head of the answer, the same for all versions of HTTP.
    pub(crate) fn head(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        if let Some(error) = self.proxy_error() {
            let value = format!("offramp-gateway; error={error}");
            let value = HeaderValue::try_from(value).expect("all error types are plain ASCII");
            headers.insert(PROXY_STATUS, value);
        }
        match self {
            Refusal::Unauthenticated => {
                let basic = HeaderValue::from_static("Basic realm=\"offramp\", charset=\"UTF-8\"");
                headers.insert(PROXY_AUTHENTICATE, basic);
                let bearer = HeaderValue::from_static("Bearer realm=\"offramp\"");
                headers.append(PROXY_AUTHENTICATE, bearer);
            }
            Refusal::TooManyAttempts => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("60"));
            }
            _ => {}
        }
        response
    }
}
