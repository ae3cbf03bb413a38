//! Which script an interpreter runs.

mod options;

use std::path::{Path, PathBuf};

use super::file::{Opened, name_of};
use super::search;

pub(super) use options::Family;
use options::Found;

/// How much of the first line the kernel reads.
const FIRST_LINE: usize = 256;
/// Up to here the kernel puts the script among the arguments: four interpreters that are scripts
/// themselves, with one option each.
const DEEPEST: usize = 8;

/// The first line of a script.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shebang {
    /// What the kernel executes.
    pub(super) interpreter: PathBuf,
    /// The name of what env(1) executes, where it is that.
    pub(super) through_env: Option<String>,
}

impl Shebang {
    pub(super) fn of(opened: &Opened) -> Option<Self> {
        Self::parse(&opened.head(FIRST_LINE))
    }

    pub(super) fn parse(head: &[u8]) -> Option<Self> {
        let line = head
            .strip_prefix(b"#!")?
            .split(|octet| *octet == b'\n')
            .next()?;
        let line = std::str::from_utf8(line)
            .ok()?
            .trim_matches([' ', '\t', '\r']);
        let (interpreter, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        if interpreter.is_empty() {
            return None;
        }
        let is_env = interpreter.ends_with("/env");
        let named = rest
            .split_whitespace()
            .find(|word| !word.starts_with('-') && !word.contains('='));
        Some(Self {
            interpreter: PathBuf::from(interpreter),
            through_env: named.filter(|_| is_env).map(str::to_owned),
        })
    }

    /// Where the host has the program that runs the script in the end.
    pub(super) fn program(&self) -> Option<PathBuf> {
        match &self.through_env {
            Some(name) if name.starts_with('/') => Some(PathBuf::from(name)),
            Some(name) => search::in_standard_folders(name),
            None => Some(self.interpreter.clone()),
        }
    }

    /// What runs scripts like this.
    pub(super) fn family(&self) -> Option<Family> {
        match &self.through_env {
            Some(name) => Family::of_program(name.rsplit('/').next()?),
            None => Family::of_program(&name_of(&self.interpreter)?),
        }
    }

    /// Whether this is the file that the kernel, or env(1), executes for it.
    pub(super) fn is_run_by(&self, executable: &Opened) -> bool {
        executable.is_at(&self.interpreter)
            || self.program().is_some_and(|path| executable.is_at(&path))
    }
}

/// What a program was given, its own name first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) list: Vec<String>,
    /// Whether there were more.
    pub(super) are_cut: bool,
}

/// The arguments are cut before they say what runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown;

/// What runs in the end.
#[derive(Default)]
pub(super) struct Ran {
    pub(super) script: Option<Opened>,
    /// The interpreter that a loader was told to run, and that runs the script.
    pub(super) interpreter: Option<Opened>,
}

/// What is known of a start.
pub(super) struct Run<'a> {
    pub(super) executable: &'a Opened,
    /// The name of the executable's file.
    pub(super) name: Option<&'a str>,
    /// What was given to exec, where that is known.
    pub(super) filename: Option<&'a str>,
    pub(super) arguments: &'a [String],
    pub(super) are_cut: bool,
}

impl Run<'_> {
    /// What runs. `open` finds files as the process does.
    pub(super) fn find(&self, open: &dyn Fn(&Path) -> Option<Opened>) -> Result<Ran, Unknown> {
        if let Some(script) = self.by_filename(open) {
            return Ok(Ran::script(script));
        }
        if let Some(family) = self.family() {
            return self.by_arguments(family, open);
        }
        Ok(Ran {
            script: self.by_first_line(open),
            ..Ran::default()
        })
    }

    /// The kernel was given a script, and gave its path on to the interpreter.
    fn by_filename(&self, open: impl Fn(&Path) -> Option<Opened>) -> Option<Opened> {
        let filename = self.filename?;
        // A long one was cut.
        let is_it = |argument: &&String| match filename.len() {
            0..255 => argument.as_str() == filename,
            _ => argument.starts_with(filename),
        };
        let whole = self.arguments.iter().skip(1).take(DEEPEST).find(is_it)?;
        match open(Path::new(whole)) {
            Some(script) if script.id == self.executable.id => None,
            Some(script) => Some(script),
            None => lost(whole),
        }
    }

    /// An interpreter was told to run it.
    fn by_arguments(
        &self,
        family: Family,
        open: &dyn Fn(&Path) -> Option<Opened>,
    ) -> Result<Ran, Unknown> {
        let arguments = self.arguments.get(1..).unwrap_or_default();
        let (path, at) = match family.find(arguments) {
            Found::Script(path, at) => (path, at),
            Found::End if self.are_cut => return Err(Unknown),
            Found::Nothing | Found::End => return Ok(Ran::default()),
        };
        let more = family.default_extension();
        let script = open(Path::new(path))
            .or_else(|| more.and_then(|more| open(Path::new(&format!("{path}{more}")))));
        match script {
            Some(program) if family == Family::Loader => {
                self.by_loader(program, &arguments[at..], open)
            }
            Some(script) => Ok(Ran::script(script)),
            None => Ok(Ran {
                script: lost(path),
                ..Ran::default()
            }),
        }
    }

    /// A loader was told to run a program, which may be an interpreter.
    fn by_loader(
        &self,
        program: Opened,
        arguments: &[String],
        open: &dyn Fn(&Path) -> Option<Opened>,
    ) -> Result<Ran, Unknown> {
        let place = program.place();
        let run = Run {
            executable: &program,
            name: place.name.as_deref(),
            filename: None,
            arguments,
            are_cut: self.are_cut,
        };
        let Some(family) = run.family().filter(|family| *family != Family::Loader) else {
            return Ok(Ran::script(program));
        };
        match run.by_arguments(family, open)?.script {
            Some(script) => Ok(Ran {
                script: Some(script),
                interpreter: Some(program),
            }),
            None => Ok(Ran::script(program)),
        }
    }

    /// A file among the arguments says that this very executable runs it.
    fn by_first_line(&self, open: impl Fn(&Path) -> Option<Opened>) -> Option<Opened> {
        if self.filename.is_some() {
            return None;
        }
        let words = self.arguments.iter().skip(1).take(2);
        words
            .filter(|word| !word.is_empty() && !word.starts_with('-'))
            .filter_map(|word| open(Path::new(word)))
            .find(|script| Shebang::of(script).is_some_and(|line| line.is_run_by(self.executable)))
    }

    fn family(&self) -> Option<Family> {
        let name = self.name?;
        if search::MULTI_CALL.contains(&name) {
            return Family::of_program(self.arguments.first()?.rsplit('/').next()?);
        }
        Family::of_program(name)
    }
}

impl Ran {
    fn script(script: Opened) -> Self {
        Self {
            script: Some(script),
            interpreter: None,
        }
    }
}

fn lost(path: &str) -> Option<Opened> {
    Some(Opened::lost(name_of(Path::new(path))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines() {
        let check = |line: &str, interpreter: &str, env: Option<&str>| {
            let expected = Shebang {
                interpreter: PathBuf::from(interpreter),
                through_env: env.map(str::to_owned),
            };
            assert_eq!(Shebang::parse(line.as_bytes()), Some(expected), "{line}");
        };
        check("#!/bin/sh\necho", "/bin/sh", None);
        check("#! /bin/sh -e\n", "/bin/sh", None);
        check(
            "#!/usr/bin/env python3\r\n",
            "/usr/bin/env",
            Some("python3"),
        );
        check(
            "#!/usr/bin/env -S X=1 perl -w\n",
            "/usr/bin/env",
            Some("perl"),
        );
        check("#!\t/opt/bin/awk -f", "/opt/bin/awk", None);
        assert_eq!(Shebang::parse(b"\x7fELF"), None);
        assert_eq!(Shebang::parse(b"#!\nx"), None);
    }
}
