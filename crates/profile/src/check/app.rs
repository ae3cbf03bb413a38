//! What names apps, and what people write instead.

use std::path::Path;

use offramp_rules::{Identity, InvalidIdentity, Requirement, UserCondition};

use super::Fault;

/// The longest text, in octets: what Linux takes as a path.
const LONGEST: usize = 4096;

/// The kinds of `SigningIdentifier`, with what stands behind them.
const KINDS: [(&str, &str); 8] = [
    ("exe", "NAME or exe:/PATH"),
    ("unit", "NAME.service"),
    ("user-unit", "NAME.service"),
    ("cgroup", "/PATH"),
    ("flatpak", "ID"),
    ("snap", "NAME"),
    ("app", "ID"),
    ("wrapper", "ID"),
];

/// Words for a kind that others use.
const OTHER_WORDS: [(&str, &str); 16] = [
    ("bundle", "app"),
    ("desktop", "app"),
    ("exec", "exe"),
    ("executable", "exe"),
    ("file", "exe"),
    ("name", "exe"),
    ("path", "exe"),
    ("process", "exe"),
    ("program", "exe"),
    ("script", "exe"),
    ("profile", "wrapper"),
    ("run", "wrapper"),
    ("scope", "unit"),
    ("service", "unit"),
    ("slice", "unit"),
    ("systemd", "unit"),
];

/// Units in which no process runs.
const EMPTY_UNITS: [&str; 8] = [
    ".automount",
    ".device",
    ".mount",
    ".path",
    ".socket",
    ".swap",
    ".target",
    ".timer",
];

pub(super) fn identity(text: &str) -> Result<(), Fault> {
    is_short(text)?;
    let (kind, named) = text.split_once(':').unwrap_or(("", text));
    if kind == "exe" && named.ends_with('/') {
        let hint = format!("write {text}NAME for one program in it, {text}* for all");
        return Err(Fault::invalid("names a directory").hint(hint));
    }
    if let ("unit" | "user-unit", Some(empty)) =
        (kind, EMPTY_UNITS.iter().find(|end| named.ends_with(**end)))
    {
        let hint = format!("write {}.service", text.trim_end_matches(empty));
        let message = "processes run in services, scopes and slices alone";
        return Err(Fault::invalid(message).hint(hint));
    }
    text.parse::<Identity>().map(drop).map_err(|error| {
        let fault = Fault::invalid(error.to_string());
        match identity_hint(text, kind, named, &error) {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    })
}

fn identity_hint(text: &str, kind: &str, named: &str, error: &InvalidIdentity) -> Option<String> {
    let about = |kind: &str| KINDS.iter().find(|(known, _)| *known == kind);
    Some(match error {
        InvalidIdentity::Nothing => kinds(),
        InvalidIdentity::Empty(kind) => match about(kind) {
            Some((_, what)) => format!("write {kind}:{what}"),
            None => kinds(),
        },
        InvalidIdentity::UnknownKind(kind) => {
            let kind = kind.to_lowercase();
            let other = OTHER_WORDS.iter().find(|(word, _)| *word == kind);
            let meant = other.map_or(&*kind, |(_, meant)| meant);
            match about(meant) {
                Some((meant, _)) => format!("write {meant}:{named}"),
                None => kinds(),
            }
        }
        InvalidIdentity::Relative if named.starts_with('~') => {
            "write the whole path, such as /home/NAME/bin/tool".to_owned()
        }
        InvalidIdentity::Relative => match Path::new(named).file_name() {
            Some(name) if kind == "exe" => format!(
                "write the whole path, or exe:{} for every program of this name",
                name.display()
            ),
            _ => format!("write {kind}:/{named}"),
        },
        InvalidIdentity::Slash if kind.is_empty() => match text.starts_with('/') {
            true => format!("write exe:{text}"),
            false => kinds(),
        },
        InvalidIdentity::Slash if kind.ends_with("unit") => {
            "write the unit's name alone, or cgroup:/PATH".to_owned()
        }
        InvalidIdentity::Dots => "write the path that it leads to".to_owned(),
        InvalidIdentity::EmptyPart => "write one / at a time".to_owned(),
        InvalidIdentity::Wildcard => "write a rule for each".to_owned(),
        InvalidIdentity::Pattern(_) => "write [[] for a [ that is meant".to_owned(),
        _ => return None,
    })
}

fn kinds() -> String {
    let mut kinds = String::from("write one of ");
    for (kind, _) in KINDS {
        kinds += kind;
        kinds += ":, ";
    }
    kinds + "with a name behind it"
}

pub(super) fn path(text: &str) -> Result<(), Fault> {
    is_short(text)?;
    if text.is_empty() {
        return Err(Fault::invalid("is empty"));
    }
    if !text.starts_with('/') {
        let fault = Fault::invalid("is relative, and has to begin with /");
        return Err(match text.starts_with("exe:/") {
            true => fault.hint("leave out the exe:"),
            false => fault.hint(match text.contains('/') {
                true => "write the whole path, such as /usr/bin/tool".to_owned(),
                false => format!("write the whole path, such as /usr/bin/{text}"),
            }),
        });
    }
    if text.split('/').any(|part| part == "." || part == "..") {
        return Err(
            Fault::invalid("must not hold . or .. parts").hint("write the path that it leads to")
        );
    }
    if text.contains("//") {
        return Err(Fault::invalid("must not hold //").hint("write one / at a time"));
    }
    if text.ends_with('/') {
        return Err(Fault::invalid("names a directory").hint("write the path of one file"));
    }
    // A lone [ is no wildcard: /usr/bin/[ is a program.
    if text.contains(['*', '?']) {
        let hint = format!("leave Path out, and write \"SigningIdentifier\": \"exe:{text}\"");
        return Err(Fault::invalid("is one path, and no pattern").hint(hint));
    }
    Ok(())
}

pub(super) fn requirement(text: &str) -> Result<(), Fault> {
    is_short(text)?;
    text.parse::<Requirement>().map(drop).map_err(|error| {
        let mut fault = match error.is_unsupported {
            true => Fault::later(error.what)
                .hint("this build proves sha256 and owner: leave the term or the rule out"),
            false => Fault::invalid(error.what),
        };
        fault.inside = Some(error.at);
        fault
    })
}

pub(super) fn user(text: &str) -> Result<(), Fault> {
    is_short(text)?;
    text.parse::<UserCondition>().map(drop).map_err(|error| {
        let fault = Fault::invalid(error.to_string());
        let group = ["group:", "%", "g:"]
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix));
        let hint = match (group, text.strip_prefix("user:")) {
            (Some(group), _) => format!("write @{group}"),
            (_, Some(user)) => format!("write {user}"),
            _ if text.contains([',', ' ']) => "name one, and write a rule for each".to_owned(),
            _ => "write NAME, UID, UID-UID, @GROUP, @GID or @GID-GID".to_owned(),
        };
        fault.hint(hint)
    })
}

fn is_short(text: &str) -> Result<(), Fault> {
    if text.contains('\0') {
        return Err(Fault::invalid("has a NUL character"));
    }
    match text.len() {
        0..=LONGEST => Ok(()),
        length => Err(Fault::invalid(format!(
            "has {length} octets, and may have {LONGEST}"
        ))),
    }
}
