//! Running processes of one user, and whether they listen for others of their kind.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use offramp_rules::App;

use crate::facts::Facts;

/// A process that may be taken for an instance.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) pid: u32,
    /// Its executable, or its script.
    pub(super) path: PathBuf,
    /// Whether it listens at a Unix socket, where others of its kind may ask it.
    pub(super) listens: bool,
}

/// What processes are looked for.
pub(super) trait Meant {
    /// Whether a process with this executable may be meant; most are not, and need not be looked at.
    fn may_be(&self, executable: &Path) -> bool;
    /// Whether it is.
    fn is(&self, app: &App) -> bool;
}

/// Processes of this user but `own` that are meant, those first that listen.
pub(super) fn find(facts: &Facts, uid: u32, own: u32, meant: &impl Meant) -> Vec<Instance> {
    let Ok(folders) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = folders.filter_map(|folder| folder.ok()?.file_name().to_str()?.parse().ok());
    let mut found: Vec<_> = pids
        .filter(|pid| *pid != own)
        .filter_map(|pid| instance(facts, uid, pid, meant))
        .collect();
    found.sort_by_key(|instance| (!instance.listens, instance.pid));
    found
}

fn instance(facts: &Facts, uid: u32, pid: u32, meant: &impl Meant) -> Option<Instance> {
    let link = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // An upgrade has replaced it.
    let text = link.to_str()?;
    let place = text.strip_suffix(" (deleted)").unwrap_or(text);
    if !meant.may_be(Path::new(place)) {
        return None;
    }
    let app = facts.of_process(pid)?;
    if app.user.id != uid || !meant.is(&app) {
        return None;
    }
    let program = app.script.or(app.executable)?;
    Some(Instance {
        pid,
        path: program.path?,
        listens: listens(pid),
    })
}

fn listens(pid: u32) -> bool {
    let sockets = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    let listening = listening(&sockets);
    let files = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    let mut links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    links.any(|link| {
        let name = link.to_str().unwrap_or_default();
        let inode = name.strip_prefix("socket:[");
        inode
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|inode| listening.contains(inode))
    })
}

/// The inodes of listening sockets in the text of /proc/net/unix: `Num RefCount Protocol Flags Type
/// St Inode Path`.
pub(super) fn listening(text: &str) -> HashSet<&str> {
    let sockets = text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let accepts = fields.nth(3)? == "00010000";
        fields.nth(2).filter(|_| accepts)
    });
    sockets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_told_from_others() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 17 /run/a\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 18 /run/a\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 19 @b\n";
        assert_eq!(listening(text), HashSet::from(["17", "19"]));
    }
}
