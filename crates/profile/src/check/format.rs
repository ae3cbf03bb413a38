use std::net::IpAddr;
use std::ops::RangeInclusive;

use offramp_rules::{DomainName, Prefix, Resolver};

use super::{Fault, app};
use crate::keys::{Format, Key, OVERLAY_TYPE, OVERRIDABLE, PAYLOAD, Shape, TYPE};
use crate::profile::is_reserved;
use crate::url::ServerUrl;

impl Format {
    pub(crate) fn check(self, text: &str) -> Result<(), Fault> {
        match self {
            Format::Any => Ok(()),
            Format::NotEmpty | Format::KeyPath if text.trim().is_empty() => {
                Err(Fault::invalid("is empty"))
            }
            Format::NotEmpty | Format::KeyPath => Ok(()),
            Format::Type if text == TYPE => Ok(()),
            Format::Type => Err(Fault::later(format!("{text:?} is not a type known here"))
                .hint(format!("write {TYPE:?}"))),
            Format::OverlayType if text == OVERLAY_TYPE => Ok(()),
            Format::OverlayType => Err(Fault::invalid(format!("is not {OVERLAY_TYPE:?}"))),
            Format::Identifier if is_reserved(text) => {
                Err(Fault::invalid("ends like the names of users' own profiles")
                    .hint("leave out the ~ or the number behind it"))
            }
            Format::Identifier | Format::Token => label(text),
            Format::Overridable => overridable(text),
            Format::Domain => DomainName::parse(text)
                .map(drop)
                .map_err(|e| Fault::invalid(e.to_string()).hint(domain_hint(text))),
            Format::ExactDomain => DomainName::parse(text).map(drop).map_err(|e| {
                let hint = match text.starts_with("*.") {
                    true => "ExcludedDomains has names with those below them",
                    false => domain_hint(text),
                };
                Fault::invalid(e.to_string()).hint(hint)
            }),
            Format::Host => match text.parse::<IpAddr>() {
                Ok(_) => Ok(()),
                Err(_) => Format::Domain.check(text),
            },
            Format::Block => block(text).map(drop),
            Format::Synthetic4 => synthetic(text, true, 8..=22),
            Format::Synthetic6 => synthetic(text, false, 8..=112),
            Format::ServerUrl => server_url(text),
            Format::Asset => asset(text).map(drop),
            Format::Identity => app::identity(text),
            Format::Path => app::path(text),
            Format::Requirement => app::requirement(text),
            Format::User => app::user(text),
            Format::Resolver => resolver(text),
        }
    }
}

/// The NAME of `credential:NAME`, if it may be a file's name.
pub(crate) fn asset(text: &str) -> Result<&str, Fault> {
    // The text is not repeated: it may be a secret that somebody put in the wrong place.
    let Some(name) = text.strip_prefix("credential:") else {
        return Err(Fault::invalid("names no asset").hint(
            "write credential:NAME for the file credentials/NAME; secrets have no place here",
        ));
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(
            Fault::invalid("what is named cannot be the name of a credential")
                .hint("letters, digits, dots, dashes and underscores, no dot first"),
        );
    }
    Ok(name)
}

fn label(text: &str) -> Result<(), Fault> {
    if text.is_empty() {
        return Err(Fault::invalid("is empty"));
    }
    if text.len() > 64 {
        return Err(Fault::invalid(format!(
            "has {} octets, and may have 64",
            text.len()
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(Fault::invalid("has a control character"));
    }
    Ok(())
}

fn block(text: &str) -> Result<Prefix, Fault> {
    text.parse::<Prefix>().map_err(|e| {
        let fault = Fault::invalid(e.to_string());
        match text.parse::<IpAddr>() {
            Ok(address) => fault.hint(format!("write {}", Prefix::host(address))),
            Err(_) => fault,
        }
    })
}

fn resolver(text: &str) -> Result<(), Fault> {
    text.parse::<Resolver>().map(drop).map_err(|e| {
        let fault = Fault::invalid(e.to_string());
        match text.split_once("://") {
            Some((_, rest)) => {
                let host = rest.split(['/', ':', '?', '{']).next().unwrap_or_default();
                fault.hint(format!("write the host alone: {host}"))
            }
            None if text.contains('/') => fault,
            None => fault.hint(domain_hint(text)),
        }
    })
}

fn synthetic(text: &str, v4: bool, lengths: RangeInclusive<u8>) -> Result<(), Fault> {
    let block = block(text)?;
    if block.address().is_ipv4() != v4 {
        let family = if v4 { "IPv4" } else { "IPv6" };
        return Err(Fault::invalid(format!("is no {family} block")));
    }
    if !lengths.contains(&block.length()) {
        let (least, most) = (lengths.start(), lengths.end());
        return Err(Fault::invalid(format!(
            "the length has to be from {least} to {most}"
        )));
    }
    let taken = [
        "0.0.0.0/8",
        "127.0.0.0/8",
        "224.0.0.0/3",
        "::/8",
        "fe80::/10",
        "ff00::/8",
    ];
    let taken = taken.map(|text| text.parse().expect("all are blocks"));
    match taken.iter().find(|taken: &&Prefix| taken.overlaps(&block)) {
        Some(taken) => Err(Fault::invalid(format!(
            "overlaps {taken}, which has another use"
        ))),
        None => Ok(()),
    }
}

fn server_url(text: &str) -> Result<(), Fault> {
    let url = ServerUrl::parse(text)?;
    match url.credentials {
        None => Ok(()),
        Some(_) => Err(
            Fault::invalid("a user or password has no place in a profile")
                .hint("use Authentication with a CredentialsAssetReference"),
        ),
    }
}

fn overridable(text: &str) -> Result<(), Fault> {
    if OVERRIDABLE.contains(&text) {
        return Ok(());
    }
    let hint = format!("these can be given: {}", OVERRIDABLE.join(", "));
    let fault = match is_known(text, PAYLOAD) {
        true => Fault::invalid("cannot be given to users yet"),
        false => Fault::invalid(format!("there is no key {text:?}")),
    };
    Err(fault.hint(match text.strip_prefix("Payload.") {
        Some(bare) if OVERRIDABLE.contains(&bare) => format!("write {bare}"),
        _ => hint,
    }))
}

/// Whether the format has this path.
pub(crate) fn is_known(path: &str, keys: &[Key]) -> bool {
    let (first, rest) = match path.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    };
    keys.iter()
        .filter(|key| key.name == first)
        .any(|key| match (&key.shape, rest) {
            (_, None) => true,
            (Shape::Object(inner), Some(rest)) => is_known(rest, inner),
            (_, Some(_)) => false,
        })
}

fn domain_hint(text: &str) -> &'static str {
    match text.starts_with("*.") {
        true => "leave out the *.: a name covers all names below it",
        false => "write a host name such as example.com",
    }
}
