use std::fmt;
use std::str::FromStr;

use crate::User;

/// Whose processes a rule is about: the condition `User`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UserCondition {
    /// `alice`, or `alice@example.com` where a directory names users so.
    Name(String),
    /// `1000` or `1000-1999`, both ends included.
    Ids(u32, u32),
    /// `@wheel`: whoever is in this group.
    GroupName(String),
    /// `@1000` or `@1000-1999`.
    GroupIds(u32, u32),
}

impl UserCondition {
    /// Whether this user is meant.
    pub fn matches(&self, user: &User) -> bool {
        match self {
            UserCondition::Name(name) => user.name.as_ref() == Some(name),
            UserCondition::Ids(first, last) => (*first..=*last).contains(&user.id),
            UserCondition::GroupName(name) => user.group_names.contains(name),
            UserCondition::GroupIds(first, last) => {
                user.groups.range(*first..=*last).next().is_some()
            }
        }
    }

    /// Whether the real user id alone does not tell.
    pub fn asks_for_groups(&self) -> bool {
        matches!(
            self,
            UserCondition::GroupName(_) | UserCondition::GroupIds(..)
        )
    }
}

/// Why a text is not a [`UserCondition`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUser {
    /// Nothing is named.
    #[error("nobody is named")]
    Empty,
    /// A range that ends before it begins, or numbers that no id has.
    #[error("{0} is no range of ids")]
    Range(String),
    /// Neither a name nor a number.
    #[error("{0:?} is no name of a user or group")]
    Name(String),
}

impl FromStr for UserCondition {
    type Err = InvalidUser;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (named, is_group) = match text.strip_prefix('@') {
            Some(group) => (group, true),
            None => (text, false),
        };
        if named.is_empty() {
            return Err(InvalidUser::Empty);
        }
        if named.starts_with(|c: char| c.is_ascii_digit()) {
            let (first, last) = ids(named).ok_or_else(|| InvalidUser::Range(named.to_owned()))?;
            return Ok(match is_group {
                true => UserCondition::GroupIds(first, last),
                false => UserCondition::Ids(first, last),
            });
        }
        // Names from a directory may be alice@example.com, or domain users@example.com.
        let is_name = named.trim() == named
            && !named.starts_with(['-', '@'])
            && !named.contains(|c: char| c.is_control() || matches!(c, ':' | '/' | ','));
        if !is_name {
            return Err(InvalidUser::Name(named.to_owned()));
        }
        Ok(match is_group {
            true => UserCondition::GroupName(named.to_owned()),
            false => UserCondition::Name(named.to_owned()),
        })
    }
}

fn ids(text: &str) -> Option<(u32, u32)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let id = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().ok(),
        false => None,
    };
    let (first, last) = (id(first)?, id(last)?);
    (first <= last).then_some((first, last))
}

impl fmt::Display for UserCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UserCondition::Name(name) => f.write_str(name),
            UserCondition::Ids(first, last) if first == last => write!(f, "{first}"),
            UserCondition::Ids(first, last) => write!(f, "{first}-{last}"),
            UserCondition::GroupName(name) => write!(f, "@{name}"),
            UserCondition::GroupIds(first, last) if first == last => write!(f, "@{first}"),
            UserCondition::GroupIds(first, last) => write!(f, "@{first}-{last}"),
        }
    }
}
