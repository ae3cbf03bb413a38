//! What users have given to the daemon: their own profiles, overlays and credentials.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2};
use offramp_rules::{Profiles, candidates};

use crate::check::asset;
use crate::files;
use crate::json;
use crate::problem::{Code, Problem};
use crate::profile::Profile;
use crate::read::read_user;
use crate::store::{ChangeError, Installed, failure, sync_directory};

/// How many files with profiles, how many profiles, and how many credentials a user may have.
const MOST: usize = 64;

/// How many names of programs all profiles of a user may have together. The kernel programs keep
/// those of everybody in tables of 65,536.
const NAMES: usize = 2000;

/// The largest credential of a user, in bytes.
const CREDENTIAL: usize = 64 * 1024;

/// What leftovers of installations that ended suddenly begin with.
const NEW: &str = ".new-";

/// All that a user gives: it takes the place of all that the user gave before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserFiles {
    /// Profiles and overlays: at most 64 files of 1 MiB, whose names end in `.json`.
    pub policies: Vec<UserFile>,
    /// Credentials: at most 64 files of 64 KiB, named as profiles call them.
    pub credentials: Vec<UserFile>,
}

/// One file that a user gives. `Debug` tells its size alone: it may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct UserFile {
    /// Its name, without a directory.
    pub name: String,
    /// What is in it.
    pub content: Vec<u8>,
}

impl fmt::Debug for UserFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.content.len())
    }
}

/// Checks all that a user gives and puts it in the place of what the user gave before, all at once,
/// readable by root alone. No files at all take the user out.
///
/// `users` is [`Directories::users`](crate::Directories::users). The problems name the files as the
/// user does. Whether managed profiles leave room for the user's, and whether overlays change only
/// what they may, shows when everything is [loaded](crate::load).
pub fn install_user(users: &Path, uid: u32, files: &UserFiles) -> Result<Installed, ChangeError> {
    let problems = check(uid, files);
    if !problems.is_empty() {
        return Err(ChangeError::Invalid(problems));
    }
    let target = folder(users, uid);
    let failed = |e: std::io::Error| failure(&target, "cannot be written", &e);
    let _lock = prepare(users).map_err(failed)?;
    let is_empty = files.policies.is_empty() && files.credentials.is_empty();
    let is_same = match stored(&target) {
        Ok(stored) => !is_empty && stored == sorted(files),
        Err(e) => is_empty && e.kind() == ErrorKind::NotFound,
    };
    if is_same {
        return Ok(Installed::Unchanged(target));
    }
    replace(users, &target, (!is_empty).then_some(files)).map_err(failed)?;
    Ok(Installed::Installed(target))
}

/// Where a user's files are.
pub(crate) fn folder(users: &Path, uid: u32) -> PathBuf {
    users.join(uid.to_string())
}

/// The user whose file this is.
pub(crate) fn of(users: &Path, file: &Path) -> Option<u32> {
    let below = file.strip_prefix(users).ok()?;
    below.iter().next()?.to_str()?.parse().ok()
}

/// All users who have given anything.
pub(crate) fn all(users: &Path) -> std::io::Result<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(users)? {
        let name = entry?.file_name();
        let uid = name.to_str().and_then(|name| name.parse::<u32>().ok());
        all.extend(uid.filter(|uid| name.to_str() == Some(&*uid.to_string())));
    }
    Ok(all)
}

/// What is told where the apps of these profiles, all of one user, have too many names.
pub(crate) fn too_many_names<'a>(
    profiles: impl IntoIterator<Item = &'a Profile>,
) -> Option<String> {
    let rules = profiles.into_iter().map(|profile| profile.rules.clone());
    let count = candidates(&Profiles::new(rules)).len();
    (count > NAMES).then(|| {
        format!("the apps of all profiles of the user have {count} names, and may have {NAMES}")
    })
}

/// How to have fewer.
pub(crate) const FEWER_NAMES: &str =
    "leave out apps, or name them by exe:NAME, which is one name where app: is several";

fn check(uid: u32, files: &UserFiles) -> Vec<Problem> {
    let mut problems = Vec::new();
    let invalid = |path: String, message: String| {
        Problem::of_file(Code::IsInvalid, Path::new(&path), message)
    };
    for (list, what) in [
        (&files.policies, "policies"),
        (&files.credentials, "credentials"),
    ] {
        if list.len() > MOST {
            let message = format!("there are {} files, and may be {MOST}", list.len());
            return vec![invalid(what.to_owned(), message)];
        }
        let mut seen = BTreeSet::new();
        for file in list {
            if !seen.insert(&file.name) {
                problems.push(invalid(file.name.clone(), "is there twice".to_owned()));
            }
        }
    }
    let mut profiles = Vec::new();
    for file in &files.policies {
        let path = Path::new(&file.name);
        if asset(&format!("credential:{}", file.name)).is_err() || !file.name.ends_with(".json") {
            let problem = invalid(
                file.name.clone(),
                "is no name for a profile's file".to_owned(),
            );
            let hint = "letters, digits, dots, dashes and underscores, no dot first, .json last";
            problems.push(problem.hint(hint));
            continue;
        }
        match read_user(&file.content, Some(path), uid) {
            Ok((found, _)) => profiles.extend(found),
            Err(found) => problems.extend(found),
        }
    }
    if profiles.len() > MOST {
        let message = format!("there are {} profiles, and may be {MOST}", profiles.len());
        problems.push(invalid("policies".to_owned(), message));
    } else if let Some(message) = too_many_names(&profiles) {
        problems.push(invalid("policies".to_owned(), message).hint(FEWER_NAMES));
    }
    for file in &files.credentials {
        let path = format!("credentials/{}", file.name);
        if let Err(fault) = asset(&format!("credential:{}", file.name)) {
            let problem = invalid(path, fault.message);
            problems.push(problem.hint(fault.hint.unwrap_or_default()));
        } else if file.content.len() > CREDENTIAL {
            let message = format!("is over {} KiB", CREDENTIAL / 1024);
            problems.push(invalid(path, message));
        }
    }
    problems
}

/// Makes the directory, keeps others out of it, and removes what a sudden end left.
fn prepare(users: &Path) -> std::io::Result<Flock<File>> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(users)?;
    let directory = File::open(users)?;
    let lock = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    for entry in std::fs::read_dir(users)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(NEW) {
            let path = entry.path();
            std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path))?;
        }
    }
    Ok(lock)
}

/// Keeps every user's set as it is while the guard lives. None: nobody has given anything, or the
/// directory cannot be read, which shows when it is.
pub(crate) fn hold(users: &Path) -> Option<Flock<File>> {
    let directory = File::open(users).ok()?;
    Flock::lock(directory, FlockArg::LockShared).ok()
}

/// What a user gave before.
fn stored(folder: &Path) -> std::io::Result<UserFiles> {
    Ok(UserFiles {
        policies: stored_in(&folder.join("policies"), json::SIZE)?,
        credentials: stored_in(&folder.join("credentials"), CREDENTIAL)?,
    })
}

fn stored_in(directory: &Path, most: usize) -> std::io::Result<Vec<UserFile>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let content = files::read(&directory.join(&name), 0o077, most)
            .map_err(|_| std::io::Error::other("cannot be read"))?;
        found.push(UserFile { name, content });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn sorted(files: &UserFiles) -> UserFiles {
    let mut sorted = files.clone();
    sorted.policies.sort_by(|a, b| a.name.cmp(&b.name));
    sorted.credentials.sort_by(|a, b| a.name.cmp(&b.name));
    sorted
}

/// Swaps the whole set: readers see the old one or the new one. None: the user is taken out.
fn replace(users: &Path, target: &Path, files: Option<&UserFiles>) -> std::io::Result<()> {
    let place = tempfile::Builder::new()
        .prefix(NEW)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(users)?;
    let other = place.path();
    if let Some(files) = files {
        write(&other.join("policies"), &files.policies)?;
        write(&other.join("credentials"), &files.credentials)?;
        sync_directory(other)?;
        exchange(other, target)?;
    } else {
        // Over the empty directory that waits there.
        std::fs::rename(target, other)?;
    }
    sync_directory(users)
    // What is in the other place now goes away with it.
}

fn write(directory: &Path, files: &[UserFile]) -> std::io::Result<()> {
    DirBuilder::new().mode(0o700).create(directory)?;
    for file in files {
        let mut written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(directory.join(&file.name))?;
        written.write_all(&file.content)?;
        written.sync_all()?;
    }
    sync_directory(directory)
}

fn exchange(new: &Path, target: &Path) -> std::io::Result<()> {
    match renameat2(
        AT_FDCWD,
        new,
        AT_FDCWD,
        target,
        RenameFlags::RENAME_EXCHANGE,
    ) {
        Err(Errno::ENOENT) => std::fs::rename(new, target),
        other => Ok(other?),
    }
}
