//! A machine's files in a temporary directory.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use offramp_profile::{Directories, Loaded, load};
use offramp_rules::Layer;
use tempfile::TempDir;

pub(crate) struct Machine {
    pub(crate) root: TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.root.path().join("etc")
    }

    pub(crate) fn directories(&self) -> Directories {
        Directories {
            config: self.config(),
            vendor: Some(self.root.path().join("vendor")),
            users: Some(self.users()),
            state: None,
        }
    }

    /// Loads as after a start, with copies in the state directory.
    pub(crate) fn restart(&self) -> Loaded {
        let directories = self.directories();
        load(
            &directories.with_state(self.root.path().join("state")),
            None,
        )
    }

    /// What users have given.
    pub(crate) fn users(&self) -> PathBuf {
        self.root.path().join("state/users")
    }

    pub(crate) fn load(&self, previous: Option<&Loaded>) -> Loaded {
        load(&self.directories(), previous)
    }

    pub(crate) fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.root.path().join(path);
        // Not by the umask, which may let the group write.
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path.parent().unwrap())
            .unwrap();
        fs::write(&path, text).unwrap();
        mode(&path, 0o644);
        path
    }
}

pub(crate) fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn declaration(id: &str, name: &str) -> String {
    format!(
        r#"{{ "Type": "org.offramp.configuration.network.vpn", "Identifier": "{id}",
  "Payload": {{ "VisibleName": "{name}", "Servers": [{{ "URL": "https://a.example" }}] }} }}"#
    )
}

pub(crate) fn names(loaded: &Loaded) -> Vec<(String, Layer)> {
    let name = |profile: &std::sync::Arc<offramp_profile::Profile>| {
        (profile.visible_name.clone(), profile.rules.layer)
    };
    loaded.profiles.iter().map(name).collect()
}

/// The problems without the temporary directory's name.
pub(crate) fn told(machine: &Machine, loaded: &Loaded) -> Vec<String> {
    let root = format!("{}/", machine.root.path().display());
    loaded
        .problems
        .iter()
        .map(|problem| format!("{} {problem}", problem.code).replace(&root, ""))
        .collect()
}
