use std::fmt;

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

    /// The units of the system that it is in: slices, services and scopes. What stands below
    /// `user@UID.service` is named by that user and is not among them.
    pub fn system_units(&self) -> impl Iterator<Item = &str> {
        let all = self.0.split('/').count();
        self.0
            .split('/')
            .take(self.users_part().unwrap_or(all))
            .filter(|part| !part.is_empty())
    }

    /// The units of a user's own service manager that it is in.
    pub fn user_units(&self) -> impl Iterator<Item = &str> {
        let all = self.0.split('/').count();
        self.0.split('/').skip(self.users_part().unwrap_or(all))
    }

    /// Whether a unit here is one of this Flatpak: `app-flatpak-ID-N.scope`.
    pub fn is_flatpak(&self, id: &str) -> bool {
        self.user_units().any(|unit| {
            app_part(unit)
                .and_then(|rest| rest.strip_prefix("flatpak-"))
                .is_some_and(|rest| is_instance(rest, id))
        })
    }

    /// Whether a unit here is one of this snap: `snap.NAME.APP-UUID.scope`, `snap.NAME.APP.service`.
    pub fn is_snap(&self, name: &str) -> bool {
        self.0.split('/').any(|unit| {
            unit.strip_prefix("snap.")
                .and_then(|rest| rest.strip_prefix(name))
                .is_some_and(|rest| rest.starts_with(['.', '-']))
        })
    }

    /// Whether a unit here is one that a desktop made for this entry: `app[-LAUNCHER]-ID-RANDOM.scope`
    /// and their like (systemd's DESKTOP_ENVIRONMENTS.md).
    pub fn is_desktop(&self, id: &str) -> bool {
        self.user_units().any(|unit| {
            app_part(unit).is_some_and(|rest| {
                is_instance(rest, id)
                    || rest
                        .split_once('-')
                        .is_some_and(|(_, rest)| is_instance(rest, id))
            })
        })
    }

    /// How many parts stand before those that a user names.
    fn users_part(&self) -> Option<usize> {
        let is_manager = |part: &str| part.starts_with("user@") && part.ends_with(".service");
        self.0.split('/').position(is_manager).map(|at| at + 1)
    }
}

impl fmt::Display for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

/// What stands behind `app-` in the name of a unit, without its kind.
fn app_part(unit: &str) -> Option<&str> {
    let name = [".scope", ".service", ".slice"]
        .iter()
        .find_map(|kind| unit.strip_suffix(kind))?;
    name.strip_prefix("app-")
}

/// Whether `text` is `ID`, `ID-RANDOM` or `ID@RANDOM`, the ID escaped as systemd does or not.
fn is_instance(text: &str, id: &str) -> bool {
    [escape(id), id.to_owned()].iter().any(|id| {
        text.strip_prefix(id.as_str()).is_some_and(|rest| {
            rest.is_empty()
                || rest.starts_with('@')
                || rest
                    .strip_prefix('-')
                    .is_some_and(|random| !random.contains('-'))
        })
    })
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
