mod across;
mod build;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use offramp_rules::{Layer, Prefix, ProfileId};

use crate::check::{Check, Fault, Finding, join};
use crate::json::{self, FaultKind, Value};
use crate::keys::{DECLARATION, DECLARATIONS, Key, Shape};
use crate::problem::{Code, Problem};
use crate::profile::{Profile, Source};

pub(crate) use build::hash;

/// Reads the one declaration of a text, or the list under its `Declarations`.
///
/// The text is taken whole or not at all, and all its problems are told at once, in the order in
/// which they stand there. `file` is what the problems name; it is not opened.
pub fn read(text: &str, file: Option<&Path>, layer: Layer) -> Result<Vec<Profile>, Vec<Problem>> {
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
                return build_all(&found, layer, &source);
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
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return read(text, file, layer),
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
pub(crate) fn place(source: &Source, id: &ProfileId, path: &[&str]) -> (usize, usize) {
    let find = || {
        let root = json::parse(&source.text).ok()?;
        let (found, _) = declarations(&root);
        let (declaration, _) = found.iter().find(|(value, _)| {
            value.key("Identifier").and_then(Value::string) == Some(id.as_str())
        })?;
        let mut value = *declaration;
        for step in path {
            value = match step.parse::<usize>() {
                Ok(index) => value.elements().get(index)?,
                Err(_) => value.key(step)?,
            };
        }
        Some(json::position(&source.text, value.at))
    };
    find().unwrap_or((0, 0))
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
    let mut seen = HashMap::new();
    for (value, path) in found {
        if findings.len() > MOST {
            break;
        }
        let mut check = Check::new(optional_keys(value, path));
        check.object(value, DECLARATION, path);
        across::check(value, path, layer, &mut check);
        if let Some(identifier) = value.key("Identifier")
            && let Some(text) = identifier.string()
            && seen.insert(text.to_owned(), ()).is_some()
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

fn build_all(
    found: &Declarations<'_, '_>,
    layer: Layer,
    source: &Source,
) -> Result<Vec<Profile>, Vec<Problem>> {
    let build_one = |(value, path): &(&Value<'_>, String)| {
        build::build(value, layer, source).map_err(|fault| {
            let mut check = Check::new(Vec::new());
            check.report(value.at, path, fault);
            locate(check.findings, source)
        })
    };
    found.iter().map(build_one).collect()
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
