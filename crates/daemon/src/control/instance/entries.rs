//! What the system's desktop entries and the session bus start.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::facts::program_of;

/// Where the system has desktop entries. What a user has is not read: it could be made to wait.
const APPLICATIONS: [&str; 3] = [
    "/usr/local/share/applications",
    "/usr/share/applications",
    "/var/lib/flatpak/exports/share/applications",
];
/// Where the system has what the session bus starts.
const SERVICES: [&str; 2] = [
    "/usr/local/share/dbus-1/services",
    "/usr/share/dbus-1/services",
];
/// Where programs are that are named without a folder.
const PROGRAMS: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/games"];
const MOST: usize = 4096;
const LONGEST: u64 = 64 * 1024;

/// A desktop entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    id: String,
    pub(super) is_terminal: bool,
    is_activatable: bool,
}

/// A name on the session bus, and what is started to own it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) program: PathBuf,
}

impl Entry {
    /// Whether starting it may be asking the bus for this name.
    pub(super) fn is_activated_as(&self, name: &str) -> bool {
        self.is_activatable && self.id == name
    }
}

/// The entries that execute a program at one of these paths.
pub(super) fn entries_of(paths: &[PathBuf]) -> Vec<Entry> {
    let files = APPLICATIONS
        .iter()
        .flat_map(|folder| files(folder, "desktop"));
    let read = files.filter_map(|file| {
        let text = text(&file)?;
        let id = file.file_stem()?.to_str()?;
        let (entry, program) = entry(id, &text)?;
        paths.contains(&place(&program)?).then_some(entry)
    });
    read.collect()
}

/// What the session bus may start.
pub(super) fn services() -> Vec<Service> {
    let files = SERVICES.iter().flat_map(|folder| files(folder, "service"));
    let read = files.filter_map(|file| {
        let (name, program) = service(&text(&file)?)?;
        let program = place(&program)?;
        Some(Service { name, program })
    });
    read.collect()
}

pub(super) fn entry(id: &str, text: &str) -> Option<(Entry, String)> {
    let is = |key| value(text, "[Desktop Entry]", key) == Some("true");
    if is("Hidden") {
        return None;
    }
    let program = program_of(value(text, "[Desktop Entry]", "Exec")?)?;
    let entry = Entry {
        id: id.to_owned(),
        is_terminal: is("Terminal"),
        is_activatable: is("DBusActivatable"),
    };
    Some((entry, program))
}

pub(super) fn service(text: &str) -> Option<(String, String)> {
    let name = value(text, "[D-BUS Service]", "Name")?;
    let program = program_of(value(text, "[D-BUS Service]", "Exec")?)?;
    Some((name.to_owned(), program))
}

/// The value of a key in a group.
fn value<'t>(text: &'t str, group: &str, key: &str) -> Option<&'t str> {
    let mut lines = text
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != group);
    lines.next()?;
    lines
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('='))
        .find(|(found, _)| found.trim_end() == key)
        .map(|(_, value)| value.trim_start())
}

/// Where a program is, links resolved.
fn place(program: &str) -> Option<PathBuf> {
    let path = Path::new(program);
    if path.is_absolute() {
        return path.canonicalize().ok();
    }
    let mut places = PROGRAMS.iter().map(|folder| Path::new(folder).join(path));
    places.find_map(|place| place.canonicalize().ok())
}

fn files(folder: &str, ending: &'static str) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().take(MOST);
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(move |path| path.extension().is_some_and(|found| found == ending))
}

fn text(file: &Path) -> Option<String> {
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    let file = File::open(file).ok()?;
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_say_what_they_are() {
        let text = "[Desktop Entry]\nName=X\nExec=env A=1 \"/opt/x y/z\" %U\nDBusActivatable=true\n\
                    [Desktop Action n]\nExec=/bin/false\nTerminal=true\n";
        let (entry, program) = entry("org.x.Y", text).unwrap();
        assert_eq!(program, "/opt/x y/z");
        assert!(!entry.is_terminal && entry.is_activated_as("org.x.Y"));
        assert!(!entry.is_activated_as("org.x.Z"));
        let plain = "[Desktop Entry]\nExec=vim %F\nTerminal=true\n";
        let (entry, _) = super::entry("vim", plain).unwrap();
        assert!(entry.is_terminal && !entry.is_activated_as("vim"));
        for none in ["", "[Desktop Entry]\nHidden=true\nExec=x\n", "Exec=x\n"] {
            assert_eq!(super::entry("x", none), None);
        }
    }

    #[test]
    fn services_have_a_name_and_a_program() {
        let text = "# A comment\n[D-BUS Service]\nName = org.x.Y\nExec=/usr/libexec/y --daemon\n";
        let expected = ("org.x.Y".to_owned(), "/usr/libexec/y".to_owned());
        assert_eq!(service(text), Some(expected));
        assert_eq!(service("[D-BUS Service]\nName=org.x.Y\n"), None);
    }
}
