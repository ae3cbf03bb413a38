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

/// Where in a string as written the octet `at` of what it means begins.
pub(crate) fn inside(written: &str, at: usize) -> usize {
    let mut meant = 0;
    let mut place = 1;
    while meant < at && place < written.len() {
        let rest = &written[place..];
        let first = rest.chars().next().map_or(1, char::len_utf8);
        let (length, means) = match rest.as_bytes() {
            [b'\\', b'u', ..] => escape(rest),
            [b'\\', ..] => (2, 1),
            _ => (first, first),
        };
        place += length;
        meant += means;
    }
    place.min(written.len() - 1)
}

/// How long `\uXXXX`, or a pair of surrogates, is as written, and how many octets it means.
fn escape(written: &str) -> (usize, usize) {
    let code = written
        .get(2..6)
        .and_then(|digits| u32::from_str_radix(digits, 16).ok());
    match code {
        Some(0..=0x7f) => (6, 1),
        Some(0x80..=0x7ff) => (6, 2),
        Some(0xd800..=0xdfff) => (12, 4),
        _ => (6, 3),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// The same value as serde_json has it; the last of duplicate keys counts there.
    fn plain(value: &Value<'_>) -> serde_json::Value {
        match &value.kind {
            Kind::Null => serde_json::Value::Null,
            Kind::Bool => (value.text == "true").into(),
            Kind::Number(number) => number.clone().into(),
            Kind::String(text) => text.clone().into(),
            Kind::Array(elements) => elements.iter().map(plain).collect(),
            Kind::Object(entries) => entries
                .iter()
                .map(|(key, value)| (key.name.clone(), plain(value)))
                .collect(),
        }
    }

    #[track_caller]
    fn agrees(text: &str) {
        match (parse(text), serde_json::from_str::<serde_json::Value>(text)) {
            (Ok(ours), Ok(theirs)) => assert_eq!(plain(&ours), theirs, "{text}"),
            (Err(_), Err(_)) => {}
            (Err(faults), Ok(_)) => assert!(
                faults
                    .iter()
                    .all(|fault| !matches!(fault.kind, FaultKind::Syntax(_))),
                "{text}: {faults:?}"
            ),
            (Ok(_), Err(e)) => panic!("{text:?} was taken, and is wrong: {e}"),
        }
    }

    #[test]
    fn the_verdict_is_that_of_serde_json() {
        let inputs = [
            "",
            " ",
            "null",
            "nul",
            "true",
            "TRUE",
            "0",
            "-0",
            "01",
            "1.",
            ".5",
            "1e5",
            "1e999",
            "-1e999",
            "+1",
            "0x1",
            "NaN",
            "123456789012345678901234567890",
            "\"",
            "\"a\"",
            "\"\\u00e4\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud83d\"",
            "\"\\ude00\"",
            "\"\\x\"",
            "\"\t\"",
            "\"\u{7f}\"",
            "'a'",
            "[]",
            "[1]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[",
            "]",
            "{}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{1:1}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":1}}",
            "{}{}",
            "// x\n{}",
            "{\"\\ud800\":1}",
            "{\"a\":\"\\ud800\"}",
            "[\"\\udc00\"]",
            "\u{feff}{}",
            "{\"a\":{\"b\":[1,{\"c\":null}]}}",
            "\r\n\t {} ",
            "\u{a0}{}",
            "{\"a\\u0000\":1}",
        ];
        for text in inputs {
            agrees(text);
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn what_is_json_is_read(value in json(), pretty in any::<bool>()) {
            let text = match pretty {
                true => serde_json::to_string_pretty(&value).unwrap(),
                false => value.to_string(),
            };
            prop_assert!(parse(&text).is_ok());
            agrees(&text);
        }

        #[test]
        fn what_is_nearly_json_has_the_same_verdict(
            pieces in vec(select(&[
                "{", "}", "[", "]", ":", ",", "\"a\"", "\"b\"", "1", "-", ".5", "e9", "null",
                "true", " ", "\n", "\"", "\\", "\\u00", "\\ud800", "ä", "/", "\u{0}",
            ][..]), 0..16),
        ) {
            agrees(&pieces.concat());
        }

        #[test]
        fn every_value_stands_where_it_says(value in json()) {
            let text = serde_json::to_string_pretty(&value).unwrap();
            let mut open = vec![parse(&text).unwrap()];
            while let Some(value) = open.pop() {
                prop_assert!(text[value.at..].starts_with(value.text));
                match value.kind {
                    Kind::Array(elements) => open.extend(elements),
                    Kind::Object(entries) => {
                        for (key, value) in entries {
                            let written = serde_json::to_string(&key.name).unwrap();
                            prop_assert!(text[key.at..].starts_with(&written));
                            open.push(value);
                        }
                    }
                    _ => {}
                }
            }
        }

        #[test]
        fn every_part_of_a_string_stands_where_it_is_meant(
            parts in vec(select(&["a", "\\n", "\\\"", "\\u0041", "\\u00e4", "\\u20ac", "\\ud83d\\ude00",
                "ä", "€", "😀", "\\\\"][..]), 0..12),
        ) {
            let text = format!("\"{}\"", parts.concat());
            let (mut written, mut meant) = (1, 0);
            for part in parts {
                prop_assert_eq!(inside(&text, meant), written);
                written += part.len();
                meant += serde_json::from_str::<String>(&format!("\"{part}\"")).unwrap().len();
            }
            prop_assert_eq!(inside(&text, meant), written);
            prop_assert!(inside(&text, meant + 7) < text.len());
        }

        #[test]
        fn any_text_is_answered(text in ".{0,200}") {
            agrees(&text);
            let _ = crate::read(&text, None, offramp_rules::Layer::Managed);
            let _ = crate::read_user(text.as_bytes(), None, 1000);
        }
    }
}
