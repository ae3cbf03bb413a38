//! What offramp adds to a running system, and what of it is gone.

use std::path::{Path, PathBuf};

const PINS: &str = "/sys/fs/bpf/offramp";
const DEVICE: &str = "offramp0";

/// What was found before anything was removed.
#[derive(Debug)]
pub(super) struct Traces {
    pins: Option<PathBuf>,
    device: bool,
    namespace: Option<PathBuf>,
    runs: Option<PathBuf>,
}

impl Traces {
    /// Looks for the traces of a daemon with this folder; its name is read there where not known.
    pub(super) fn find(runtime: &Path, instance: Option<&str>) -> Self {
        let written = std::fs::read_to_string(runtime.join("instance")).ok();
        let instance = instance
            .map(str::to_owned)
            .or_else(|| written.map(|name| name.trim().to_owned()))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".into());
        Self {
            pins: Some(Path::new(PINS).join(instance)).filter(|path| path.exists()),
            device: has_device(),
            namespace: Some(runtime.join("netns")).filter(|path| is_mounted(path)),
            runs: Some(runtime.join("runs")).filter(|path| path.exists()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pins.is_none() && !self.device && self.namespace.is_none() && self.runs.is_none()
    }

    /// Says what of it is gone.
    pub(super) fn removed(&self) -> String {
        if self.is_empty() {
            return "Nothing of offramp was there.\n".into();
        }
        let mut text = String::new();
        let mut tell = |is_there: bool, what: &str| {
            let verb = if is_there { "still there" } else { "removed" };
            text.push_str(&format!("{verb}: {what}\n"));
        };
        if let Some(pins) = &self.pins {
            let what = format!("the programs and maps in {}", pins.display());
            tell(pins.exists(), &what);
        }
        if self.device {
            tell(has_device(), "the device offramp0, its rules and routes");
        }
        if let Some(namespace) = &self.namespace {
            let what = format!("the network namespace at {}", namespace.display());
            tell(is_mounted(namespace), &what);
        }
        if let Some(runs) = &self.runs {
            let what = format!("the profiles of `run --server` in {}", runs.display());
            tell(runs.exists(), &what);
        }
        text
    }
}

fn has_device() -> bool {
    nix::net::if_::if_nametoindex(DEVICE).is_ok()
}

/// Whether something is mounted at a path, as the namespace is.
fn is_mounted(path: &Path) -> bool {
    let Ok(mounts) = std::fs::read_to_string("/proc/self/mountinfo") else {
        return path.exists();
    };
    let path = path.display().to_string();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(path.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_gone_and_what_is_not() {
        let folder = tempfile::tempdir().expect("the system has room for temporary files");
        let (pins, runs) = (folder.path().join("pins"), folder.path().join("runs"));
        std::fs::create_dir(&pins).expect("the folder is ours");
        let traces = Traces {
            pins: Some(pins.clone()),
            device: false,
            namespace: None,
            runs: Some(runs.clone()),
        };
        let expected = format!(
            "still there: the programs and maps in {}\n\
             removed: the profiles of `run --server` in {}\n",
            pins.display(),
            runs.display()
        );
        assert_eq!(traces.removed(), expected);
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        let traces = Traces {
            pins: None,
            device: false,
            namespace: None,
            runs: None,
        };
        assert_eq!(traces.removed(), "Nothing of offramp was there.\n");
    }
}
