use std::collections::BTreeSet;
use std::fmt;

use crate::Bundle;

/// A place in the tree of control groups (cgroup v2), as systemd names them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cgroup(String);

impl Cgroup {
    /// The place at this path below the root, such as `/system.slice/cups.service`.
    pub fn new(path: &str) -> Self {
        Self(path.trim_matches('/').to_owned())
    }

    /// Whether it is at `path` or below.
    pub fn is_within(&self, path: &str) -> bool {
        let path = path.trim_matches('/');
        path.is_empty()
            || self
                .0
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The slices and the one service or scope of the system that it is in. What stands below that is
    /// named by whoever has the unit, such as a user or a container, and is no unit of the system.
    pub fn system_units(&self) -> impl Iterator<Item = &str> {
        self.units().0.into_iter()
    }

    /// The slices and the one service or scope of a user's own service manager that it is in.
    pub fn user_units(&self) -> impl Iterator<Item = &str> {
        self.units().1.into_iter()
    }

    /// The units of the system, and those of a user.
    pub(crate) fn units(&self) -> (Vec<&str>, Vec<&str>) {
        let mut parts = self.0.split('/');
        let system = next_units(&mut parts);
        let is_manager = |unit: &&str| unit.starts_with("user@") && unit.ends_with(".service");
        let user = match system.last().is_some_and(is_manager) {
            true => next_units(&mut parts),
            false => Vec::new(),
        };
        (system, user)
    }

    /// All that the names of its units may say that an app was installed as. A unit whose name was
    /// not escaped as it should be can be read in several ways.
    pub(crate) fn bundles(&self) -> BTreeSet<Bundle> {
        let (system, user) = self.units();
        let mut found = BTreeSet::new();
        for unit in system.iter().chain(&user) {
            // snap.NAME.APP-UUID.scope, snap.NAME.APP.service
            if let Some((name, _)) = unit
                .strip_prefix("snap.")
                .and_then(|rest| rest.split_once('.'))
            {
                found.insert(Bundle::Snap(name.to_owned()));
            }
        }
        for unit in user.iter().filter_map(|unit| without_kind(unit)) {
            // What D-Bus starts by the name of an app: dbus-:1.2-ID@0.service
            if let Some(rest) = unit.strip_prefix("dbus-") {
                let behind = rest.split_once('-').map_or("", |(_, id)| id);
                found.extend(instances(behind).map(Bundle::Desktop));
            }
            // app[-LAUNCHER]-ID-RANDOM.scope and its like: systemd's DESKTOP_ENVIRONMENTS.md
            let Some(rest) = unit.strip_prefix("app-") else {
                continue;
            };
            found.extend(instances(rest).map(Bundle::Desktop));
            if let Some((launcher, rest)) = rest.split_once('-') {
                found.extend(instances(rest).map(Bundle::Desktop));
                if launcher == "flatpak" {
                    found.extend(instances(rest).map(Bundle::Flatpak));
                }
            }
        }
        found
    }
}

impl fmt::Display for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

/// Slices stand in slices, up to one unit with processes of its own.
fn next_units<'a>(parts: &mut impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut units = Vec::new();
    for part in parts {
        let is_slice = part.ends_with(".slice");
        if is_slice || KINDS.iter().any(|kind| part.ends_with(kind)) {
            units.push(part);
        }
        if !is_slice {
            break;
        }
    }
    units
}

/// How the names of units end that processes are in, besides slices.
const KINDS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

fn without_kind(unit: &str) -> Option<&str> {
    [".scope", ".service", ".slice"]
        .iter()
        .find_map(|kind| unit.strip_suffix(kind))
}

/// The ids that `text` may be an instance of: it is `ID`, `ID-RANDOM` or `ID@RANDOM`, the ID escaped
/// as systemd does or not.
fn instances(text: &str) -> impl Iterator<Item = String> {
    let ends = text.match_indices('@').map(|(at, _)| at);
    ends.chain(text.rfind('-'))
        .chain([text.len()])
        .map(|end| &text[..end])
        .filter(|id| !id.is_empty())
        .flat_map(|id| [Some(id.to_owned()), unescape(id)])
        .flatten()
}

/// Reads a name back that [`escape`] wrote; none where it did not.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once("\\x") {
        bytes.extend_from_slice(plain.as_bytes());
        bytes.push(u8::from_str_radix(escaped.get(..2)?, 16).ok()?);
        rest = &escaped[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    let name = String::from_utf8(bytes).ok()?;
    (escape(&name) == text).then_some(name)
}

/// Writes a name as systemd has it in the name of a unit: systemd-escape(1).
pub(crate) fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for (i, byte) in name.bytes().enumerate() {
        match byte {
            b'/' => escaped.push('-'),
            b'.' if i == 0 => escaped.push_str("\\x2e"),
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b':' | b'_' | b'.' => {
                escaped.push(char::from(byte));
            }
            other => escaped.push_str(&format!("\\x{other:02x}")),
        }
    }
    escaped
}
