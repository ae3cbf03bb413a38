use std::borrow::Borrow;
use std::fmt;

/// A host name in the one form that is compared: A-labels, lower case, no trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainName(Box<str>);

/// Why a text is not a host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing is left once the trailing dot is gone.
    #[error("the name is empty")]
    Empty,
    /// Two dots in a row, or one at the start.
    #[error("the name has an empty label")]
    EmptyLabel,
    /// Over 253 octets in all or 63 in one label (RFC 1035 section 2.3.4).
    #[error("the name or one of its labels is too long")]
    TooLong,
    /// Not a name that IDNA (UTS #46) or the DNS allows.
    #[error("the name has a character that names cannot have")]
    Forbidden,
}

impl DomainName {
    /// Reads a name as people and programs write it: any case, Unicode or A-labels, with or
    /// without a trailing dot. Underscores pass, because SRV and TXT owners have them.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        let ascii = idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::EMPTY)
            .map_err(|_| InvalidName::Forbidden)?;
        // UTS #46 maps other full stops to '.', so one may stand at the end only now.
        let ascii = ascii.strip_suffix('.').unwrap_or(&ascii);
        if ascii.is_empty() {
            return Err(InvalidName::Empty);
        }
        if ascii.len() > 253 {
            return Err(InvalidName::TooLong);
        }
        for label in ascii.split('.') {
            match label.len() {
                0 => return Err(InvalidName::EmptyLabel),
                1..=63 => {}
                _ => return Err(InvalidName::TooLong),
            }
            if !label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            {
                return Err(InvalidName::Forbidden);
            }
        }
        Ok(Self(ascii.into()))
    }

    /// The name without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `suffix` itself or below it: `a.example.com` is within `example.com`,
    /// `notexample.com` is not.
    pub fn is_within(&self, suffix: &DomainName) -> bool {
        match self.0.strip_suffix(&*suffix.0) {
            Some(rest) => rest.is_empty() || rest.ends_with('.'),
            None => false,
        }
    }
}

impl Borrow<str> for DomainName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, InvalidName>) {
        assert_eq!(
            DomainName::parse(text).as_ref().map(DomainName::as_str),
            expected.as_ref().copied()
        );
    }

    #[test]
    fn names_have_one_form() {
        check("Example.COM", Ok("example.com"));
        check("example.com.", Ok("example.com"));
        check("bücher.example", Ok("xn--bcher-kva.example"));
        check("XN--BCHER-KVA.example", Ok("xn--bcher-kva.example"));
        check("_sip._tcp.example.com", Ok("_sip._tcp.example.com"));
        check("localhost", Ok("localhost"));
        check("example。com。", Ok("example.com"));
    }

    #[test]
    fn what_is_no_name_says_why() {
        check("", Err(InvalidName::Empty));
        check(".", Err(InvalidName::Empty));
        check("a..b", Err(InvalidName::EmptyLabel));
        check(".a", Err(InvalidName::EmptyLabel));
        check("a b", Err(InvalidName::Forbidden));
        check("a/b", Err(InvalidName::Forbidden));
        check(&"a".repeat(64), Err(InvalidName::TooLong));
        check(&"a.".repeat(130), Err(InvalidName::TooLong));
    }

    #[test]
    fn a_suffix_ends_at_a_label() {
        let within = |a: &str, b: &str| {
            DomainName::parse(a)
                .unwrap()
                .is_within(&DomainName::parse(b).unwrap())
        };
        assert!(within("example.com", "example.com"));
        assert!(within("a.b.Example.com", "example.com."));
        assert!(!within("notexample.com", "example.com"));
        assert!(!within("com", "example.com"));
    }
}
