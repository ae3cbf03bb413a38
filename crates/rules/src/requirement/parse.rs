//! The language of requirements: `or` binds weaker than `and`, `and` weaker than `not`.

use std::str::FromStr;

use super::{InvalidRequirement, Requirement};

/// How deep parentheses and `not` may be nested.
const DEPTH: usize = 32;

/// How many terms there may be: a requirement is walked through by functions that call themselves.
const TERMS: usize = 256;

/// Terms of the format that this build cannot prove.
const UNSUPPORTED: [&str; 5] = [
    "fsverity",
    "package",
    "origin",
    "flatpak-remote",
    "snap-publisher",
];

impl FromStr for Requirement {
    type Err = InvalidRequirement;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parser = Parser {
            text,
            at: 0,
            terms: 0,
        };
        let found = parser.any(0)?;
        parser.blank();
        match parser.rest().is_empty() {
            true => Ok(found),
            false => Err(parser.wrong("expected and, or, or the end")),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    terms: usize,
}

impl<'a> Parser<'a> {
    fn any(&mut self, depth: usize) -> Result<Requirement, InvalidRequirement> {
        let mut found = self.all(depth)?;
        while self.word("or") {
            found = Requirement::Or(Box::new(found), Box::new(self.all(depth)?));
        }
        Ok(found)
    }

    fn all(&mut self, depth: usize) -> Result<Requirement, InvalidRequirement> {
        let mut found = self.one(depth)?;
        while self.word("and") {
            found = Requirement::And(Box::new(found), Box::new(self.one(depth)?));
        }
        Ok(found)
    }

    fn one(&mut self, depth: usize) -> Result<Requirement, InvalidRequirement> {
        if depth > DEPTH {
            return Err(self.wrong(&format!("nested more than {DEPTH} deep")));
        }
        if self.word("not") {
            return Ok(Requirement::Not(Box::new(self.one(depth + 1)?)));
        }
        if !self.sign('(') {
            return self.term();
        }
        let found = self.any(depth + 1)?;
        match self.sign(')') {
            true => Ok(found),
            false => Err(self.wrong("expected )")),
        }
    }

    fn term(&mut self) -> Result<Requirement, InvalidRequirement> {
        self.blank();
        self.terms += 1;
        if self.terms > TERMS {
            return Err(self.wrong(&format!("there are more than {TERMS} terms")));
        }
        let begin = self.at;
        let name = self.name();
        if name.is_empty() {
            return Err(self.wrong("expected a term such as sha256 = \"…\", not, or ("));
        }
        if UNSUPPORTED.contains(&name) {
            return Err(InvalidRequirement {
                at: begin,
                what: format!("{name} is not supported yet"),
                is_unsupported: true,
            });
        }
        if !["sha256", "owner"].contains(&name) {
            self.at = begin;
            return Err(self.wrong(&format!(
                "there is no term {name}: there are sha256 and owner"
            )));
        }
        if !self.sign('=') {
            return Err(self.wrong(&format!("expected = behind {name}")));
        }
        self.blank();
        let value_at = self.at;
        let value = self.value()?;
        let parsed = match name {
            "sha256" => hash(value).map(Requirement::Sha256),
            _ => Some(Requirement::Owner(value.to_owned())),
        };
        parsed.ok_or_else(|| {
            self.at = value_at;
            self.wrong("a SHA-256 has 64 hexadecimal digits")
        })
    }

    fn value(&mut self) -> Result<&'a str, InvalidRequirement> {
        let begin = self.at;
        if self.sign('"') {
            let Some(length) = self.rest().find('"') else {
                return Err(self.wrong("the \" is not closed"));
            };
            let value = &self.rest()[..length];
            self.at += length + 1;
            let wrong = match value {
                "" => "the value is empty",
                _ if value.contains(char::is_control) => "the value has a control character",
                _ => return Ok(value),
            };
            self.at = begin;
            return Err(self.wrong(wrong));
        }
        match self.name() {
            "" => Err(self.wrong("expected a value in \"…\"")),
            value => Ok(value),
        }
    }

    fn name(&mut self) -> &'a str {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let rest = self.rest();
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn word(&mut self, word: &str) -> bool {
        self.blank();
        let begin = self.at;
        let found = self.name() == word;
        if !found {
            self.at = begin;
        }
        found
    }

    fn sign(&mut self, sign: char) -> bool {
        self.blank();
        let found = self.rest().starts_with(sign);
        if found {
            self.at += sign.len_utf8();
        }
        found
    }

    fn blank(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn wrong(&self, what: &str) -> InvalidRequirement {
        InvalidRequirement {
            at: self.at,
            what: what.to_owned(),
            is_unsupported: false,
        }
    }
}

fn hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(hash)
}
