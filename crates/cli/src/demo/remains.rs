//! The names of what a demo makes, and what demos that were killed have left.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the names of all that a demo makes begin with; its process id follows.
pub(super) const PREFIX: &str = "offramp-demo-";

/// The name of the daemon's instance.
pub(super) fn instance() -> String {
    format!("demo-{}", std::process::id())
}

/// What is still there of this demo, after everything was removed.
pub(super) fn leftovers() -> Vec<String> {
    let own = format!("{PREFIX}{}-", std::process::id());
    let mut left: Vec<_> = ["/run/netns".into(), std::env::temp_dir()]
        .iter()
        .flat_map(|directory: &PathBuf| {
            names(directory).map(|name| directory.join(name).display().to_string())
        })
        .filter(|path| path.contains(&own))
        .collect();
    let pins = Path::new("/sys/fs/bpf/offramp").join(instance());
    if pins.exists() {
        left.push(pins.display().to_string());
    }
    left
}

/// The names in a directory that may not be there.
pub(super) fn names(directory: &Path) -> impl Iterator<Item = String> + use<> {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
}

/// Whether a name is one of a demo whose process is no more.
pub(super) fn stale(name: &str) -> bool {
    is_stale(name, |id| Path::new("/proc").join(id.to_string()).exists())
}

fn is_stale(name: &str, lives: impl Fn(u32) -> bool) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split('-').next())
        .and_then(|id| id.parse().ok())
        .is_some_and(|id| !lives(id))
}

/// Removes the directories of demos that were killed; others' that have such names are left.
pub(super) fn remove_folders() {
    let directory = std::env::temp_dir();
    for path in names(&directory)
        .filter(|name| stale(name))
        .map(|name| directory.join(name))
    {
        let is_ours =
            std::fs::symlink_metadata(&path).is_ok_and(|facts| facts.is_dir() && facts.uid() == 0);
        if is_ours {
            // What cannot be removed does not stand in the way.
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_demos_are_stale() {
        for (name, expected) in [
            ("offramp-demo-8-app", true),
            ("offramp-demo-7-app", false),
            ("offramp-demo-x-app", false),
            ("work", false),
        ] {
            assert_eq!(is_stale(name, |id| id == 7), expected, "{name}");
        }
    }
}
