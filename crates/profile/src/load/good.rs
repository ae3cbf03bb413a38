//! Copies of what every file said when it was last good, for the time after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use offramp_rules::Layer;
use serde::{Deserialize, Serialize};

use crate::files::{self, Refused};
use crate::json::SIZE;
use crate::problem::{Code, Problem};
use crate::read::hash;
use crate::store::sync_directory;

/// The largest copy: every character of a text may have to be escaped.
const LARGEST: usize = 6 * SIZE + 16 * 1024;

/// The directory of copies and what was in it. A copy is named after a hash of its file's path.
pub(super) struct Good {
    directory: PathBuf,
    copies: BTreeMap<PathBuf, Copy>,
    /// The names of the copies that belong to a file that is there.
    present: BTreeSet<String>,
    is_changed: bool,
    pub(super) problems: Vec<Problem>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Copy {
    path: PathBuf,
    layer: String,
    hash: String,
    text: String,
}

impl Good {
    /// Reads all copies in `state`.
    pub(super) fn open(state: &Path) -> Self {
        let mut good = Self {
            directory: state.join("good"),
            copies: BTreeMap::new(),
            present: BTreeSet::new(),
            is_changed: false,
            problems: Vec::new(),
        };
        if let Err(e) = good.read_all() {
            good.trouble("cannot be read", &e);
        }
        good
    }

    fn read_all(&mut self) -> std::io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        if let Err(Refused::Exposed(what)) = files::is_directory_guarded(&self.directory) {
            return Err(std::io::Error::other(what));
        }
        for name in super::names(&self.directory)? {
            let path = self.directory.join(name);
            match read_copy(&path) {
                Ok(copy) => {
                    self.copies.insert(copy.path.clone(), copy);
                }
                Err(what) => {
                    let message = format!("the copy of a good profile is damaged, {what}");
                    let problem = Problem::of_file(Code::CannotBeApplied, &path, message);
                    self.problems.push(problem);
                }
            }
        }
        Ok(())
    }

    /// What the file said, where it was of the same layer.
    pub(super) fn find(&self, path: &Path, layer: Layer) -> Option<&str> {
        let copy = self.copies.get(path)?;
        (copy.layer == layer.to_string()).then_some(&*copy.text)
    }

    /// The files of a directory of which there is a copy.
    pub(super) fn within(&self, directory: &Path) -> Vec<PathBuf> {
        let paths = self.copies.keys();
        paths
            .filter(|path| path.parent() == Some(directory))
            .cloned()
            .collect()
    }

    /// The file is there, good or bad: its copy stays.
    pub(super) fn is_present(&mut self, path: &Path) {
        self.present.insert(name(path));
    }

    /// The file is good and says this.
    pub(super) fn keep(&mut self, path: &Path, layer: Layer, text: &str) {
        self.is_present(path);
        // What is no UTF-8 cannot be written as JSON, and is what nobody calls a file.
        if self.find(path, layer) == Some(text) || path.to_str().is_none() {
            return;
        }
        let copy = Copy {
            path: path.to_owned(),
            layer: layer.to_string(),
            hash: hash(text),
            text: text.to_owned(),
        };
        match self.write(&copy) {
            Ok(()) => self.is_changed = true,
            Err(e) => self.trouble("no copy of a good profile can be kept", &e),
        }
    }

    fn write(&self, copy: &Copy) -> std::io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".new-")
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(&self.directory)?;
        file.write_all(&serde_json::to_vec(copy)?)?;
        file.as_file().sync_all()?;
        let path = self.directory.join(name(&copy.path));
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    }

    /// Removes the copies of files that are gone, and what a sudden end left.
    pub(super) fn finish(&mut self) {
        if let Err(e) = self.clean() {
            self.trouble("cannot be cleaned", &e);
        }
    }

    fn clean(&mut self) -> std::io::Result<()> {
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name
                .to_str()
                .is_some_and(|name| self.present.contains(name))
            {
                continue;
            }
            match std::fs::remove_file(entry.path()) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => self.is_changed = true,
            }
        }
        match self.is_changed {
            true => sync_directory(&self.directory),
            false => Ok(()),
        }
    }

    /// Tells one trouble with the directory; the next ones are most likely the same.
    fn trouble(&mut self, what: &str, error: &std::io::Error) {
        let directory = &self.directory;
        if self
            .problems
            .iter()
            .all(|problem| problem.file.as_ref() != Some(directory))
        {
            let message = format!("{what}: {error}");
            let problem = Problem::of_file(Code::CannotBeApplied, directory, message);
            self.problems.push(problem);
        }
    }
}

fn name(path: &Path) -> String {
    format!("{}.json", hash(&path.to_string_lossy()))
}

fn read_copy(path: &Path) -> Result<Copy, String> {
    let bytes = files::read(path, 0o077, LARGEST).map_err(|refused| match refused {
        Refused::Unreadable(e) => e.to_string(),
        Refused::Exposed(what) => what,
    })?;
    let copy: Copy = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    let is_named = path
        .file_name()
        .is_some_and(|found| found == &*name(&copy.path));
    match is_named && hash(&copy.text) == copy.hash {
        true => Ok(copy),
        false => Err("its sum is wrong".to_owned()),
    }
}
