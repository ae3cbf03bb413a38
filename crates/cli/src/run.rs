//! `offramp run`: becomes the command, under a profile.
//!
//! One single thread from start to exec: the daemon labels the task that asks.

pub(crate) mod rights;

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use offramp_control::{Code, RunRequest, RunServer, blocking};

use crate::arguments::Run;
use crate::failure::{Failure, NO_INPUT, NOT_EXECUTABLE, NOT_FOUND, USAGE};
use crate::output;

/// The daemon may hold the call while the profile connects for the first time.
const LIMIT: Duration = Duration::from_secs(15);
const MAX_CA: u64 = 512 * 1024;
const MAX_URL: u64 = 64 * 1024;
/// Where commands are looked for when `PATH` is not set.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Returns only where the command was not started.
pub(crate) fn run(socket: &Path, arguments: Run) -> Failure {
    let (name, rest) = arguments
        .command
        .split_first()
        .expect("clap wants at least one");
    let prepared = find(name).and_then(|program| Ok((request(&arguments, &program)?, program)));
    let (request, program) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return failure,
    };
    match blocking::run(socket, &request, LIMIT) {
        Ok(answer) if !arguments.quiet => {
            for notice in &answer.notices {
                eprintln!("offramp: {}", output::clean(notice));
                if let Some(hint) = hint(notice, &arguments) {
                    eprintln!("  {hint}");
                }
            }
        }
        Ok(_) => {}
        Err(error) => {
            let choose = matches!(error.code(), Some(Code::Conflict | Code::NotFound));
            let failure = Failure::from(error);
            return if choose {
                with_choice(failure, socket)
            } else {
                failure
            };
        }
    }
    if let Err(failure) = rights::give_up(&arguments.keep_capabilities) {
        return failure;
    }
    become_command(name, &program, rest)
}

/// What a notice of the daemon, which knows no command lines, means for this one.
fn hint(notice: &str, arguments: &Run) -> Option<String> {
    arguments
        .server
        .as_ref()
        .map(drop)
        .or(arguments.server_file.as_ref().map(drop))?;
    if !notice.contains("issuer is not trusted") {
        return None;
    }
    Some(match &arguments.ca {
        Some(file) => format!(
            "{} does not hold the certificate of that server, nor of the authority that signed it",
            file.display()
        ),
        None => "give the certificate of its authority with --ca FILE".to_owned(),
    })
}

/// `std` restores SIGPIPE, which it ignores in this program, and leaves the signal mask alone.
fn become_command(name: &OsStr, program: &Path, rest: &[OsString]) -> Failure {
    let error = Command::new(program).arg0(name).args(rest).exec();
    let status = if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    };
    Failure::new(
        status,
        format!("cannot execute {}: {error}", program.display()),
    )
}

fn request(arguments: &Run, program: &Path) -> Result<RunRequest, Failure> {
    let program = program
        .to_str()
        .ok_or_else(|| {
            Failure::new(
                NOT_EXECUTABLE,
                format!("{} is not UTF-8", program.display()),
            )
        })?
        .to_owned();
    let url = match &arguments.server_file {
        Some(file) => Some(read_url(file)?),
        None => arguments.server.clone(),
    };
    let ca_pem = arguments.ca.as_deref().map(read_ca).transpose()?;
    let server = url.map(|url| RunServer { url, ca_pem });
    Ok(RunRequest {
        profile: arguments.profile.clone(),
        server,
        program,
    })
}

/// May be a pipe of the shell's.
fn read_url(file: &Path) -> Result<String, Failure> {
    let fail = |what: String| {
        let file = file.display();
        Failure::new(
            NO_INPUT,
            format!("cannot read the URL of --server-file {file}: {what}"),
        )
    };
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(MAX_URL).read_to_string(&mut text))
        .map_err(|error| fail(error.to_string()))?;
    let mut lines = text.lines();
    match (lines.next(), lines.next()) {
        (Some(url), None) if !url.is_empty() => Ok(url.to_owned()),
        _ => Err(fail("it does not hold one line".into())),
    }
}

fn read_ca(file: &Path) -> Result<String, Failure> {
    let fail = |what: String| {
        Failure::new(
            NO_INPUT,
            format!(
                "cannot read the certificates of --ca {}: {what}",
                file.display()
            ),
        )
    };
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(MAX_CA + 1).read_to_string(&mut text))
        .map_err(|error| fail(error.to_string()))?;
    if text.len() as u64 > MAX_CA {
        return Err(fail(format!("larger than {MAX_CA} bytes")));
    }
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        return Err(fail("there is no PEM certificate in it".into()));
    }
    Ok(text)
}

/// Adds the profiles that there are, as far as the daemon tells.
fn with_choice(failure: Failure, socket: &Path) -> Failure {
    let Ok(profiles) = blocking::profiles(socket, LIMIT) else {
        return failure;
    };
    let names: Vec<_> = profiles
        .iter()
        // Those are of commands that run.
        .filter(|profile| profile.layer != "run")
        .map(|profile| output::clean(&profile.identifier))
        .collect();
    let hint = if names.is_empty() {
        "there is no profile yet: install one with `offramp profile install FILE`, or use --server"
            .to_owned()
    } else {
        format!("choose one with --profile: {}", names.join(", "))
    };
    failure.hint(hint).with_status(USAGE)
}

/// Finds a command as a shell does, as an absolute path.
pub(crate) fn find(name: &OsStr) -> Result<PathBuf, Failure> {
    if name.as_bytes().contains(&b'/') {
        return examine(Path::new(name)).map_err(|why| why.failure(name));
    }
    if name.is_empty() {
        return Err(Unfit::Missing.failure(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut verdict = Unfit::Missing;
    for folder in std::env::split_paths(&path) {
        let folder = if folder.as_os_str().is_empty() {
            PathBuf::from(".")
        } else {
            folder
        };
        match examine(&folder.join(name)) {
            Ok(program) => return Ok(program),
            Err(Unfit::Missing | Unfit::Folder) => {}
            Err(unfit) => verdict = unfit,
        }
    }
    Err(verdict.failure(name))
}

/// Why a file is no command.
enum Unfit {
    Missing,
    Folder,
    NotExecutable(io::Error),
}

impl Unfit {
    fn failure(self, name: &OsStr) -> Failure {
        let name = output::clean(&name.to_string_lossy());
        match self {
            Self::Missing => Failure::new(NOT_FOUND, format!("{name}: command not found")),
            Self::Folder => Failure::new(NOT_EXECUTABLE, format!("{name}: is a directory")),
            Self::NotExecutable(error) => Failure::new(
                NOT_EXECUTABLE,
                format!("{name}: cannot be executed: {error}"),
            ),
        }
    }
}

fn examine(file: &Path) -> Result<PathBuf, Unfit> {
    match std::fs::metadata(file) {
        Ok(facts) if facts.is_dir() => return Err(Unfit::Folder),
        Ok(_) => {}
        Err(error) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Unfit::Missing,
                _ => Unfit::NotExecutable(error),
            });
        }
    }
    access(file, AccessFlags::X_OK).map_err(|errno| Unfit::NotExecutable(errno.into()))?;
    std::path::absolute(file).map_err(Unfit::NotExecutable)
}
