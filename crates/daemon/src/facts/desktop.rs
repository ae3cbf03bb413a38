//! What desktop entries execute, after the Desktop Entry Specification.

use std::path::{Path, PathBuf};

use super::file::Opened;

/// Longer entries are not read.
const LONGEST: usize = 256 << 10;
/// Programs that start another that they are told of, and are not themselves what an entry means.
const LAUNCHERS: [&str; 2] = ["flatpak", "snap"];

/// The commands of an installed entry, with those of its actions.
pub(super) fn commands(entry: &Opened) -> Vec<Vec<String>> {
    let text = entry.head(LONGEST);
    commands_of(&String::from_utf8_lossy(&text), |program| {
        super::search::installed(program).is_some()
    })
}

pub(super) fn commands_of(text: &str, is_installed: impl Fn(&str) -> bool) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let mut is_of_entry = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            is_of_entry = line == "[Desktop Entry]" || line.starts_with("[Desktop Action ");
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| is_of_entry) else {
            continue;
        };
        let value = unescape(value.trim_start());
        match key.trim_end() {
            "Hidden" if value == "true" => return Vec::new(),
            "TryExec" if !is_installed(&value) => return Vec::new(),
            "Exec" => commands.push(split(&value)),
            _ => {}
        }
    }
    commands
}

/// What opens links to web pages, and how it is installed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Browser {
    /// By the commands of its entry.
    Entry,
    Flatpak(String),
    Snap(String),
}

/// What an installed entry means, where it opens links to web pages.
pub(super) fn browser(entry: &Opened) -> Option<Browser> {
    let text = entry.head(LONGEST);
    browser_of(&String::from_utf8_lossy(&text), |program| {
        super::search::installed(program).is_some()
    })
}

/// The type of links to web pages (Shared MIME-info Specification, section 2.13).
const WEB_LINK: &str = "x-scheme-handler/https";

fn browser_of(text: &str, is_installed: impl Fn(&str) -> bool) -> Option<Browser> {
    let own = text.lines().map(str::trim);
    let own = own.skip_while(|line| *line != "[Desktop Entry]").skip(1);
    let keys = own
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('='));
    let value = |name: &str| {
        let mut keys = keys.clone();
        let (_, value) = keys.find(|(key, _)| key.trim_end() == name)?;
        Some(unescape(value.trim_start()))
    };
    let types = value("MimeType")?;
    if !types.split(';').any(|opened| opened == WEB_LINK) {
        return None;
    }
    let is_there = !commands_of(text, is_installed).is_empty();
    is_there.then(|| {
        let flatpak = value("X-Flatpak").map(Browser::Flatpak);
        let snap = || value("X-SnapInstanceName").map(Browser::Snap);
        flatpak.or_else(snap).unwrap_or(Browser::Entry)
    })
}

/// The program that a value of `Exec` executes in the end.
pub(crate) fn program_of(line: &str) -> Option<String> {
    let command = split(&unescape(line));
    program(&command).map(|(program, _)| program.to_owned())
}

/// The program that a command executes in the end, and what it is given.
pub(super) fn program(command: &[String]) -> Option<(&str, &[String])> {
    let mut words = command;
    if words.first()?.rsplit('/').next() == Some("env") {
        words = behind_env(&words[1..]);
    }
    let (program, arguments) = words.split_first()?;
    let name = program.rsplit('/').next()?;
    (!LAUNCHERS.contains(&name)).then_some((program, arguments))
}

/// Leaves off the options and variables of env(1).
fn behind_env(words: &[String]) -> &[String] {
    let mut words = words;
    while let Some((word, rest)) = words.split_first() {
        words = match word.as_str() {
            "-u" | "-C" | "--unset" | "--chdir" => rest.get(1..).unwrap_or_default(),
            "--" => return rest,
            word if word.starts_with('-') || word.contains('=') => rest,
            _ => return words,
        };
    }
    words
}

/// Where an entry of this id may be below a folder: a `-` may stand for a `/`.
pub(super) fn files(folder: &Path, id: &str) -> impl Iterator<Item = PathBuf> {
    let below = id
        .match_indices('-')
        .map(|(at, _)| format!("{}/{}.desktop", &id[..at], &id[at + 1..]));
    std::iter::once(format!("{id}.desktop"))
        .chain(below)
        .filter(|name| !name.starts_with('/') && !name.contains(".."))
        .map(|name| folder.join(name))
}

/// Reads a value of the type string.
fn unescape(value: &str) -> String {
    let mut text = String::new();
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            text.push(letter);
            continue;
        }
        match letters.next() {
            Some('s') => text.push(' '),
            Some('n') => text.push('\n'),
            Some('t') => text.push('\t'),
            Some('r') => text.push('\r'),
            Some('\\') | None => text.push('\\'),
            // An escape of the quoting, which comes next.
            Some(other) => text.extend(['\\', other]),
        }
    }
    text
}

/// Splits a value of `Exec` into words, and leaves off the codes for files and names.
fn split(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            '\\' if is_quoted => {
                if let Some(letter) = letters.next() {
                    word.get_or_insert_default().push(letter);
                }
            }
            '%' if !is_quoted => match letters.next() {
                Some('%') => word.get_or_insert_default().push('%'),
                _ => continue,
            },
            letter if letter.is_whitespace() && !is_quoted => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split() {
        let check = |line: &str, expected: &[&str]| {
            assert_eq!(split(&unescape(line)), expected, "{line}");
        };
        check("firefox %u", &["firefox"]);
        check(
            "\"/opt/My App/run\" --x %F -y",
            &["/opt/My App/run", "--x", "-y"],
        );
        check(r#""a \\"b\\" \\$c" d"#, &[r#"a "b" $c"#, "d"]);
        check(r"a\sb 100%%", &["a", "b", "100%"]);
        check("x \"\" y", &["x", "", "y"]);
    }

    #[test]
    fn the_program_of_a_command() {
        let check = |line: &str, expected: Option<&str>| {
            let command = split(line);
            assert_eq!(program(&command).map(|(name, _)| name), expected, "{line}");
        };
        check("firefox -P x", Some("firefox"));
        check("env A=1 -u B /usr/bin/x --y", Some("/usr/bin/x"));
        check("/usr/bin/env x", Some("x"));
        check("/usr/bin/flatpak run --branch=stable org.x.Y", None);
        check("snap run x", None);
        check("env A=1", None);
        check("", None);
    }

    #[test]
    fn entries() {
        let check = |text: &str, expected: &[&[&str]]| {
            let found = commands_of(text, |program| program != "missing");
            assert_eq!(found, expected, "{text}");
        };
        check("[Desktop Entry]\nTryExec=x\nExec=x %u\n", &[&["x"]]);
        check(
            "[Desktop Entry]\nExec = x\n[Desktop Action a]\nExec=x --new\n[Other]\nExec=y\n",
            &[&["x"], &["x", "--new"]],
        );
        check("[Desktop Entry]\nTryExec=missing\nExec=x\n", &[]);
        check("[Desktop Entry]\nExec=x\nHidden=true\n", &[]);
        check("Exec=x\n", &[]);
    }

    #[test]
    fn browsers_open_links() {
        let check = |text: &str, expected: Option<Browser>| {
            let found = browser_of(text, |program| program != "missing");
            assert_eq!(found, expected, "{text}");
        };
        let web = "[Desktop Entry]\nMimeType=text/html;x-scheme-handler/https;\nExec=b %U\n";
        check(web, Some(Browser::Entry));
        check(
            &format!("{web}X-Flatpak = org.b.B\n"),
            Some(Browser::Flatpak("org.b.B".to_owned())),
        );
        check(
            &format!("{web}X-SnapInstanceName=b\n[Desktop Action x]\nX-Flatpak=y\n"),
            Some(Browser::Snap("b".to_owned())),
        );
        check(&format!("{web}Hidden=true\n"), None);
        check(&format!("{web}TryExec=missing\n"), None);
        check("[Desktop Entry]\nMimeType=x-scheme-handler/https\n", None);
        check("[Desktop Entry]\nMimeType=text/html;\nExec=b\n", None);
        check(
            "[Other]\nMimeType=x-scheme-handler/https\n[Desktop Entry]\nExec=b\n",
            None,
        );
    }

    #[test]
    fn places_of_entries() {
        let found: Vec<_> = files(Path::new("/a"), "kde-org-x").collect();
        let expected = [
            "/a/kde-org-x.desktop",
            "/a/kde/org-x.desktop",
            "/a/kde-org/x.desktop",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
        assert_eq!(files(Path::new("/a"), "../x").count(), 0);
    }
}
