//! Profiles that `offramp run --server` makes: they live until the last process of the command
//! ends, also across a restart of the daemon.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use offramp_profile::{Problem, Profile};
use offramp_rules::ProfileId;
use serde::{Deserialize, Serialize};

use crate::files;

/// One of them.
#[derive(Clone)]
pub(crate) struct Ephemeral {
    pub(crate) profile: Arc<Profile>,
    pub(crate) uid: u32,
}

/// What a restart needs to make the profile again. It may hold a password: the file is root's.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: String,
    uid: u32,
    url: String,
    ca_pem: Option<String>,
}

/// Makes a profile and keeps what it was made from in `folder`.
pub(crate) fn create(
    folder: &Path,
    id: &str,
    uid: u32,
    url: &str,
    ca_pem: Option<String>,
) -> Result<Ephemeral, Problem> {
    let profile = offramp_profile::ephemeral(id, url, ca_pem.clone().map(String::into_bytes))?;
    let kept = Kept {
        id: id.to_owned(),
        uid,
        url: url.to_owned(),
        ca_pem,
    };
    // Without the file the command works; after a restart of the daemon it would be refused.
    if let Err(error) = keep(folder, &kept) {
        tracing::warn!(profile = id, error = %error, "profile will not outlive a restart");
    }
    Ok(Ephemeral {
        profile: Arc::new(profile),
        uid,
    })
}

/// What earlier runs kept.
pub(crate) fn load(folder: &Path) -> BTreeMap<ProfileId, Ephemeral> {
    let mut found = BTreeMap::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return found;
    };
    for entry in entries.flatten() {
        let kept = fs::read(entry.path())
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        let Some(Kept {
            id,
            uid,
            url,
            ca_pem,
        }) = kept
        else {
            continue;
        };
        if let Ok(profile) = offramp_profile::ephemeral(&id, &url, ca_pem.map(String::into_bytes)) {
            found.insert(
                ProfileId::new(&id),
                Ephemeral {
                    profile: Arc::new(profile),
                    uid,
                },
            );
        }
    }
    found
}

/// Forgets one.
pub(crate) fn forget(folder: &Path, id: &ProfileId) {
    files::remove(&path(folder, id.as_str()));
}

fn keep(folder: &Path, kept: &Kept) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let text = serde_json::to_vec(kept).map_err(io::Error::other)?;
    files::write(&path(folder, &kept.id), &text, 0o600)
}

/// The daemon chose the identifier: it is a plain word.
fn path(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.json"))
}
