use std::fs::DirBuilder;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use offramp_rules::Layer;

use crate::files::{self, Refused};
use crate::load::{names, read_profiles};
use crate::problem::{Code, Problem};
use crate::profile::Profile;
use crate::read::{place, read};

/// What [`install`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Installed {
    /// The profile is in this file now.
    Installed(PathBuf),
    /// This file had the same text already.
    Unchanged(PathBuf),
}

/// Why a profile was not installed or removed; the old file, if any, is whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The text is no profile that can be installed.
    #[error("the profile has problems")]
    Invalid(Vec<Problem>),
    /// This user may not change the directory.
    #[error("{0}")]
    NotPermitted(Problem),
    /// The machine failed: a full disk, a read-only directory.
    #[error("{0}")]
    Failed(Problem),
    /// No file has the profile.
    #[error("no profile {0} is installed")]
    NotInstalled(String),
}

/// Installs the one declaration of `text` in the configuration directory, in the file named after
/// its `Identifier`, or in the one that has it now. Readers see the old file or the new one.
///
/// The layer is `Managed` or `Recommended`.
pub fn install(config: &Path, layer: Layer, text: &str) -> Result<Installed, ChangeError> {
    let mut profiles = read(text, None, layer).map_err(ChangeError::Invalid)?;
    let (Some(profile), true) = (profiles.pop(), profiles.is_empty()) else {
        let problem = Problem {
            file: None,
            ..Problem::of_file(Code::IsInvalid, config, "has to be one declaration")
        };
        let hint = "install several declarations one by one";
        return Err(ChangeError::Invalid(vec![problem.hint(hint)]));
    };
    let directory = directory(config, layer)?;
    let path = match holder(&directory, layer, profile.id().as_str())? {
        Some(path) => path,
        None => directory.join(file_name(&profile)?),
    };
    if is_same(&path, text) {
        return Ok(Installed::Unchanged(path));
    }
    write(&directory, &path, text).map_err(|e| failure(&path, "cannot be written", &e))?;
    Ok(Installed::Installed(path))
}

/// Removes the file of the profile `identifier` from either layer of the configuration directory;
/// returns its path.
pub fn remove(config: &Path, identifier: &str) -> Result<PathBuf, ChangeError> {
    for layer in [Layer::Managed, Layer::Recommended] {
        let directory = directory(config, layer)?;
        if let Some(path) = holder(&directory, layer, identifier)? {
            let removed = std::fs::remove_file(&path).and_then(|()| sync_directory(&directory));
            return match removed {
                Ok(()) => Ok(path),
                Err(e) => Err(failure(&path, "cannot be removed", &e)),
            };
        }
    }
    Err(ChangeError::NotInstalled(identifier.to_owned()))
}

fn directory(config: &Path, layer: Layer) -> Result<PathBuf, ChangeError> {
    let name = match layer {
        Layer::Managed => "managed",
        Layer::Recommended => "recommended",
        Layer::User | Layer::Vendor => {
            let message = format!("nothing is installed into the {layer} layer");
            let problem = Problem::of_file(Code::CannotBeApplied, config, message);
            return Err(ChangeError::Failed(problem));
        }
    };
    Ok(config.join("policies").join(name))
}

/// The file that has this profile and no other.
fn holder(
    directory: &Path,
    layer: Layer,
    identifier: &str,
) -> Result<Option<PathBuf>, ChangeError> {
    let names = match names(directory) {
        Ok(names) => names,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failure(directory, "cannot be read", &e)),
    };
    // Of several, the last is the one in force.
    for path in names.iter().rev().map(|name| directory.join(name)) {
        // Any of those that may not be read may be it.
        if let Err(Refused::Unreadable(e)) = files::open(&path, 0)
            && e.kind() == ErrorKind::PermissionDenied
        {
            return Err(failure(&path, "cannot be read", &e));
        }
        // A bad file that is named after the profile is the profile's.
        let Ok(profiles) = read_profiles(&path, layer) else {
            if path.file_stem().is_some_and(|stem| stem == identifier) {
                return Ok(Some(path));
            }
            continue;
        };
        if profiles
            .iter()
            .any(|profile| profile.id().as_str() == identifier)
        {
            if profiles.len() == 1 {
                return Ok(Some(path));
            }
            let message = format!("has {identifier} among other profiles");
            let problem = Problem::of_file(Code::CannotBeApplied, &path, message);
            return Err(ChangeError::Failed(problem.hint("edit the file")));
        }
    }
    Ok(None)
}

/// `Identifier.json`, if that is a plain file name.
fn file_name(profile: &Profile) -> Result<String, ChangeError> {
    let id = profile.id().as_str();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if id.starts_with('.') || !id.bytes().all(plain) {
        let (line, column) = place(&profile.source, profile.identifier(), &["Identifier"]);
        let problem = Problem {
            code: Code::IsInvalid,
            file: None,
            line,
            column,
            key_path: "Identifier".to_owned(),
            message: format!("{id:?} cannot be the name of a file"),
            hint: Some("letters, digits, dots, dashes and underscores, no dot first".to_owned()),
        };
        return Err(ChangeError::Invalid(vec![problem]));
    }
    Ok(format!("{id}.json"))
}

fn is_same(path: &Path, text: &str) -> bool {
    let good_mode = || {
        let metadata = std::fs::symlink_metadata(path).ok()?;
        (metadata.is_file() && metadata.mode() & 0o022 == 0).then_some(())
    };
    good_mode().is_some() && std::fs::read(path).is_ok_and(|old| old == text.as_bytes())
}

fn write(directory: &Path, path: &Path, text: &str) -> std::io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)?;
    // The loader passes over names that begin with a dot.
    let mut file = tempfile::Builder::new()
        .prefix(".install-")
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    // The mode above went through the umask.
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    sync_directory(directory)
}

pub(crate) fn sync_directory(directory: &Path) -> std::io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}

pub(crate) fn failure(path: &Path, what: &str, error: &std::io::Error) -> ChangeError {
    let message = format!("{what}: {error}");
    let problem = Problem::of_file(Code::CannotBeApplied, path, message);
    match error.kind() {
        ErrorKind::PermissionDenied => ChangeError::NotPermitted(problem.hint("do it as root")),
        ErrorKind::ReadOnlyFilesystem => ChangeError::Failed(
            problem.hint("the file system is read-only: remount it writable, or use --config"),
        ),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ChangeError::Failed(problem.hint("the disk is full: make room and try again"))
        }
        _ => ChangeError::Failed(problem),
    }
}
