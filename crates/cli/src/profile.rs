//! `offramp profile`: 0 done, 1 invalid, 2 not permitted, 3 unchanged.

mod folder;
mod user;

use std::io::{ErrorKind, Read};
use std::path::Path;

use offramp_control::{Client, ClientError};
use offramp_profile::{ChangeError, Code, Installed, Problem};
use offramp_rules::Layer;
use serde::Serialize;

use crate::arguments::{self, Profile};
use crate::failure::{FAILED, Failure};
use crate::output;
use crate::status;

const INVALID: u8 = FAILED;
const NOT_PERMITTED: u8 = 2;
const UNCHANGED: u8 = 3;
/// The machine failed, a full disk for example (`EX_IOERR`).
const BROKEN: u8 = 74;

const MAX_TEXT: u64 = 4 * 1024 * 1024;

pub(crate) async fn run(client: &Client, command: Profile) -> Result<(), Failure> {
    match command {
        Profile::Check { files, user, json } => check(&files, user, json),
        Profile::Install { file, layer, store } => match store.machine(layer) {
            Some(config) => install(client, &file, layer, &config, store.json).await,
            None => user::install(client, &file, store.json).await,
        },
        Profile::Remove { identifier, store } => match store.machine(None) {
            Some(config) => remove(client, &identifier, &config, store.json).await,
            None => user::remove(client, &identifier, store.json).await,
        },
        Profile::Sync(json) => user::sync(client, json.json).await,
        Profile::List(json) => list(client, json.json).await,
        Profile::Show { identifier, json } => show(client, &identifier, json).await,
    }
}

/// What was found in one file.
#[derive(Debug, Serialize)]
struct Checked {
    file: String,
    valid: bool,
    profiles: Vec<String>,
    problems: Vec<Problem>,
}

fn check(files: &[std::path::PathBuf], user: bool, json: bool) -> Result<(), Failure> {
    let mut worst = 0;
    let mut report = Vec::new();
    for file in files {
        let (checked, status) = check_one(file, user);
        worst = worst.max(status);
        if !json {
            output::print(&describe(&checked))?;
        }
        report.push(checked);
    }
    if json {
        output::print_json(&report)?;
    }
    if worst == 0 {
        Ok(())
    } else {
        Err(Failure::silent(worst))
    }
}

fn check_one(file: &Path, user: bool) -> (Checked, u8) {
    let name = name_of(file);
    let unread = |(problems, status)| {
        let checked = Checked {
            file: name.clone(),
            valid: false,
            profiles: Vec::new(),
            problems,
        };
        (checked, status)
    };
    let bytes = match read_file(file) {
        Ok(bytes) => bytes,
        Err(unreadable) => return unread(unreadable),
    };
    match read(&bytes, Path::new(&name), user) {
        Ok((profiles, problems)) => {
            let checked = Checked {
                file: name,
                valid: true,
                profiles,
                problems,
            };
            (checked, 0)
        }
        Err(problems) => unread((problems, INVALID)),
    }
}

/// The names of the profiles of a file, or those that its overlays are for, and what a person should
/// know of them.
fn read(
    bytes: &[u8],
    name: &Path,
    user: bool,
) -> Result<(Vec<String>, Vec<Problem>), Vec<Problem>> {
    let (profiles, overlays) = match user {
        true => offramp_profile::read_user(bytes, Some(name), nix::unistd::geteuid().as_raw())?,
        false => (
            offramp_profile::read_bytes(bytes, Some(name), Layer::Managed)?,
            Vec::new(),
        ),
    };
    let own = profiles.iter().map(|own| own.identifier().to_owned());
    let others = overlays.iter().map(|overlay| overlay.identifier.clone());
    let notices = profiles.iter().flat_map(offramp_profile::notices);
    Ok((own.chain(others).collect(), notices.collect()))
}

fn describe(checked: &Checked) -> String {
    if checked.valid {
        let names = checked.profiles.join(", ");
        let ok = output::clean(&format!("{}: ok: {names}", checked.file)) + "\n";
        let warning =
            |notice: &Problem| format!("warning: {}\n", output::clean(&notice.to_string()));
        return checked
            .problems
            .iter()
            .map(warning)
            .fold(ok, |text, line| text + &line);
    }
    lines(&checked.problems)
}

fn lines(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| output::clean(&problem.to_string()) + "\n")
        .collect()
}

fn name_of(file: &Path) -> String {
    if file == Path::new("-") {
        "<stdin>".to_owned()
    } else {
        file.display().to_string()
    }
}

/// The bytes of a file or of standard input; a problem and the exit status where there are none.
fn read_file(file: &Path) -> Result<Vec<u8>, (Vec<Problem>, u8)> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(MAX_TEXT + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file)
            .and_then(|opened| opened.take(MAX_TEXT + 1).read_to_end(&mut bytes))
    };
    let (message, status) = match read {
        Ok(_) if bytes.len() as u64 <= MAX_TEXT => return Ok(bytes),
        Ok(_) => (format!("is larger than {MAX_TEXT} bytes"), INVALID),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            (format!("cannot be read: {error}"), NOT_PERMITTED)
        }
        Err(error) => (format!("cannot be read: {error}"), INVALID),
    };
    let problem = Problem {
        code: Code::CannotBeApplied,
        file: Some(name_of(file).into()),
        line: 0,
        column: 0,
        key_path: String::new(),
        message,
        hint: None,
    };
    Err((vec![problem], status))
}

/// What a change of the configuration directory did.
#[derive(Debug, Serialize)]
struct Changed {
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<Problem>,
    /// What became of it in the running daemon.
    daemon: Daemon,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Installed,
    Removed,
    Unchanged,
    Invalid,
    NotPermitted,
    Failed,
}

impl Outcome {
    fn status(self) -> u8 {
        match self {
            Self::Installed | Self::Removed => 0,
            Self::Invalid => INVALID,
            Self::NotPermitted => NOT_PERMITTED,
            Self::Unchanged => UNCHANGED,
            Self::Failed => BROKEN,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Daemon {
    /// Nothing changed, so it was not asked.
    NotAsked,
    /// It has read the configuration again.
    Reloaded,
    /// None runs; it will read the configuration when it starts.
    NotRunning,
    /// It did not read the configuration again, for this reason.
    Refused(String),
}

async fn install(
    client: &Client,
    file: &Path,
    layer: Option<arguments::Layer>,
    config: &Path,
    json: bool,
) -> Result<(), Failure> {
    let layer = match layer {
        None | Some(arguments::Layer::Managed) => Layer::Managed,
        Some(arguments::Layer::Recommended) => Layer::Recommended,
    };
    let mut changed = match text(file, layer) {
        Err((problems, NOT_PERMITTED)) => not_done(Outcome::NotPermitted, problems),
        Err((problems, _)) => not_done(Outcome::Invalid, problems),
        Ok(text) => match offramp_profile::install(config, layer, &text) {
            Ok(Installed::Installed(path)) => done(Outcome::Installed, &path),
            Ok(Installed::Unchanged(path)) => done(Outcome::Unchanged, &path),
            Err(error) => failed(error),
        },
    };
    for problem in &mut changed.problems {
        problem.file.get_or_insert_with(|| name_of(file).into());
    }
    finish(client, changed, json).await
}

async fn remove(
    client: &Client,
    identifier: &str,
    config: &Path,
    json: bool,
) -> Result<(), Failure> {
    let changed = match offramp_profile::remove(config, identifier) {
        Ok(path) => done(Outcome::Removed, &path),
        Err(error) => failed(error),
    };
    finish(client, changed, json).await
}

/// The text of a profile, with its problems named after the file that the person gave.
fn text(file: &Path, layer: Layer) -> Result<String, (Vec<Problem>, u8)> {
    let bytes = read_file(file)?;
    let name = name_of(file);
    offramp_profile::read_bytes(&bytes, Some(Path::new(&name)), layer)
        .map_err(|problems| (problems, INVALID))?;
    Ok(String::from_utf8(bytes).expect("the reader takes UTF-8 only"))
}

fn done(outcome: Outcome, path: &Path) -> Changed {
    let path = Some(path.display().to_string());
    Changed {
        outcome,
        path,
        problems: Vec::new(),
        daemon: Daemon::NotAsked,
    }
}

fn not_done(outcome: Outcome, problems: Vec<Problem>) -> Changed {
    Changed {
        outcome,
        path: None,
        problems,
        daemon: Daemon::NotAsked,
    }
}

fn failed(error: ChangeError) -> Changed {
    match error {
        ChangeError::Invalid(problems) => not_done(Outcome::Invalid, problems),
        ChangeError::NotPermitted(problem) => not_done(Outcome::NotPermitted, vec![problem]),
        ChangeError::Failed(problem) => not_done(Outcome::Failed, vec![problem]),
        ChangeError::NotInstalled(_) => not_done(Outcome::Unchanged, Vec::new()),
    }
}

async fn finish(client: &Client, mut changed: Changed, json: bool) -> Result<(), Failure> {
    if changed.outcome.status() == 0 {
        changed.daemon = match client.reload().await {
            Ok(answer) => {
                let foreign = answer.problems.iter().map(status::describe);
                foreign.for_each(|problem| eprintln!("offramp: {problem}"));
                Daemon::Reloaded
            }
            Err(ClientError::Unreachable { .. }) => Daemon::NotRunning,
            Err(error) => Daemon::Refused(crate::failure::chain(&error)),
        };
    }
    if json {
        output::print_json(&changed)?;
    } else {
        output::print(&tell(&changed))?;
    }
    match changed.outcome.status() {
        0 => Ok(()),
        status => Err(Failure::silent(status)),
    }
}

fn tell(changed: &Changed) -> String {
    let path = changed.path.as_deref().unwrap_or_default();
    let what = match changed.outcome {
        Outcome::Installed => format!("Installed as {path}"),
        Outcome::Removed => format!("Removed {path}"),
        Outcome::Unchanged if path.is_empty() => {
            return "Nothing changed: no such profile is installed.\n".into();
        }
        Outcome::Unchanged => return format!("Nothing changed: {path} says the same already.\n"),
        Outcome::Invalid | Outcome::NotPermitted | Outcome::Failed => {
            return lines(&changed.problems);
        }
    };
    match &changed.daemon {
        Daemon::NotAsked => format!("{what}.\n"),
        Daemon::Reloaded => format!("{what}; the daemon has read it.\n"),
        Daemon::NotRunning => format!("{what}; no daemon runs, the next one will read it.\n"),
        Daemon::Refused(why) => {
            format!(
                "{what}; the daemon did not read it: {}.\n",
                output::clean(why)
            )
        }
    }
}

async fn list(client: &Client, json: bool) -> Result<(), Failure> {
    let profiles = client.profiles().await.map_err(of_profile)?;
    if json {
        return output::print_json(&profiles);
    }
    output::print(&status::profiles(&profiles, output::colour()))?;
    for name in user::missing(&profiles) {
        let name = output::clean(&name);
        eprintln!("offramp: your profile {name} is not in force: `offramp profile sync` sends it");
    }
    Ok(())
}

async fn show(client: &Client, identifier: &str, json: bool) -> Result<(), Failure> {
    let profile = client.profile(identifier).await.map_err(of_profile)?;
    if json {
        return output::print_json(&profile);
    }
    let end = if profile.text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    output::print(&format!("{}{end}", profile.text))
}

/// The statuses that all `profile` commands share.
fn of_profile(error: ClientError) -> Failure {
    use offramp_control::Code;

    let status = match error.code() {
        Some(Code::NotPermitted) => Some(NOT_PERMITTED),
        Some(Code::NotFound | Code::Invalid | Code::BadRequest) => Some(INVALID),
        _ => None,
    };
    let failure = Failure::from(error);
    match status {
        Some(status) => failure.with_status(status),
        None => failure,
    }
}
