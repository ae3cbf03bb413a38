use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, Method, Uri, request};
use offramp_rules::{DomainName, Host, Target};

use crate::answer::Refusal;

/// The only template of RFC 9298 that is served.
const UDP_PATH: &str = "/.well-known/masque/udp/";
const CONNECT_UDP: &str = "connect-udp";

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A byte stream to the target.
    Tcp(Target),
    /// Datagrams to and from the target.
    Udp(Target),
    /// One lookup by the gateway's resolver.
    Dns,
}

impl Ask {
    /// Reads the head of a request. `protocol` is the `:protocol` of HTTP/2.
    pub(crate) fn read(head: &request::Parts, protocol: Option<&str>) -> Result<Self, Refusal> {
        match protocol {
            Some(CONNECT_UDP) => return udp_target(&head.uri).map(Ask::Udp),
            Some(_) => return Err(Refusal::UnknownProtocol),
            None => {}
        }
        if head.method == Method::CONNECT {
            return tcp_target(&head.uri).map(Ask::Tcp);
        }
        if asks_for_upgrade(&head.headers) {
            let upgrade = head.headers.get(UPGRADE).map(|value| value.as_bytes());
            if !upgrade.is_some_and(|value| value.eq_ignore_ascii_case(CONNECT_UDP.as_bytes())) {
                return Err(Refusal::UnknownProtocol);
            }
            if head.method != Method::GET {
                return Err(Refusal::Malformed("connect-udp wants GET"));
            }
            return udp_target(&head.uri).map(Ask::Udp);
        }
        if head.uri.path() != "/dns-query" {
            return Err(Refusal::NotFound);
        }
        let kind = head.headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
        if head.method != Method::POST || kind != Some(b"application/dns-message") {
            return Err(Refusal::Malformed(
                "a lookup is a POST of application/dns-message",
            ));
        }
        Ok(Ask::Dns)
    }
}

/// Whether an HTTP/1.1 request wants another protocol on its connection.
fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        && headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|option| option.trim().eq_ignore_ascii_case("upgrade"))
}

fn tcp_target(uri: &Uri) -> Result<Target, Refusal> {
    let malformed = Refusal::Malformed("CONNECT wants host:port");
    if uri.scheme().is_some() {
        return Err(malformed);
    }
    let Some(authority) = uri.authority() else {
        return Err(malformed);
    };
    if authority.as_str().contains('@') {
        return Err(malformed);
    }
    let host = authority.host();
    let host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(v6) => v6.parse().map(IpAddr::V6).map(Host::Address).ok(),
        None => read_host(host),
    };
    match (host, authority.port_u16()) {
        (Some(host), Some(port)) if port != 0 => Ok(Target { host, port }),
        _ => Err(malformed),
    }
}

fn udp_target(uri: &Uri) -> Result<Target, Refusal> {
    let malformed = || Refusal::Malformed("connect-udp wants a host and a port in its path");
    let rest = uri.path().strip_prefix(UDP_PATH).ok_or(Refusal::NotFound)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = rest.split_once('/').ok_or_else(malformed)?;
    let host = percent_decode(host).ok_or_else(malformed)?;
    let host = read_host(&host).ok_or_else(malformed)?;
    if port.is_empty() || !port.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(malformed());
    }
    match port.parse() {
        Ok(0) | Err(_) => Err(malformed()),
        Ok(port) => Ok(Target { host, port }),
    }
}

fn read_host(text: &str) -> Option<Host> {
    match text.parse() {
        Ok(address) => Some(Host::Address(address)),
        Err(_) => DomainName::parse(text).ok().map(Host::Name),
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        decoded.push((high << 4 | low) as u8);
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn read(request: request::Builder, protocol: Option<&str>) -> Result<String, u16> {
        let (head, ()) = request.body(()).unwrap().into_parts();
        match Ask::read(&head, protocol) {
            Ok(Ask::Tcp(target)) => Ok(format!("tcp {target}")),
            Ok(Ask::Udp(target)) => Ok(format!("udp {target}")),
            Ok(Ask::Dns) => Ok("dns".to_owned()),
            Err(refusal) => Err(refusal.status().as_u16()),
        }
    }

    #[track_caller]
    fn connect(authority: &str, expected: Result<&str, u16>) {
        let request = Request::builder().method(Method::CONNECT).uri(authority);
        assert_eq!(
            read(request, None),
            expected.map(|text| format!("tcp {text}"))
        );
    }

    #[track_caller]
    fn udp(path: &str, expected: Result<&str, u16>) {
        let expected = expected.map(|text| format!("udp {text}"));
        let uri = format!("https://gateway{path}");
        let request = Request::builder().method(Method::CONNECT).uri(uri);
        assert_eq!(read(request, Some("connect-udp")), expected);
        let request = Request::builder()
            .uri(path)
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "connect-udp");
        assert_eq!(read(request, None), expected);
    }

    #[test]
    fn a_connect_names_host_and_port() {
        connect("example.com:443", Ok("example.com:443"));
        connect("192.0.2.1:80", Ok("192.0.2.1:80"));
        connect("[2001:db8::1]:80", Ok("[2001:db8::1]:80"));
        connect("example.com", Err(400));
        connect("example.com:0", Err(400));
        connect("a@example.com:80", Err(400));
        connect("a..b:80", Err(400));
    }

    #[test]
    fn a_udp_path_names_host_and_port() {
        udp(
            "/.well-known/masque/udp/example.com/53/",
            Ok("example.com:53"),
        );
        udp(
            "/.well-known/masque/udp/2001%3Adb8%3A%3a1/53/",
            Ok("[2001:db8::1]:53"),
        );
        udp("/.well-known/masque/udp/192.0.2.1/53", Ok("192.0.2.1:53"));
        udp("/.well-known/masque/udp/192.0.2.1/+53/", Err(400));
        udp("/.well-known/masque/udp/192.0.2.1/65536/", Err(400));
        udp("/.well-known/masque/udp/%zz/53/", Err(400));
        udp("/.well-known/masque/udp/%e2%82/53/", Err(400));
        udp("/elsewhere", Err(404));
    }

    #[test]
    fn what_else_is_asked_is_refused() {
        let dns = || Request::post("/dns-query").header("content-type", "application/dns-message");
        assert_eq!(read(dns(), None), Ok("dns".to_owned()));
        assert_eq!(read(dns().method("PUT"), None), Err(400));
        assert_eq!(read(Request::get("/"), None), Err(404));
        assert_eq!(read(Request::get("http://example.com/"), None), Err(404));
        assert_eq!(read(dns(), Some("websocket")), Err(501));
        let websocket = Request::get("/").header("upgrade", "websocket");
        assert_eq!(
            read(websocket.header("connection", "upgrade"), None),
            Err(501)
        );
    }
}
