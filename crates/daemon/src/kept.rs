//! What each class means, for the daemon that starts next.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use offramp_intercept::ClassId;
use offramp_rules::ProfileId;

const NAME: &str = "classes.json";

/// The old table or the new one, never half.
pub(crate) fn write(folder: &Path, classes: &BTreeMap<ClassId, ProfileId>) -> io::Result<()> {
    let table: BTreeMap<u16, &str> = classes
        .iter()
        .map(|(class, profile)| (class.number(), profile.as_str()))
        .collect();
    let fresh = folder.join("classes.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(&serde_json::to_vec(&table).map_err(io::Error::other)?)?;
    fs::rename(fresh, folder.join(NAME))
}

/// What an earlier run wrote.
pub(crate) fn read(folder: &Path) -> BTreeMap<ClassId, ProfileId> {
    let text = fs::read(folder.join(NAME)).unwrap_or_default();
    let table: BTreeMap<u16, String> = serde_json::from_slice(&text).unwrap_or_default();
    table
        .iter()
        .filter_map(|(class, profile)| Some((ClassId::new(*class)?, ProfileId::new(profile))))
        .collect()
}

/// Forgets it.
pub(crate) fn remove(folder: &Path) {
    let _ = fs::remove_file(folder.join(NAME));
}
