use std::net::IpAddr;

use offramp_rules::{DomainName, Host};

use crate::check::Fault;
use crate::secret::Secret;

/// The parts of `https://HOST:PORT`, with `USER:PASSWORD@` where that is allowed.
#[derive(Debug)]
pub(crate) struct ServerUrl {
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) credentials: Option<Secret>,
}

/// What else proxies are reached by; other text before `://` may be anything.
const SCHEMES: [&str; 10] = [
    "http",
    "socks",
    "socks4",
    "socks4a",
    "socks5",
    "socks5h",
    "socks5+tls",
    "h2",
    "h3",
    "ssh",
];

impl ServerUrl {
    /// Reads a URL. A fault never repeats the text: there may be a password in it.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        let hint = "write https://HOST:PORT";
        let rest = match text.split_once("://") {
            Some(("https", rest)) => rest,
            Some((scheme, _)) if SCHEMES.contains(&scheme) => {
                return Err(Fault::later(format!("{scheme}:// is not supported")).hint(hint));
            }
            _ => return Err(Fault::invalid("is no URL").hint(hint)),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            let message = "a path, query or fragment has no place here";
            return Err(Fault::invalid(message).hint(hint));
        }
        let (credentials, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => (Some(credentials(user)?), authority),
            None => (None, rest),
        };
        let (host, port) = split_port(authority)?;
        Ok(Self {
            host: parse_host(host).map_err(|fault| fault.hint(hint))?,
            port,
            credentials,
        })
    }
}

impl ServerUrl {
    /// The host, as the server's name where it has no other.
    pub(crate) fn name(&self) -> String {
        match &self.host {
            Host::Name(name) => name.to_string(),
            Host::Address(address) => address.to_string(),
        }
    }
}

/// `USER:PASSWORD` with `%41` and the like decoded.
fn credentials(text: &str) -> Result<Secret, Fault> {
    let wrong = || Fault::invalid("the part before @ has to be USER:PASSWORD");
    if !text.contains(':') || text.starts_with(':') {
        return Err(wrong());
    }
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first == b'%' {
            let digits = behind.get(..2).ok_or_else(wrong)?;
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            decoded.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
            rest = &behind[2..];
        } else {
            decoded.push(first);
        }
    }
    if decoded.iter().any(u8::is_ascii_control) {
        return Err(wrong());
    }
    String::from_utf8(decoded)
        .map(Secret::from)
        .map_err(|_| wrong())
}

fn split_port(authority: &str) -> Result<(&str, u16), Fault> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let number = match port {
        None => 443,
        Some(port) => Some(port)
            .filter(|port| port.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|port| port.parse().ok())
            .filter(|port| *port != 0)
            .ok_or_else(|| Fault::invalid("the port has to be a number from 1 to 65535"))?,
    };
    Ok((host, number))
}

fn parse_host(text: &str) -> Result<Host, Fault> {
    if let Some(inner) = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
    {
        return match inner.parse::<IpAddr>() {
            Ok(address @ IpAddr::V6(_)) => Ok(Host::Address(address)),
            _ => Err(Fault::invalid("there is no IPv6 address in the brackets")),
        };
    }
    if text.contains(':') {
        return Err(Fault::invalid("an IPv6 address has to be in brackets"));
    }
    host(text)
}

/// A name or an address.
pub(crate) fn host(text: &str) -> Result<Host, Fault> {
    if let Ok(address) = text.parse() {
        return Ok(Host::Address(address));
    }
    DomainName::parse(text)
        .map(Host::Name)
        .map_err(|e| Fault::invalid(format!("the host is wrong: {e}")))
}
