use std::fmt;
use std::path::Path;
use std::str::FromStr;

use glob::{MatchOptions, Pattern};

use crate::InvalidIdentity;

/// A pattern of `*`, `?` and `[…]`; without any of them, the text itself. None of them stands for a
/// `/`; `**` between slashes stands for any number of parts, and for one at least where it is the last.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Glob {
    text: String,
    /// What stands between the slashes; empty where there is no wildcard.
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Part {
    /// `**`
    Any,
    Like(Pattern),
}

impl Glob {
    /// Whether `text` is like this.
    pub fn matches(&self, text: &str) -> bool {
        if self.is_literal() {
            return self.text == text;
        }
        text.starts_with(self.literal()) && is_like(&self.parts, text)
    }

    /// Whether `path` is like this; octets that are no UTF-8 are as one unknown character.
    pub fn matches_path(&self, path: &Path) -> bool {
        self.matches(&path.to_string_lossy())
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text up to the first wildcard.
    pub fn literal(&self) -> &str {
        &self.text[..self.text.find(WILDCARDS).unwrap_or(self.text.len())]
    }

    /// Whether it has no wildcard.
    pub fn is_literal(&self) -> bool {
        self.parts.is_empty()
    }
}

pub(crate) const WILDCARDS: [char; 3] = ['*', '?', '['];

/// Compares part by part. The library alone would go back over all that several `*` may stand for in
/// each of several parts: more time than a profile of a user may take.
fn is_like(parts: &[Part], text: &str) -> bool {
    let options = MatchOptions {
        case_sensitive: true,
        require_literal_separator: false,
        require_literal_leading_dot: false,
    };
    if let [Part::Like(pattern)] = parts {
        return !text.contains('/') && pattern.matches_with(text, options);
    }
    let texts: Vec<&str> = text.split('/').collect();
    let (mut part, mut at) = (0, 0);
    // Where the last `**` stands, and how far it reaches.
    let mut any = None;
    while at < texts.len() {
        match (parts.get(part), any) {
            (Some(Part::Any), _) => {
                any = Some((part, at));
                part += 1;
            }
            (Some(Part::Like(pattern)), _) if pattern.matches_with(texts[at], options) => {
                part += 1;
                at += 1;
            }
            (_, Some((begin, end))) => {
                any = Some((begin, end + 1));
                part = begin + 1;
                at = end + 1;
            }
            (_, None) => return false,
        }
    }
    part == parts.len()
}

impl FromStr for Glob {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let part = |part: &str| match part {
            "**" => Ok(Part::Any),
            part => Pattern::new(part)
                .map(Part::Like)
                .map_err(|e| InvalidIdentity::Pattern(e.msg.to_owned())),
        };
        let parts = match text.contains(WILDCARDS) {
            true => text.split('/').map(part).collect::<Result<_, _>>()?,
            false => Vec::new(),
        };
        let text = text.to_owned();
        Ok(Self { text, parts })
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
