//! The profiles of a user who is not root: files in the user's own folder, sent to the daemon.

use std::path::{Path, PathBuf};

use offramp_control::{Client, ClientError, Code, Problem, Severity};
use serde::Serialize;

use super::folder::{Folder, problem};
use super::{BROKEN, INVALID, NOT_PERMITTED, UNCHANGED, name_of, read_file};
use crate::failure::{Failure, UNAVAILABLE, USAGE};
use crate::{output, status};

/// What became of the user's files.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    /// The user's own profiles that are in force now.
    profiles: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<Problem>,
    /// Why the daemon does not have the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Installed,
    Removed,
    Synced,
    Unchanged,
    Invalid,
    NotPermitted,
    Failed,
}

impl Outcome {
    fn status(self) -> u8 {
        match self {
            Self::Installed | Self::Removed | Self::Synced => 0,
            Self::Invalid => INVALID,
            Self::NotPermitted => NOT_PERMITTED,
            Self::Unchanged => UNCHANGED,
            Self::Failed => BROKEN,
        }
    }
}

/// Checks a file, puts it into the user's folder, and sends that.
pub(super) async fn install(client: &Client, file: &Path, json: bool) -> Result<(), Failure> {
    let folder = folder()?;
    let report = match put(&folder, file) {
        Ok((path, wrote)) => {
            let done = match wrote {
                true => Outcome::Installed,
                false => Outcome::Unchanged,
            };
            send(client, &folder, done, Some(path)).await
        }
        Err(report) => report,
    };
    finish(&report, json)
}

/// Removes a file from the user's folder, and sends that.
pub(super) async fn remove(client: &Client, identifier: &str, json: bool) -> Result<(), Failure> {
    let folder = folder()?;
    let files = [identifier.to_owned(), overlay_of(identifier)];
    let mut files = files.iter().filter_map(|name| folder.file_of(name));
    let path = files.find(|file| file.symlink_metadata().is_ok());
    let removed = path.as_deref().map(std::fs::remove_file);
    let report = match (removed, path) {
        (Some(Ok(())), path) => send(client, &folder, Outcome::Removed, path).await,
        (Some(Err(error)), Some(path)) if error.kind() != std::io::ErrorKind::NotFound => {
            failed(&path, "cannot be removed", &error)
        }
        _ => Report::new(Outcome::Unchanged, None),
    };
    finish(&report, json)
}

/// Sends the folder as it is.
pub(super) async fn sync(client: &Client, json: bool) -> Result<(), Failure> {
    let folder = folder()?;
    finish(&send(client, &folder, Outcome::Synced, None).await, json)
}

/// The user's own profiles that are not among these, and files that have no profile.
pub(super) fn missing(in_force: &[offramp_control::ProfileStatus]) -> Vec<String> {
    let Some(folder) = Folder::of_this_user() else {
        return Vec::new();
    };
    let is_there = |id: &str| in_force.iter().any(|found| found.identifier == id);
    let mut missing = Vec::new();
    for file in folder.policy_files() {
        let text = folder.text(&file).unwrap_or_default();
        match offramp_profile::read_user(text.as_bytes(), None, this_user()) {
            Ok((profiles, _)) => {
                let lost = profiles.iter().filter(|own| !is_there(own.id().as_str()));
                missing.extend(lost.map(|own| own.identifier().to_owned()));
            }
            Err(_) => missing.push(file.display().to_string()),
        }
    }
    missing
}

/// Whose profiles the daemon takes them for.
fn this_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// What the file is called that has an overlay of a profile.
fn overlay_of(identifier: &str) -> String {
    format!("{identifier}.overlay")
}

fn folder() -> Result<Folder, Failure> {
    Folder::of_this_user().ok_or_else(|| {
        Failure::new(
            USAGE,
            "it is not known where you keep your configuration: HOME is not set",
        )
    })
}

/// Where the file is now, and whether it is another than before.
fn put(folder: &Folder, file: &Path) -> Result<(PathBuf, bool), Report> {
    let invalid = |problems: Vec<offramp_profile::Problem>, status| {
        let outcome = match status {
            NOT_PERMITTED => Outcome::NotPermitted,
            _ => Outcome::Invalid,
        };
        let mut report = Report::new(outcome, None);
        report.problems = problems.iter().map(translate).collect();
        report
    };
    let name = name_of(file);
    let bytes = read_file(file).map_err(|(problems, status)| invalid(problems, status))?;
    let read = offramp_profile::read_user(&bytes, Some(Path::new(&name)), this_user());
    let (profiles, overlays) = read.map_err(|problems| invalid(problems, INVALID))?;
    let text = String::from_utf8(bytes).expect("the reader takes UTF-8 only");
    let path = match (profiles.as_slice(), overlays.as_slice()) {
        ([only], []) => folder.file_of(only.identifier()),
        ([], [only]) => folder.file_of(&overlay_of(&only.identifier)),
        _ => None,
    };
    let Some(path) = path else {
        let mut report = Report::new(Outcome::Invalid, None);
        let message = "has to be one declaration whose Identifier can be the name of a file";
        report.problems = vec![problem(Path::new(&name), message.to_owned(), None)];
        return Err(report);
    };
    match folder.write(&path, &text) {
        Ok(wrote) => Ok((path, wrote)),
        Err(error) => Err(failed(&path, "cannot be written", &error)),
    }
}

fn failed(path: &Path, what: &str, error: &std::io::Error) -> Report {
    let outcome = match error.kind() {
        std::io::ErrorKind::PermissionDenied => Outcome::NotPermitted,
        _ => Outcome::Failed,
    };
    let mut report = Report::new(outcome, None);
    report.problems = vec![problem(path, format!("{what}: {error}"), None)];
    report
}

/// Sends all files; what was `done` is the outcome where the daemon takes them.
async fn send(client: &Client, folder: &Folder, done: Outcome, path: Option<PathBuf>) -> Report {
    let mut report = Report::new(done, path);
    let files = match folder.collect() {
        Ok(files) => files,
        Err(problems) => {
            (report.outcome, report.problems) = (Outcome::Invalid, problems);
            return report;
        }
    };
    match client.send_user_files(&files).await {
        Ok(answer) => {
            (report.profiles, report.problems) = (answer.profiles, answer.problems);
            report.outcome = match (done, answer.changed) {
                (Outcome::Synced, false) => Outcome::Unchanged,
                // The daemon did not have yet what the folder had.
                (Outcome::Unchanged, true) => Outcome::Synced,
                (done, _) => done,
            };
        }
        Err(ClientError::Refused(refusal)) if refusal.code == Code::Invalid => {
            (report.outcome, report.problems) = (Outcome::Invalid, refusal.problems);
        }
        Err(error) => report.daemon = Some(crate::failure::chain(&error)),
    }
    report
}

impl Report {
    fn new(outcome: Outcome, path: Option<PathBuf>) -> Self {
        Self {
            outcome,
            path,
            profiles: Vec::new(),
            problems: Vec::new(),
            daemon: None,
        }
    }
}

fn finish(report: &Report, json: bool) -> Result<(), Failure> {
    if json {
        output::print_json(report)?;
    } else {
        output::print(&tell(report))?;
    }
    match report.outcome.status() {
        // What the daemon does not have is not in force.
        0 | UNCHANGED if report.daemon.is_some() => Err(Failure::silent(UNAVAILABLE)),
        0 | UNCHANGED if report.problems.iter().any(is_refused) => Err(Failure::silent(INVALID)),
        0 => Ok(()),
        status => Err(Failure::silent(status)),
    }
}

/// What is only missing may come yet.
fn is_refused(problem: &Problem) -> bool {
    let missing = offramp_profile::Code::MissingAssets.as_str();
    problem.severity == Severity::Error && problem.code.as_deref() != Some(missing)
}

fn tell(report: &Report) -> String {
    let path = report.path.as_ref().map(|path| path.display().to_string());
    let path = path.unwrap_or_default();
    let mut text: String = report
        .problems
        .iter()
        .map(|problem| status::describe(problem) + "\n")
        .collect();
    let what = match report.outcome {
        Outcome::Installed => format!("Installed as {path}"),
        Outcome::Removed => format!("Removed {path}"),
        Outcome::Synced if report.daemon.is_some() => "Not sent".to_owned(),
        Outcome::Synced => "Sent".to_owned(),
        Outcome::Unchanged if path.is_empty() => "Nothing changed".to_owned(),
        Outcome::Unchanged => format!("Nothing changed: {path} says the same already"),
        Outcome::Invalid => {
            return text + "Nothing changed in the daemon: it has your profiles as they were.\n";
        }
        Outcome::NotPermitted | Outcome::Failed => return text,
    };
    let then = match &report.daemon {
        None if report.profiles.is_empty() => "no profile of yours is in force".to_owned(),
        None => format!("in force: {}", report.profiles.join(", ")),
        Some(why) => {
            format!("not in force until `offramp profile sync` has sent it: {why}")
        }
    };
    text.push_str(&output::clean(&format!("{what}; {then}.")));
    text + "\n"
}

fn translate(found: &offramp_profile::Problem) -> Problem {
    let place = |number: usize| u32::try_from(number).ok().filter(|number| *number > 0);
    Problem {
        severity: match found.code.is_information() {
            true => Severity::Warning,
            false => Severity::Error,
        },
        code: Some(found.code.to_string()),
        file: found.file.as_ref().map(|file| file.display().to_string()),
        line: place(found.line),
        column: place(found.column),
        key: Some(found.key_path.clone()).filter(|key| !key.is_empty()),
        message: found.message.clone(),
        hint: found.hint.clone(),
    }
}
