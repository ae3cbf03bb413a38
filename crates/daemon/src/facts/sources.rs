//! What /proc or an event tells of one process or program.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use offramp_rules::{Bundle, Cgroup};

use super::file::{Opened, name_of};
use super::interpreter::{Run, Shebang};
use super::process::Running;
use super::search::Known;
use super::{Start, bundle, cgroup};

/// How often a process is looked at again that starts another program meanwhile.
const ATTEMPTS: usize = 8;

/// A program with its process, before names are given to it.
#[derive(Default)]
pub(super) struct Source {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: BTreeSet<u32>,
    pub(super) executable: Option<Opened>,
    /// The last part of the name by which the executable was started.
    pub(super) called: Option<String>,
    pub(super) script: Option<Opened>,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) bundles: BTreeSet<Bundle>,
}

/// A process that runs now.
pub(super) fn running(pid: u32) -> Option<Source> {
    let process = Running::open(pid)?;
    for _ in 0..ATTEMPTS {
        let executable = process.executable().ok()?;
        let before = executable.id;
        let owner = process.owner()?;
        let arguments = process.arguments();
        let called = arguments.first().and_then(|name| last_part(name));
        let source = Source {
            script: script_of(&process, &executable, None, &arguments),
            called,
            cgroup: cgroup::of_process(&process),
            bundles: bundle::of_process(&process, owner.uid),
            uid: owner.uid,
            gid: owner.gid,
            groups: owner.groups,
            executable: Some(executable),
        };
        if process.executable().ok()?.id == before {
            return Some(source);
        }
    }
    None
}

/// A process that still runs what it started. What it was given is told by the event alone.
pub(super) fn started(start: &Start<'_>) -> Option<Source> {
    let process = Running::open(start.pid)?;
    let executable = process.executable().ok()?;
    if executable.id.is_some_and(|id| id != start.file) {
        return None;
    }
    let owner = process.owner()?;
    let script = script_of(&process, &executable, Some(start.filename), start.arguments);
    let bundles = bundle::of_process(&process, start.uid);
    // It may have started another program while it was looked at.
    if process.executable().ok()?.id != executable.id {
        return None;
    }
    Some(Source {
        uid: start.uid,
        gid: start.gid,
        groups: owner.groups,
        called: called(&executable, start),
        script,
        cgroup: cgroup::of_start(Some(&process), start.cgroup),
        bundles,
        executable: Some(executable),
    })
}

/// A process that is gone, or runs something else: the program where the event or the rules tell it.
pub(super) fn told(start: &Start<'_>, known: &Known) -> Option<Source> {
    let is_it = |opened: &Opened| opened.id == Some(start.file);
    // What it runs by now was started in the same folder, most likely.
    let process = Running::open(start.pid);
    let open = |path: &Path| match (path.is_absolute(), &process) {
        (true, _) => Opened::named(path).ok(),
        (false, Some(process)) => process.file(path).ok(),
        (false, None) => None,
    };
    let given = open(Path::new(start.filename));
    let interpreter = given
        .as_ref()
        .filter(|opened| !is_it(opened))
        .and_then(|script| Opened::named(&Shebang::of(script)?.interpreter).ok());
    let executable = [interpreter, given]
        .into_iter()
        .flatten()
        .find(is_it)
        .or_else(|| Opened::at(known.path_of(start.file)?).ok().filter(is_it))?;
    let place = executable.place();
    let run = Run {
        executable: &executable,
        name: place.name.as_deref(),
        filename: Some(start.filename),
        arguments: start.arguments,
    };
    let script = run.script(open);
    Some(Source {
        uid: start.uid,
        gid: start.gid,
        called: called(&executable, start),
        script,
        cgroup: cgroup::of_start(None, start.cgroup),
        executable: Some(executable),
        ..Source::default()
    })
}

/// A program that is not running.
pub(super) fn at(path: &Path, uid: u32) -> io::Result<Source> {
    let given = Opened::at(path)?;
    let interpreter = Shebang::of(&given)
        .and_then(|line| line.program())
        .and_then(|path| Opened::at(&path).ok());
    let (executable, script) = match interpreter {
        Some(interpreter) => (interpreter, Some(given)),
        None => (given, None),
    };
    Ok(Source {
        uid,
        called: name_of(path),
        executable: Some(executable),
        script,
        ..Source::default()
    })
}

fn script_of(
    process: &Running,
    executable: &Opened,
    filename: Option<&str>,
    arguments: &[String],
) -> Option<Opened> {
    let place = executable.place();
    let run = Run {
        executable,
        name: place.name.as_deref(),
        filename,
        arguments,
    };
    run.script(|path| process.file(path).ok())
}

/// The kernel gives an interpreter the name in the script's first line as its own.
fn called(executable: &Opened, start: &Start<'_>) -> Option<String> {
    let own = start.arguments.first();
    match executable.place().name.as_deref() == Some("busybox") {
        true => own.and_then(|name| last_part(name)),
        false => last_part(start.filename),
    }
}

fn last_part(name: &str) -> Option<String> {
    name.rsplit('/').next().map(str::to_owned)
}
