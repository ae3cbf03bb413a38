//! Where to, as people write it.

use std::net::IpAddr;

use offramp_control::{Code, ExplainTarget, Refusal};
use offramp_rules::{DomainName, Host, Target};

use crate::shared::ANYWHERE;

/// A target that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) host: Host,
    /// None for a look-up.
    pub(super) port: Option<u16>,
    /// As people know it.
    pub(super) shown: String,
}

impl Wanted {
    pub(super) fn read(target: &ExplainTarget) -> Result<Self, Refusal> {
        match target {
            ExplainTarget::Address(text) => address(text),
            ExplainTarget::Name(text) => {
                let name = name(text)?;
                Ok(Self {
                    shown: name.to_string(),
                    host: Host::Name(name),
                    port: None,
                })
            }
        }
    }

    /// What stands for every target that no list has.
    pub(super) fn anywhere() -> Self {
        Self {
            host: ANYWHERE,
            port: Some(443),
            shown: "any target that nothing excludes".into(),
        }
    }
}

impl From<Target> for Wanted {
    fn from(target: Target) -> Self {
        Self {
            shown: target.to_string(),
            host: target.host,
            port: Some(target.port),
        }
    }
}

/// `name:port`, `192.0.2.1:port`, `[2001:db8::1]:port`.
fn address(text: &str) -> Result<Wanted, Refusal> {
    let bad = |what: &str| {
        let message = format!("{text:?} is no HOST:PORT: {what}");
        Refusal::new(Code::BadRequest, message).hint(
            "such as example.com:443, 192.0.2.1:22 or [2001:db8::1]:443; for a look-up --name NAME",
        )
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("it has no port"))?;
    let port = port.parse().map_err(|_| bad("its port is no number"))?;
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let host = match (inner, host.parse::<IpAddr>()) {
        (Some(inner), _) => match inner.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => Host::Address(address.into()),
            _ => return Err(bad("what is in brackets is no IPv6 address")),
        },
        (None, Ok(IpAddr::V4(address))) => Host::Address(address.into()),
        (None, Ok(IpAddr::V6(_))) => return Err(bad("an IPv6 address stands in brackets")),
        (None, Err(_)) => Host::Name(name(host)?),
    };
    let host = match host {
        Host::Address(address) => Host::Address(address.to_canonical()),
        name => name,
    };
    Ok(Wanted::from(Target { host, port }))
}

fn name(text: &str) -> Result<DomainName, Refusal> {
    DomainName::parse(text)
        .map_err(|error| Refusal::new(Code::BadRequest, format!("{text:?} is no name: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Wanted, Refusal> {
        Wanted::read(&ExplainTarget::Address(text.into()))
    }

    #[test]
    fn targets_are_read_as_they_are_written() {
        for (text, shown) in [
            ("Example.com:443", "example.com:443"),
            ("192.0.2.1:22", "192.0.2.1:22"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1:80"),
        ] {
            let wanted = read(text).unwrap();
            assert_eq!(wanted.shown, shown);
            assert!(wanted.port.is_some());
        }
    }

    #[test]
    fn what_is_no_target_is_told() {
        for text in [
            "",
            "example.com",
            "example.com:x",
            "example.com:70000",
            "2001:db8::1:80",
            "[192.0.2.1]:80",
            "[x]:80",
            ":80",
        ] {
            let refusal = read(text).unwrap_err();
            assert_eq!(refusal.code, Code::BadRequest, "{text}");
        }
    }

    #[test]
    fn a_look_up_has_no_port() {
        let wanted = Wanted::read(&ExplainTarget::Name("a.example".into())).unwrap();
        assert_eq!(wanted.port, None);
        assert!(Wanted::read(&ExplainTarget::Name("a b".into())).is_err());
    }
}
