use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// One thing that is wrong with a profile, where it is, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Problem {
    /// What kind of problem.
    pub code: Code,
    /// The file; none for a text that came from elsewhere.
    pub file: Option<PathBuf>,
    /// The line, from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// The column in characters, from 1; 0 where the file as a whole is meant.
    pub column: usize,
    /// The path to the value, such as `Payload.Servers[0].URL`; empty for the whole text.
    pub key_path: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// The reason codes of declarative device management, with their names there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Code {
    /// Not JSON, or a value of the wrong type.
    #[serde(rename = "Error.ConfigurationCannotBeDeserialized")]
    CannotBeDeserialized,
    /// A key that the format does not have.
    #[serde(rename = "Error.UnknownPayloadKeys")]
    UnknownPayloadKeys,
    /// Well formed, and still wrong.
    #[serde(rename = "Error.ConfigurationIsInvalid")]
    IsInvalid,
    /// Part of the format, and not implemented here.
    #[serde(rename = "Error.ConfigurationNotSupported")]
    NotSupported,
    /// A file of the machine could not be read or written.
    #[serde(rename = "Error.ConfigurationCannotBeApplied")]
    CannotBeApplied,
    /// A credential is not there or cannot be used. The profile is in force and cannot connect.
    #[serde(rename = "Error.MissingAssets")]
    MissingAssets,
    /// Another profile with the same `Identifier` is in force instead.
    #[serde(rename = "Info.Superseded")]
    Superseded,
    /// The profile is in force, and may not do what is meant, or do it at a cost.
    #[serde(rename = "Info.Notice")]
    Notice,
}

impl Code {
    /// The name, as the JSON form has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::CannotBeDeserialized => "Error.ConfigurationCannotBeDeserialized",
            Code::UnknownPayloadKeys => "Error.UnknownPayloadKeys",
            Code::IsInvalid => "Error.ConfigurationIsInvalid",
            Code::NotSupported => "Error.ConfigurationNotSupported",
            Code::CannotBeApplied => "Error.ConfigurationCannotBeApplied",
            Code::MissingAssets => "Error.MissingAssets",
            Code::Superseded => "Info.Superseded",
            Code::Notice => "Info.Notice",
        }
    }

    /// Whether this is for information only: a warning.
    pub fn is_information(self) -> bool {
        matches!(self, Code::Superseded | Code::Notice)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Problem {
    /// A problem of a whole file.
    pub(crate) fn of_file(code: Code, file: &Path, message: impl Into<String>) -> Self {
        Self {
            code,
            file: Some(file.to_owned()),
            line: 0,
            column: 0,
            key_path: String::new(),
            message: message.into(),
            hint: None,
        }
    }

    /// The same with a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// `file:line:column: KeyPath: message (hint)`, without the parts that are not known.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
        }
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        if self.file.is_some() || self.line > 0 {
            f.write_str(" ")?;
        }
        if !self.key_path.is_empty() {
            write!(f, "{}: ", self.key_path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}
