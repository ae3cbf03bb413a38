//! Where programs and desktop entries are installed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Folders that shells look for programs in.
const PROGRAMS: [&str; 9] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/snap/bin",
    "/var/lib/snapd/snap/bin",
    "/var/lib/flatpak/exports/bin",
];
/// Folders of desktop entries.
const ENTRIES: [&str; 4] = [
    "/usr/local/share/applications",
    "/usr/share/applications",
    "/var/lib/snapd/desktop/applications",
    "/var/lib/flatpak/exports/share/applications",
];
/// Folders of loaders.
const LOADERS: [&str; 4] = ["/lib", "/lib32", "/lib64", "/libx32"];
/// How many homes are looked into.
const HOMES: usize = 256;
/// How many files of a folder are looked at.
const FILES: usize = 50_000;

/// A folder that something is installed in.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// The user for whom it is; None: all.
    pub(super) user: Option<u32>,
}

pub(super) fn of_programs() -> Vec<Folder> {
    let shared = PROGRAMS.iter().map(|path| Folder::shared(path));
    let mut seen = BTreeSet::new();
    let mut folders: Vec<Folder> = shared
        // On a machine with a merged /usr most are one folder.
        .filter(|folder| match fs::metadata(&folder.path) {
            Ok(found) => seen.insert((found.dev(), found.ino())) || folder.is_short(),
            Err(_) => true,
        })
        .collect();
    folders.extend(of_homes(&[".local/share/flatpak/exports/bin"]));
    folders
}

/// Where programs expect what they are linked with.
pub(super) fn of_loaders() -> impl Iterator<Item = PathBuf> {
    let mut seen = BTreeSet::new();
    LOADERS.iter().map(PathBuf::from).filter(move |path| {
        fs::metadata(path).is_ok_and(|found| seen.insert((found.dev(), found.ino())))
    })
}

pub(super) fn of_entries() -> Vec<Folder> {
    let shared = ENTRIES.iter().map(|path| Folder::shared(path));
    let own = of_homes(&[
        ".local/share/applications",
        ".local/share/flatpak/exports/share/applications",
    ]);
    shared.chain(own).collect()
}

impl Folder {
    fn shared(path: &str) -> Self {
        Self {
            path: PathBuf::from(path),
            user: None,
        }
    }

    /// Programs are named by these paths although they lead below /usr.
    fn is_short(&self) -> bool {
        self.path == Path::new("/bin") || self.path == Path::new("/sbin")
    }
}

fn of_homes(below: &[&str]) -> Vec<Folder> {
    let mut homes: BTreeSet<PathBuf> = BTreeSet::from([PathBuf::from("/root")]);
    let listed = fs::read_dir("/home").into_iter().flatten().flatten();
    homes.extend(listed.take(HOMES).map(|home| home.path()));
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let registered = users.lines().filter_map(|line| line.split(':').nth(5));
    homes.extend(
        registered
            .filter(|home| home.starts_with("/home/"))
            .take(HOMES)
            .map(PathBuf::from),
    );
    let homes = homes.into_iter().take(HOMES).filter_map(|home| {
        let found = fs::metadata(&home).ok()?;
        found.is_dir().then_some((home, found.uid()))
    });
    homes
        .flat_map(|(home, uid)| {
            below.iter().map(move |folder| Folder {
                path: home.join(folder),
                user: Some(uid),
            })
        })
        .collect()
}

/// The names of what is in a folder.
pub(super) fn list(folder: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .take(FILES)
        .filter_map(|file| file.file_name().into_string().ok())
        .collect()
}

/// The file that a name without folders leads to.
pub(in crate::facts) fn in_standard_folders(name: &str) -> Option<PathBuf> {
    if name.is_empty() || name.contains('/') {
        return None;
    }
    PROGRAMS
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
}

/// The file that a name or an absolute path leads to.
pub(in crate::facts) fn installed(program: &str) -> Option<PathBuf> {
    match program.starts_with('/') {
        true => Some(PathBuf::from(program)).filter(|path| path.is_file()),
        false => in_standard_folders(program),
    }
}
