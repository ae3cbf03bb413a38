mod parse;

use std::fmt;

use crate::Program;

/// What else has to be true of a program: the condition `DesignatedRequirement`.
///
/// ```text
/// sha256 = "9f86…" or (owner = "root" and not sha256 = "60303a…")
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Requirement {
    /// `sha256 = "HEX"`: the content of the executable, or of the script.
    Sha256([u8; 32]),
    /// `owner = "NAME"` or `owner = "UID"`: the user whose file it is.
    Owner(String),
    /// `A and B`.
    And(Box<Requirement>, Box<Requirement>),
    /// `A or B`.
    Or(Box<Requirement>, Box<Requirement>),
    /// `not A`.
    Not(Box<Requirement>),
}

impl Requirement {
    /// Whether it is true of `program`. What is not known of it is not true, and its contrary is not
    /// true either.
    pub fn matches(&self, program: &Program) -> bool {
        self.holds(program).unwrap_or(false)
    }

    /// None: not known.
    fn holds(&self, program: &Program) -> Option<bool> {
        match self {
            Requirement::Sha256(wanted) => Some(program.sha256.as_ref()? == wanted),
            Requirement::Owner(wanted) => {
                let id = program.owner?;
                Some(program.owner_name.as_ref() == Some(wanted) || id.to_string() == *wanted)
            }
            Requirement::And(a, b) => match (a.holds(program), b.holds(program)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (a, b) => Some(a? && b?),
            },
            Requirement::Or(a, b) => match (a.holds(program), b.holds(program)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (a, b) => Some(a? || b?),
            },
            Requirement::Not(a) => Some(!a.holds(program)?),
        }
    }

    /// Whether the content of the file has to be read to tell.
    pub fn asks_for_hash(&self) -> bool {
        self.asks_for(|term| matches!(term, Requirement::Sha256(_)))
    }

    /// Whether it matters whose the file is.
    pub(crate) fn asks_for_owner(&self) -> bool {
        self.asks_for(|term| matches!(term, Requirement::Owner(_)))
    }

    fn asks_for(&self, is_meant: fn(&Requirement) -> bool) -> bool {
        match self {
            Requirement::Sha256(_) | Requirement::Owner(_) => is_meant(self),
            Requirement::And(a, b) | Requirement::Or(a, b) => {
                a.asks_for(is_meant) || b.asks_for(is_meant)
            }
            Requirement::Not(a) => a.asks_for(is_meant),
        }
    }
}

/// Why a text is not a [`Requirement`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct InvalidRequirement {
    /// Where, in octets from the beginning of the text.
    pub at: usize,
    /// What is wrong.
    pub what: String,
    /// Whether the term is part of the language and this build cannot prove it.
    pub is_unsupported: bool,
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Requirement::Sha256(hash) => {
                f.write_str("sha256 = \"")?;
                hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("\"")
            }
            Requirement::Owner(owner) => write!(f, "owner = \"{owner}\""),
            Requirement::And(a, b) => write!(f, "{} and {}", Within(a, 1), Within(b, 2)),
            Requirement::Or(a, b) => write!(f, "{} or {}", a, Within(b, 1)),
            Requirement::Not(a) => write!(f, "not {}", Within(a, 2)),
        }
    }
}

/// A part of a requirement where only what binds as strongly as this stands without parentheses.
struct Within<'a>(&'a Requirement, u8);

impl fmt::Display for Within<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Within(part, least) = self;
        let binds = match part {
            Requirement::Or(..) => 0,
            Requirement::And(..) => 1,
            _ => 2,
        };
        match binds < *least {
            true => write!(f, "({part})"),
            false => write!(f, "{part}"),
        }
    }
}
