//! A user's own profiles, as files.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use offramp_control::{Content, Problem, Severity, UserFile, UserFiles};

/// All files together: what one call carries once they are base64.
const MAX_SUM: usize = offramp_control::MAX_BODY / 4 * 3 - 64 * 1024;
/// Files in a folder.
const MAX_FILES: usize = 64;

/// `policies` and `credentials` of one user, below `$XDG_CONFIG_HOME/offramp`.
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// None: it is not known where this user keeps configuration.
    pub(super) fn of_this_user() -> Option<Self> {
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let config = absolute("XDG_CONFIG_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
        Some(Self {
            root: config.join("offramp"),
        })
    }

    /// The file of the profile with this identifier, whether or not it is there; none where that
    /// cannot be the name of a file.
    pub(super) fn file_of(&self, identifier: &str) -> Option<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let is_plain = !identifier.is_empty()
            && !identifier.starts_with('.')
            && identifier.len() <= 200
            && identifier.chars().all(plain);
        is_plain.then(|| self.policies().join(format!("{identifier}.json")))
    }

    /// Writes a file of `policies`, whole or not at all; false where it says the same already.
    pub(super) fn write(&self, path: &Path, text: &str) -> io::Result<bool> {
        if self.text(path).is_ok_and(|old| old == text) && check(path, 0o022).is_ok() {
            return Ok(false);
        }
        let folder = self.policies();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let mut file = tempfile::Builder::new()
            .prefix(".install-")
            .tempfile_in(&folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        File::open(&folder)?.sync_all()?;
        Ok(true)
    }

    pub(super) fn text(&self, path: &Path) -> io::Result<String> {
        let bytes = read(path, 0o022).map_err(io::Error::other)?;
        String::from_utf8(bytes).map_err(io::Error::other)
    }

    /// The files that have profiles or overlays.
    pub(super) fn policy_files(&self) -> Vec<PathBuf> {
        let names = list(&self.policies(), is_policy).unwrap_or_default();
        let path = |name: &String| self.policies().join(name);
        names.iter().map(path).collect()
    }

    /// All files, for the daemon; every problem where there is one.
    pub(super) fn collect(&self) -> Result<UserFiles, Vec<Problem>> {
        let mut problems = Vec::new();
        let credentials = self.root.join("credentials");
        let files = UserFiles {
            policies: gather(&self.policies(), is_policy, 0o022, &mut problems),
            credentials: gather(&credentials, is_visible, 0o077, &mut problems),
        };
        let all = files.policies.iter().chain(&files.credentials);
        let sum: usize = all.map(|file| file.content.0.len()).sum();
        if sum > MAX_SUM {
            let message = format!("its files have {sum} bytes, and may have {MAX_SUM}");
            problems.push(problem(&self.root, message, None));
        }
        match problems.is_empty() {
            true => Ok(files),
            false => Err(problems),
        }
    }

    fn policies(&self) -> PathBuf {
        self.root.join("policies")
    }
}

fn is_policy(name: &str) -> bool {
    is_visible(name) && name.ends_with(".json")
}

fn is_visible(name: &str) -> bool {
    !name.starts_with('.')
}

/// The files of a folder in the order of their names; a folder that is not there has none.
fn gather(
    folder: &Path,
    wanted: fn(&str) -> bool,
    forbidden: u32,
    problems: &mut Vec<Problem>,
) -> Vec<UserFile> {
    let names = match list(folder, wanted) {
        Ok(names) => names,
        Err(Unfit { message, hint }) => {
            problems.push(problem(folder, message, hint));
            return Vec::new();
        }
    };
    let mut files = Vec::new();
    for name in names {
        match read(&folder.join(&name), forbidden) {
            Ok(bytes) => files.push(UserFile {
                name,
                content: Content(bytes),
            }),
            Err(Unfit { message, hint }) => {
                problems.push(problem(&folder.join(&name), message, hint));
            }
        }
    }
    files
}

fn list(folder: &Path, wanted: fn(&str) -> bool) -> Result<Vec<String>, Unfit> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Unfit::from(&error)),
    };
    let facts = std::fs::metadata(folder).map_err(|error| Unfit::from(&error))?;
    fitness(&facts, 0o022)?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| wanted(name))
        .take(MAX_FILES + 1)
        .collect();
    if names.len() > MAX_FILES {
        return Err(Unfit {
            message: format!("has more than {MAX_FILES} files"),
            hint: None,
        });
    }
    names.sort();
    Ok(names)
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Unfit {
    message: String,
    hint: Option<String>,
}

impl From<&io::Error> for Unfit {
    fn from(error: &io::Error) -> Self {
        Self {
            message: format!("cannot be read: {error}"),
            hint: None,
        }
    }
}

/// The bytes of a file that belongs to this user and has none of the `forbidden` mode bits.
fn read(path: &Path, forbidden: u32) -> Result<Vec<u8>, Unfit> {
    let mut bytes = Vec::new();
    check(path, forbidden)?
        .take(MAX_SUM as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Unfit::from(&error))?;
    match bytes.len() > MAX_SUM {
        false => Ok(bytes),
        true => Err(Unfit {
            message: format!("is larger than {MAX_SUM} bytes"),
            hint: None,
        }),
    }
}

fn check(path: &Path, forbidden: u32) -> Result<File, Unfit> {
    let nonblock = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new()
        .read(true)
        // A FIFO would wait for somebody who writes.
        .custom_flags(nonblock)
        .open(path)
        .map_err(|error| Unfit::from(&error))?;
    let facts = file.metadata().map_err(|error| Unfit::from(&error))?;
    if !facts.is_file() {
        return Err(Unfit {
            message: "is not a file".into(),
            hint: None,
        });
    }
    fitness(&facts, forbidden)?;
    Ok(file)
}

/// Whether nobody else could have written it, or may read it where that is `forbidden`.
fn fitness(facts: &std::fs::Metadata, forbidden: u32) -> Result<(), Unfit> {
    let own = nix::unistd::geteuid().as_raw();
    if facts.uid() != own && facts.uid() != 0 {
        return Err(Unfit {
            message: format!("belongs to the user {}, not to you", facts.uid()),
            hint: None,
        });
    }
    let mode = facts.permissions().mode() & 0o7777;
    if mode & forbidden == 0 {
        return Ok(());
    }
    let (what, hint) = match forbidden {
        0o077 => ("others may read it", "chmod 600"),
        _ => ("others may change it", "chmod go-w"),
    };
    Err(Unfit {
        message: format!("{what} (its mode is {mode:o})"),
        hint: Some(format!("{hint} it")),
    })
}

/// Something wrong with a whole file or folder.
pub(super) fn problem(path: &Path, message: String, hint: Option<String>) -> Problem {
    Problem {
        severity: Severity::Error,
        code: None,
        file: Some(path.display().to_string()),
        line: None,
        column: None,
        key: None,
        message,
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("offramp");
        for name in ["policies", "credentials"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        (home, Folder { root })
    }

    fn put(folder: &Folder, name: &str, mode: u32) {
        let path = folder.root.join(name);
        std::fs::write(&path, name).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_files_that_nobody_else_writes_are_taken() {
        let (_home, folder) = folder();
        for (name, mode) in [
            ("policies/b.json", 0o644),
            ("policies/a.json", 0o600),
            ("policies/.install-x.json", 0o666),
            ("policies/notes.txt", 0o666),
            ("credentials/gateway", 0o600),
        ] {
            put(&folder, name, mode);
        }
        let files = folder.collect().unwrap();
        let names = |files: &[UserFile]| -> Vec<String> {
            files.iter().map(|file| file.name.clone()).collect()
        };
        assert_eq!(names(&files.policies), ["a.json", "b.json"]);
        assert_eq!(names(&files.credentials), ["gateway"]);
        assert_eq!(files.credentials[0].content.0, b"credentials/gateway");
        let kept = ["a.json", "b.json"].map(|name| folder.policies().join(name));
        assert_eq!(folder.policy_files(), kept);

        put(&folder, "policies/b.json", 0o664);
        put(&folder, "credentials/gateway", 0o640);
        nix::unistd::mkfifo(
            &folder.root.join("policies/c.json"),
            nix::sys::stat::Mode::S_IRWXU,
        )
        .unwrap();
        let problems = folder.collect().unwrap_err();
        let told: Vec<_> = problems.iter().map(|p| p.message.as_str()).collect();
        assert_eq!(
            told,
            [
                "others may change it (its mode is 664)",
                "is not a file",
                "others may read it (its mode is 640)"
            ]
        );
    }

    #[test]
    fn a_folder_that_others_may_write_is_not_read() {
        let (_home, folder) = folder();
        put(&folder, "policies/a.json", 0o600);
        let policies = folder.root.join("policies");
        std::fs::set_permissions(policies, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(folder.collect().unwrap_err().len(), 1);
    }

    #[test]
    fn nothing_is_there_at_first() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder {
            root: home.path().join("offramp"),
        };
        assert_eq!(folder.collect().unwrap(), UserFiles::default());
        let path = folder.file_of("com.example").unwrap();
        for written in [true, false] {
            assert_eq!(folder.write(&path, "{}").unwrap(), written);
        }
        assert_eq!(folder.collect().unwrap().policies.len(), 1);
    }

    #[test]
    fn an_identifier_that_leads_elsewhere_has_no_file() {
        let (_home, folder) = folder();
        for identifier in ["", ".", "..", ".hidden", "a/b", "../x", "a b", "h\u{f6}he"] {
            assert_eq!(folder.file_of(identifier), None, "{identifier}");
        }
    }

    #[test]
    fn too_many_or_too_large_files_are_told() {
        let (_home, folder) = folder();
        let large = folder.root.join("credentials/large");
        std::fs::write(&large, vec![b'x'; MAX_SUM + 1]).unwrap();
        std::fs::set_permissions(&large, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(folder.collect().unwrap_err().len(), 1);
        std::fs::remove_file(&large).unwrap();
        for number in 0..=MAX_FILES {
            put(&folder, &format!("policies/{number}.json"), 0o600);
        }
        assert_eq!(folder.collect().unwrap_err().len(), 1);
    }
}
