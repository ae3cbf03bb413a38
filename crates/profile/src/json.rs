//! Strict JSON in which every value and key knows its place.
//!
//! serde_json judges the syntax and hands out raw values, which are slices of the text: where
//! a slice begins is where the value stands.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// How deep objects and arrays may nest.
pub(crate) const DEPTH: usize = 32;

/// The largest text, in bytes.
pub(crate) const SIZE: usize = 1 << 20;

/// A value and where it begins, in bytes from the start of the text.
#[derive(Clone, Debug)]
pub(crate) struct Value<'a> {
    pub(crate) at: usize,
    /// The value as written.
    pub(crate) text: &'a str,
    pub(crate) kind: Kind<'a>,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind<'a> {
    Null,
    Bool,
    Number(serde_json::Number),
    String(String),
    Array(Vec<Value<'a>>),
    Object(Vec<(Key, Value<'a>)>),
}

/// A key of an object and where it begins.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) at: usize,
    pub(crate) name: String,
}

/// What is wrong with the text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) kind: FaultKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// Not JSON.
    Syntax(String),
    /// The key stands twice in one object.
    Duplicate(String),
    /// Over [`DEPTH`].
    TooDeep,
    /// Over [`SIZE`].
    TooLarge,
}

/// Like [`parse`], for a text that may be too long.
pub(crate) fn parse_sized(text: &str) -> Result<Value<'_>, Vec<Fault>> {
    if text.len() > SIZE {
        let kind = FaultKind::TooLarge;
        return Err(vec![Fault { at: 0, kind }]);
    }
    parse(text)
}

/// Reads a text; reports the first place where it is no JSON, or every duplicate key.
pub(crate) fn parse(text: &str) -> Result<Value<'_>, Vec<Fault>> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|e| vec![syntax(text, 0, &e)])?;
    let mut reader = Reader {
        whole: text,
        duplicates: Vec::new(),
    };
    let value = reader.value(raw, 0).map_err(|fault| vec![fault])?;
    if reader.duplicates.is_empty() {
        Ok(value)
    } else {
        Err(reader.duplicates)
    }
}

impl<'a> Value<'a> {
    /// The value of a key, if this is an object that has it.
    pub(crate) fn key(&self, name: &str) -> Option<&Value<'a>> {
        match &self.kind {
            Kind::Object(entries) => entries
                .iter()
                .find(|(key, _)| key.name == name)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The elements, none if this is no array.
    pub(crate) fn elements(&self) -> &[Value<'a>] {
        match &self.kind {
            Kind::Array(elements) => elements,
            _ => &[],
        }
    }

    /// The text of a string.
    pub(crate) fn string(&self) -> Option<&str> {
        match &self.kind {
            Kind::String(text) => Some(text),
            _ => None,
        }
    }

    /// What this is, for messages.
    pub(crate) fn describe(&self) -> &'static str {
        match self.kind {
            Kind::Null => "null",
            Kind::Bool => "a boolean",
            Kind::Number(_) => "a number",
            Kind::String(_) => "a string",
            Kind::Array(_) => "an array",
            Kind::Object(_) => "an object",
        }
    }
}

struct Reader<'a> {
    whole: &'a str,
    duplicates: Vec<Fault>,
}

impl<'a> Reader<'a> {
    fn value(&mut self, raw: &'a RawValue, depth: usize) -> Result<Value<'a>, Fault> {
        let text = raw.get();
        let at = self.offset(text);
        let leaf = |e| syntax(self.whole, at, &e);
        let kind = match text.as_bytes().first() {
            Some(b'{' | b'[') if depth == DEPTH => {
                let kind = FaultKind::TooDeep;
                return Err(Fault { at, kind });
            }
            Some(b'{') => Kind::Object(self.object(text, at, depth)?),
            Some(b'[') => Kind::Array(self.array(text, at, depth)?),
            Some(b'"') => Kind::String(serde_json::from_str(text).map_err(leaf)?),
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') => Kind::Null,
            _ => Kind::Number(serde_json::from_str(text).map_err(leaf)?),
        };
        Ok(Value { at, text, kind })
    }

    fn array(&mut self, text: &'a str, at: usize, depth: usize) -> Result<Vec<Value<'a>>, Fault> {
        let elements: Vec<&RawValue> =
            serde_json::from_str(text).map_err(|e| syntax(self.whole, at, &e))?;
        elements
            .into_iter()
            .map(|element| self.value(element, depth + 1))
            .collect()
    }

    fn object(
        &mut self,
        text: &'a str,
        at: usize,
        depth: usize,
    ) -> Result<Vec<(Key, Value<'a>)>, Fault> {
        let entries: Entries<'a> =
            serde_json::from_str(text).map_err(|e| syntax(self.whole, at, &e))?;
        let mut seen = HashSet::new();
        let mut read = Vec::with_capacity(entries.0.len());
        for (key, value) in entries.0 {
            let at = self.offset(key.get());
            let name: String =
                serde_json::from_str(key.get()).map_err(|e| syntax(self.whole, at, &e))?;
            if !seen.insert(name.clone()) {
                let kind = FaultKind::Duplicate(name.clone());
                self.duplicates.push(Fault { at, kind });
            }
            read.push((Key { at, name }, self.value(value, depth + 1)?));
        }
        Ok(read)
    }

    fn offset(&self, part: &str) -> usize {
        part.as_ptr() as usize - self.whole.as_ptr() as usize
    }
}

/// The entries of an object in their order, duplicates and all.
struct Entries<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The place and message of an error in the part of `whole` that begins at `start`.
fn syntax(whole: &str, start: usize, error: &serde_json::Error) -> Fault {
    let part = &whole[start..];
    let line: usize = part
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum();
    let mut at = (start + line + error.column().saturating_sub(1)).min(whole.len());
    while !whole.is_char_boundary(at) {
        at -= 1;
    }
    let message = error.to_string();
    let message = message
        .rsplit_once(" at line ")
        .map_or(&*message, |(message, _)| message);
    Fault {
        at,
        kind: FaultKind::Syntax(message.to_owned()),
    }
}

/// Line and column, from 1, of a place in a text; columns count characters.
pub(crate) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, text[start..at].chars().count() + 1)
}
