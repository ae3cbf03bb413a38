//! Holds a declaration against the table of keys and collects every problem.

mod app;
mod format;

use crate::json::{self, Kind, Value};
use crate::keys::{ELSEWHERE, Key, Shape};
use crate::problem::Code;

pub(crate) use format::{asset, is_known};

/// A problem before it is given file, line and column.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) at: usize,
    pub(crate) code: Code,
    pub(crate) path: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// How many findings of one declaration are collected; nobody reads more.
const MOST: usize = 1000;

/// Collects findings.
pub(crate) struct Check {
    pub(crate) findings: Vec<Finding>,
    optional: Vec<String>,
}

impl Check {
    /// A check that passes over these paths where they are not known.
    pub(crate) fn new(optional: Vec<String>) -> Self {
        Self {
            findings: Vec::new(),
            optional,
        }
    }

    pub(crate) fn report(&mut self, at: usize, path: &str, fault: Fault) {
        self.findings.push(Finding {
            at,
            code: fault.code,
            path: path.to_owned(),
            message: fault.message,
            hint: fault.hint,
        });
    }

    /// Holds an object against its keys.
    pub(crate) fn object(&mut self, value: &Value<'_>, keys: &[Key], path: &str) {
        let Kind::Object(entries) = &value.kind else {
            return self.wrong_type(value, path, "an object");
        };
        for (name, inner) in entries {
            if self.findings.len() >= MOST {
                return;
            }
            let inner_path = join(path, &name.name);
            match keys.iter().find(|key| key.name == name.name) {
                None if self.is_optional(&inner_path) => {}
                None => self.report(name.at, &inner_path, unknown(&name.name, keys)),
                Some(Key {
                    shape: Shape::Later,
                    ..
                }) if self.is_optional(&inner_path) => {}
                Some(
                    key @ Key {
                        shape: Shape::Later,
                        ..
                    },
                ) => {
                    let mut fault = Fault::later("not supported yet");
                    fault.hint = key.instead().map(str::to_owned);
                    self.report(name.at, &inner_path, fault);
                }
                Some(key) => self.value(inner, &key.shape, &inner_path),
            }
        }
        for key in keys.iter().filter(|key| key.required) {
            if value.key(key.name).is_none() {
                let fault = Fault::invalid("is missing").hint(first_sentence(key.about));
                self.report(value.at, &join(path, key.name), fault);
            }
        }
    }

    fn value(&mut self, value: &Value<'_>, shape: &Shape, path: &str) {
        match (shape, &value.kind) {
            (Shape::Bool, Kind::Bool) | (Shape::Opaque, Kind::Object(_)) => {}
            (Shape::Bool, _) => self.wrong_type(value, path, "true or false"),
            (Shape::Integer(least), Kind::Number(number)) => {
                if let Err(fault) = integer(number, *least) {
                    self.report(value.at, path, fault);
                }
            }
            (Shape::Version, Kind::Number(number)) => {
                if number.as_u64() != Some(1) {
                    self.report(value.at, path, Fault::later("only version 1 is supported"));
                }
            }
            (Shape::Integer(_) | Shape::Version, _) => self.wrong_type(value, path, "an integer"),
            (Shape::Text(format), Kind::String(text)) => {
                if let Err(fault) = format.check(text) {
                    let inside = fault.inside.map(|at| json::inside(value.text, at));
                    self.report(value.at + inside.unwrap_or(0), path, fault);
                }
            }
            (Shape::Choice { now, later }, Kind::String(text)) => {
                if let Err(fault) = choice(text, now, later) {
                    self.report(value.at, path, fault);
                }
            }
            (Shape::Text(_) | Shape::Choice { .. }, _) => {
                self.wrong_type(value, path, "a string");
            }
            (Shape::List(inner) | Shape::Some(inner), Kind::Array(elements)) => {
                if elements.is_empty() && matches!(shape, Shape::Some(_)) {
                    self.report(value.at, path, Fault::invalid("is empty"));
                }
                for (index, element) in elements.iter().enumerate() {
                    if self.findings.len() >= MOST {
                        return;
                    }
                    self.value(element, inner, &format!("{path}[{index}]"));
                }
            }
            (Shape::List(_) | Shape::Some(_), _) => self.wrong_type(value, path, "an array"),
            (Shape::Object(keys), _) => self.object(value, keys, path),
            (Shape::Opaque, _) => self.wrong_type(value, path, "an object"),
            (Shape::Misplaced(why), _) => self.report(value.at, path, Fault::invalid(*why)),
            (Shape::Later, _) => {}
        }
    }

    fn wrong_type(&mut self, value: &Value<'_>, path: &str, wanted: &str) {
        let message = format!("is {}, and has to be {wanted}", value.describe());
        let fault = Fault::new(Code::CannotBeDeserialized, message);
        self.report(value.at, path, fault);
    }

    fn is_optional(&self, path: &str) -> bool {
        let mut plain = String::new();
        let mut inside = false;
        for c in path.chars() {
            match c {
                '[' => inside = true,
                ']' => inside = false,
                c if !inside => plain.push(c),
                _ => {}
            }
        }
        self.optional.contains(&plain)
    }
}

/// What is wrong with a value.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// Where in a string the problem is, in octets of what the string means; none: it is the whole.
    pub(crate) inside: Option<usize>,
}

impl Fault {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            inside: None,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::IsInvalid, message)
    }

    pub(crate) fn later(message: impl Into<String>) -> Self {
        Self::new(Code::NotSupported, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

fn integer(number: &serde_json::Number, least: u32) -> Result<(), Fault> {
    match number.as_u64().map(u32::try_from) {
        Some(Ok(value)) if value >= least => Ok(()),
        _ if number.is_f64() => Err(Fault::new(
            Code::CannotBeDeserialized,
            format!("is {number}, and has to be an integer"),
        )),
        _ => Err(Fault::invalid(format!(
            "is {number}, and has to be from {least} to {}",
            u32::MAX
        ))),
    }
}

fn choice(text: &str, now: &[&str], later: &[&str]) -> Result<(), Fault> {
    if now.contains(&text) {
        return Ok(());
    }
    let hint = format!("write {}", now.join(" or "));
    if later.contains(&text) {
        return Err(Fault::later(format!("{text} is not supported yet")).hint(hint));
    }
    Err(Fault::invalid(format!("{text:?} is not one of the choices")).hint(hint))
}

fn unknown(name: &str, keys: &[Key]) -> Fault {
    let fault = Fault::new(Code::UnknownPayloadKeys, "unknown key");
    let near = keys
        .iter()
        .map(|key| {
            (
                distance(&name.to_lowercase(), &key.name.to_lowercase()),
                key,
            )
        })
        .min_by_key(|(distance, _)| *distance);
    let elsewhere = ELSEWHERE.iter().find(|(other, _)| *other == name);
    match (elsewhere, near) {
        (Some((_, here)), _) => fault.hint(format!("write {here}")),
        (None, Some((distance, key))) if distance <= 1 + key.name.len() / 5 => {
            fault.hint(format!("did you mean {}?", key.name))
        }
        _ => fault,
    }
}

/// How many characters have to be put in, taken out or changed to make one text of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().take(64).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let changed = corner + usize::from(a != *b);
            corner = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

fn first_sentence(text: &str) -> &str {
    let end = text.find(". ").unwrap_or(text.len());
    text[..end].trim_end_matches('.')
}

pub(crate) fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}
