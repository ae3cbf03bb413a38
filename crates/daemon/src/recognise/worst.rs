//! Programs that are gone before they could be looked at.

use std::collections::BTreeSet;
use std::path::Path;

use offramp_intercept::Exec;
use offramp_rules::{App, Profiles, Program, User, candidates};

/// What the kernel tells of the arguments.
const ARGUMENTS: usize = 512;

/// Whether the program may have been given more than the event tells.
pub(super) fn is_cut(exec: &Exec) -> bool {
    let told: usize = exec
        .arguments
        .iter()
        .map(|argument| argument.len() + 1)
        .sum();
    told >= ARGUMENTS
}

/// The most that a program can be whose file is not found any more, as it went on to another one or
/// ended: what it was called, wherever rules name that. `now` is what the process is by now.
pub(super) fn worst(exec: &Exec, rules: &Profiles, now: App) -> App {
    let program = |called: &str| {
        let path = Path::new(called);
        let name = path.file_name().and_then(|name| name.to_str());
        let known_as = match path.is_absolute() {
            true => BTreeSet::new(),
            false => {
                let named = candidates(rules).paths.into_iter();
                named
                    .filter(|known| known.file_name() == path.file_name())
                    .collect()
            }
        };
        Program {
            name: name.map(str::to_owned),
            path: path.is_absolute().then(|| path.to_owned()),
            known_as,
            ..Program::default()
        }
    };
    let mut arguments = exec.arguments.iter().skip(1);
    App {
        wrapper: None,
        user: User {
            id: exec.uid,
            ..now.user
        },
        executable: Some(program(&exec.filename)),
        script: arguments
            .find(|argument| !argument.starts_with('-'))
            .map(|script| program(script)),
        ..now
    }
}
