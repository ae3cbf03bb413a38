//! What a process was installed as.

use std::collections::BTreeSet;
use std::path::Path;

use nix::fcntl::ResolveFlag;
use offramp_rules::Bundle;

use super::file::Opened;
use super::process::Running;

/// The Flatpak and the snap that a running process says it is of.
pub(super) fn of_process(process: &Running, uid: u32) -> BTreeSet<Bundle> {
    let snap = process
        .security_label()
        .and_then(|label| snap_by_label(&label));
    flatpak(process, uid).into_iter().chain(snap).collect()
}

/// Every Flatpak has a file about itself in its root folder, which is none of the host's.
fn flatpak(process: &Running, uid: u32) -> Option<Bundle> {
    let root = process.other_root()?;
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let about = Opened::below(root, Path::new(".flatpak-info"), resolve).ok()?;
    if !about
        .owner()
        .is_some_and(|owner| owner == 0 || owner == uid)
    {
        return None;
    }
    let text = String::from_utf8(about.head(64 << 10)).ok()?;
    flatpak_by_info(&text)
}

pub(super) fn flatpak_by_info(text: &str) -> Option<Bundle> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| *line == "[Application]")?;
    let name = lines
        .take_while(|line| !line.starts_with('['))
        .find_map(|line| line.strip_prefix("name")?.trim_start().strip_prefix('='))?;
    Some(Bundle::Flatpak(name.trim().to_owned()))
}

/// `snap.NAME.APP (enforce)`.
pub(super) fn snap_by_label(label: &str) -> Option<Bundle> {
    let (name, _) = label.strip_prefix("snap.")?.split_once('.')?;
    Some(Bundle::Snap(name.to_owned()))
}

/// `/snap/NAME/REVISION/…`, as the host sees it.
pub(super) fn snap_by_path(path: &Path) -> Option<Bundle> {
    let path = path.to_str()?;
    let mut below = ["/snap/", "/var/lib/snapd/snap/"]
        .iter()
        .find_map(|folder| path.strip_prefix(folder))?
        .split('/');
    let (name, revision) = (below.next()?, below.next()?);
    below.next()?;
    let is_revision = revision == "current"
        || revision
            .trim_start_matches('x')
            .bytes()
            .all(|octet| octet.is_ascii_digit());
    is_revision.then(|| Bundle::Snap(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snaps_are_told_by_label_and_path() {
        let snap = |name: &str| Some(Bundle::Snap(name.to_owned()));
        assert_eq!(
            snap_by_label("snap.firefox.firefox (enforce)"),
            snap("firefox")
        );
        assert_eq!(snap_by_label("unconfined"), None);
        assert_eq!(snap_by_label("snap.firefox"), None);
        let at = |path: &str| snap_by_path(Path::new(path));
        assert_eq!(
            at("/snap/firefox/4173/usr/lib/firefox/firefox"),
            snap("firefox")
        );
        assert_eq!(at("/snap/mine/x1/bin/mine"), snap("mine"));
        assert_eq!(at("/snap/bin/firefox"), None);
        assert_eq!(at("/home/u/snap/firefox/4173/x"), None);
    }

    #[test]
    fn a_flatpak_is_told_by_its_own_section() {
        let info = "[Instance]\nname=no\n[Application]\nruntime=x\nname=org.mozilla.firefox\n";
        let firefox = Bundle::Flatpak("org.mozilla.firefox".to_owned());
        assert_eq!(flatpak_by_info(info), Some(firefox));
        assert_eq!(flatpak_by_info("[Runtime]\nname=x\n"), None);
        assert_eq!(flatpak_by_info("[Application]\n[Other]\nname=x\n"), None);
    }
}
