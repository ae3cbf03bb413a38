//! What /proc or an event tells of one process or program.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use offramp_rules::{Bundle, Cgroup};

use super::file::{Opened, name_of};
use super::interpreter::{Arguments, Ran, Run, Shebang, Unknown};
use super::process::Running;
use super::search::Known;
use super::{Start, bundle, cgroup};

/// How often a process is looked at again that starts another program meanwhile.
const ATTEMPTS: usize = 8;
/// How many octets of arguments an event has, but for the zero behind the last one.
const ARGUMENTS: usize = 511;

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

/// A process that runs now. None where it cannot be known what it runs, too.
pub(super) fn running(pid: u32) -> Option<Source> {
    let process = Running::open(pid)?;
    for _ in 0..ATTEMPTS {
        let executable = process.executable().ok()?;
        let before = executable.id;
        let owner = process.owner()?;
        let arguments = process.arguments();
        let called = arguments.list.first().and_then(|name| last_part(name));
        let ran = ran_by(&process, &executable, None, &arguments);
        let source = Source {
            called,
            cgroup: cgroup::of_process(&process),
            bundles: bundle::of_process(&process, owner.uid),
            uid: owner.uid,
            gid: owner.gid,
            groups: owner.groups,
            ..Source::default()
        };
        if process.executable().ok()?.id == before {
            return Some(source.with(executable, ran.ok()?));
        }
    }
    None
}

/// A process that still runs what it started. What it was given is told by the event, as far as it
/// has room for that.
pub(super) fn started(start: &Start<'_>) -> Option<Source> {
    let process = Running::open(start.pid)?;
    let executable = process.executable().ok()?;
    if executable.id.is_some_and(|id| id != start.file) {
        return None;
    }
    let owner = process.owner()?;
    let arguments = given(start, Some(&process));
    let ran = ran_by(&process, &executable, Some(start.filename), &arguments).ok()?;
    let bundles = bundle::of_process(&process, start.uid);
    // It may have started another program while it was looked at.
    if process.executable().ok()?.id != executable.id {
        return None;
    }
    let source = Source {
        uid: start.uid,
        gid: start.gid,
        groups: owner.groups,
        called: called(&executable, start),
        cgroup: cgroup::of_start(Some(&process), start.cgroup),
        bundles,
        ..Source::default()
    };
    Some(source.with(executable, ran))
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
    let named = open(Path::new(start.filename));
    let interpreter = named
        .as_ref()
        .filter(|opened| !is_it(opened))
        .and_then(|script| Opened::named(&Shebang::of(script)?.interpreter).ok());
    let executable = [interpreter, named]
        .into_iter()
        .flatten()
        .find(is_it)
        .or_else(|| Opened::at(known.path_of(start.file)?).ok().filter(is_it))?;
    let place = executable.place();
    let arguments = given(start, None);
    let run = Run {
        executable: &executable,
        name: place.name.as_deref(),
        filename: Some(start.filename),
        arguments: &arguments.list,
        are_cut: arguments.are_cut,
    };
    let ran = run.find(&open).ok()?;
    let source = Source {
        uid: start.uid,
        gid: start.gid,
        called: called(&executable, start),
        cgroup: cgroup::of_start(None, start.cgroup),
        ..Source::default()
    };
    Some(source.with(executable, ran))
}

/// A program that is not running.
pub(super) fn at(path: &Path, uid: u32) -> io::Result<Source> {
    let given = Opened::named(path)?;
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

impl Source {
    fn with(self, executable: Opened, ran: Ran) -> Self {
        let through = ran.interpreter.as_ref().and_then(|it| it.place().name);
        Self {
            called: through.or(self.called),
            executable: Some(ran.interpreter.unwrap_or(executable)),
            script: ran.script,
            ..self
        }
    }
}

fn ran_by(
    process: &Running,
    executable: &Opened,
    filename: Option<&str>,
    arguments: &Arguments,
) -> Result<Ran, Unknown> {
    let place = executable.place();
    let run = Run {
        executable,
        name: place.name.as_deref(),
        filename,
        arguments: &arguments.list,
        are_cut: arguments.are_cut,
    };
    run.find(&|path| process.file(path).ok())
}

/// What a program was given: where the event had no room for all of it, as the process says, if
/// that begins as the event does.
fn given(start: &Start<'_>, process: Option<&Running>) -> Arguments {
    let all = start.arguments;
    // Text that was mended is no shorter than what it was.
    let length = all.iter().map(|argument| argument.len() + 1).sum::<usize>();
    let could_not_be_read = matches!(all, [only] if only.is_empty());
    let whole = match all.split_last() {
        Some((_, whole)) if length > ARGUMENTS || could_not_be_read => whole,
        _ => {
            return Arguments {
                list: all.to_vec(),
                are_cut: false,
            };
        }
    };
    let begin = all[whole.len()].trim_end_matches(char::REPLACEMENT_CHARACTER);
    let is_it = |said: &Arguments| {
        let next = said.list.get(whole.len());
        said.list.starts_with(whole) && next.is_some_and(|next| next.starts_with(begin))
    };
    let said = process.map(Running::arguments).filter(is_it);
    said.unwrap_or_else(|| Arguments {
        list: whole.to_vec(),
        are_cut: true,
    })
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
