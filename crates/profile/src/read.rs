mod across;
mod build;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use offramp_rules::{Layer, Prefix};

use crate::check::{Check, Fault, Finding, join};
use crate::json::{self, FaultKind, Value};
use crate::keys::{DECLARATION, DECLARATIONS, Key, OVERLAY_TYPE, Shape};
use crate::overlay::{self, UserOverlay};
use crate::problem::{Code, Problem};
use crate::profile::{Profile, Source};

pub(crate) use build::hash;

/// What a file says.
#[derive(Clone, Debug)]
pub(crate) struct Contents {
    pub(crate) text: Arc<str>,
    pub(crate) profiles: Vec<Arc<Profile>>,
    pub(crate) overlays: Vec<Arc<UserOverlay>>,
}

impl Contents {
    pub(crate) fn nothing() -> Self {
        Self {
            text: Arc::from(""),
            profiles: Vec::new(),
            overlays: Vec::new(),
        }
    }
}

/// Reads the one declaration of a text, or the list under its `Declarations`.
///
/// The text is taken whole or not at all, and all its problems are told at once, in the order in
/// which they stand there. `file` is what the problems name; it is not opened. The user's layer may
/// have overlays, which are checked and left out: see [`read_user`].
pub fn read(text: &str, file: Option<&Path>, layer: Layer) -> Result<Vec<Profile>, Vec<Problem>> {
    Ok(read_text(text, file, layer, None)?.0)
}

/// Reads a file of a user's own: profiles, and overlays for profiles that are not the user's.
/// Whether those allow it shows when they are [loaded](crate::load) together.
pub fn read_user(
    bytes: &[u8],
    file: Option<&Path>,
    uid: u32,
) -> Result<(Vec<Profile>, Vec<UserOverlay>), Vec<Problem>> {
    read_text(decode(bytes, file)?, file, Layer::User, Some(uid))
}

/// Reads a file as a layer has it; of the user's layer, whose it is.
pub(crate) fn read_contents(
    bytes: &[u8],
    file: &Path,
    layer: Layer,
    owner: Option<u32>,
) -> Result<Contents, Vec<Problem>> {
    let text = decode(bytes, Some(file))?;
    let (profiles, overlays) = read_text(text, Some(file), layer, owner)?;
    Ok(Contents {
        text: text.into(),
        profiles: profiles.into_iter().map(Arc::new).collect(),
        overlays: overlays.into_iter().map(Arc::new).collect(),
    })
}

fn read_text(
    text: &str,
    file: Option<&Path>,
    layer: Layer,
    owner: Option<u32>,
) -> Result<(Vec<Profile>, Vec<UserOverlay>), Vec<Problem>> {
    let source = Source {
        file: file.map(Path::to_owned),
        text: text.into(),
    };
    let findings = match json::parse_sized(text) {
        Err(faults) => faults
            .into_iter()
            .map(|fault| syntax(fault, text))
            .collect(),
        Ok(root) => {
            let (found, mut findings) = declarations(&root);
            findings.append(&mut check_all(&found, layer));
            if findings.is_empty() {
                return build_all(&found, layer, owner, &source);
            }
            findings
        }
    };
    Err(locate(findings, &source))
}

/// Like [`read`], for bytes that may not be UTF-8.
pub fn read_bytes(
    bytes: &[u8],
    file: Option<&Path>,
    layer: Layer,
) -> Result<Vec<Profile>, Vec<Problem>> {
    read(decode(bytes, file)?, file, layer)
}

fn decode<'b>(bytes: &'b [u8], file: Option<&Path>) -> Result<&'b str, Vec<Problem>> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return Ok(text),
        Err(error) => error,
    };
    let good = std::str::from_utf8(&bytes[..error.valid_up_to()]).expect("checked to be UTF-8");
    let (line, column) = json::position(good, good.len());
    Err(vec![Problem {
        code: Code::CannotBeDeserialized,
        file: file.map(Path::to_owned),
        line,
        column,
        key_path: String::new(),
        message: "is not UTF-8".to_owned(),
        hint: Some("save the file as UTF-8".to_owned()),
    }])
}

/// The place of a value in a profile's text, for problems that show after reading.
pub(crate) fn place(source: &Source, identifier: &str, path: &[&str]) -> (usize, usize) {
    let find = || {
        let root = json::parse(&source.text).ok()?;
        let declaration = find_declaration(&root, identifier)?;
        let value =
            path.iter()
                .try_fold(declaration, |value, step| match step.parse::<usize>() {
                    Ok(index) => value.elements().get(index),
                    Err(_) => value.key(step),
                })?;
        Some(json::position(&source.text, value.at))
    };
    find().unwrap_or((0, 0))
}

/// The declaration of the profile `identifier`.
pub(crate) fn find_declaration<'v, 'a>(
    root: &'v Value<'a>,
    identifier: &str,
) -> Option<&'v Value<'a>> {
    let (found, _) = declarations(root);
    let text = |value: &Value<'_>, key| value.key(key).and_then(Value::string).map(str::to_owned);
    found
        .into_iter()
        .map(|(value, _)| value)
        .filter(|value| !is_overlay(value))
        .find(|value| text(value, "Identifier").as_deref() == Some(identifier))
}

/// How many problems of one text are told; nobody reads more.
const MOST: usize = 100;

type Declarations<'v, 'a> = Vec<(&'v Value<'a>, String)>;

/// What a file with several declarations has; they are looked into one by one.
static LIST: &[Key] = &[Key {
    name: DECLARATIONS,
    shape: Shape::List(&Shape::Later),
    required: true,
    about: "the profiles of this file",
}];

/// The declarations with their paths, and what is wrong around them.
fn declarations<'v, 'a>(root: &'v Value<'a>) -> (Declarations<'v, 'a>, Vec<Finding>) {
    let Some(list) = root.key(DECLARATIONS) else {
        return (vec![(root, String::new())], Vec::new());
    };
    let mut check = Check::new(Vec::new());
    check.object(root, LIST, "");
    let found = list
        .elements()
        .iter()
        .enumerate()
        .map(|(index, value)| (value, format!("{DECLARATIONS}[{index}]")))
        .collect();
    (found, check.findings)
}

fn check_all(found: &Declarations<'_, '_>, layer: Layer) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = HashSet::new();
    for (value, path) in found {
        if findings.len() > MOST {
            break;
        }
        let mut check = Check::new(optional_keys(value, path));
        match (is_overlay(value), layer) {
            (true, Layer::User) => overlay::check(value, path, &mut check),
            (true, _) => {
                let at = value.key("Type").map_or(value.at, |value| value.at);
                let fault = Fault::invalid("an overlay is a user's, and has its place there alone");
                check.report(at, &join(path, "Type"), fault);
            }
            (false, _) => {
                check.object(value, DECLARATION, path);
                across::check(value, path, layer, &mut check);
            }
        }
        if let Some(identifier) = value.key("Identifier")
            && let Some(text) = identifier.string()
            && !seen.insert((text.to_owned(), is_overlay(value)))
        {
            let fault = Fault::invalid(format!("{text} is in this file twice"));
            check.report(identifier.at, &join(path, "Identifier"), fault);
        }
        findings.append(&mut check.findings);
    }
    findings
}

fn optional_keys(value: &Value<'_>, path: &str) -> Vec<String> {
    let Some(list) = value.key("OptionalKeys") else {
        return Vec::new();
    };
    let prefix = path.split('[').next().unwrap_or_default();
    list.elements()
        .iter()
        .filter_map(Value::string)
        .map(|key| join(prefix, key))
        .collect()
}

fn is_overlay(value: &Value<'_>) -> bool {
    value.key("Type").and_then(Value::string) == Some(OVERLAY_TYPE)
}

fn build_all(
    found: &Declarations<'_, '_>,
    layer: Layer,
    owner: Option<u32>,
    source: &Source,
) -> Result<(Vec<Profile>, Vec<UserOverlay>), Vec<Problem>> {
    let told = |fault, value: &Value<'_>, path: &str| {
        let mut check = Check::new(Vec::new());
        check.report(value.at, path, fault);
        locate(check.findings, source)
    };
    let (mut profiles, mut overlays) = (Vec::new(), Vec::new());
    for (value, path) in found {
        if is_overlay(value) {
            let built = overlay::build(value, source);
            overlays.push(built.map_err(|fault| told(fault, value, path))?);
        } else {
            let built = build::build(value, layer, owner, source);
            profiles.push(built.map_err(|fault| told(fault, value, path))?);
        }
    }
    Ok((profiles, overlays))
}

pub(crate) fn default_v4() -> Prefix {
    "198.18.0.0/15".parse().expect("it is a block")
}

fn syntax(fault: json::Fault, text: &str) -> Finding {
    let (code, path, message, hint) = match fault.kind {
        FaultKind::Syntax(message) => {
            let hint = syntax_hint(&message, text, fault.at).map(str::to_owned);
            (Code::CannotBeDeserialized, String::new(), message, hint)
        }
        FaultKind::Duplicate(key) => (
            Code::CannotBeDeserialized,
            key,
            "is there twice".to_owned(),
            Some("leave one".to_owned()),
        ),
        FaultKind::TooDeep => (
            Code::CannotBeDeserialized,
            String::new(),
            format!("is nested over {} levels deep", json::DEPTH),
            None,
        ),
        FaultKind::TooLarge => (
            Code::CannotBeDeserialized,
            String::new(),
            format!("is over {} KiB", json::SIZE / 1024),
            None,
        ),
    };
    Finding {
        at: fault.at,
        code,
        path,
        message,
        hint,
    }
}

/// What people do who know a laxer JSON.
fn syntax_hint(message: &str, text: &str, at: usize) -> Option<&'static str> {
    if text.starts_with('\u{feff}') {
        return Some("the file begins with a byte order mark: save it without");
    }
    let before = text[..at].trim_end().chars().next_back();
    match text[at..].chars().next()? {
        '/' | '#' => Some("JSON has no comments"),
        '\'' => Some("JSON has double quotes only"),
        '}' | ']' if before == Some(',') => Some("leave out the comma before it"),
        _ if message.starts_with("expected `,`") => Some("is a comma missing before it?"),
        _ => None,
    }
}

/// Gives the findings their lines and columns, in the order of the text.
fn locate(mut findings: Vec<Finding>, source: &Source) -> Vec<Problem> {
    findings.sort_by_key(|finding| finding.at);
    let more = findings.len().saturating_sub(MOST);
    findings.truncate(MOST);
    let mut problems: Vec<Problem> = findings
        .into_iter()
        .map(|finding| located(finding, source))
        .collect();
    if let (Some(last), true) = (problems.last_mut(), more > 0) {
        last.hint = Some(format!("and at least {more} more problems"));
    }
    problems
}

fn located(finding: Finding, source: &Source) -> Problem {
    let (line, column) = json::position(&source.text, finding.at);
    Problem {
        code: finding.code,
        file: source.file.clone(),
        line,
        column,
        key_path: finding.path,
        message: finding.message,
        hint: finding.hint,
    }
}

/// The text of a profile made from elsewhere.
pub(crate) fn no_source() -> Source {
    Source {
        file: None,
        text: Arc::from(""),
    }
}
