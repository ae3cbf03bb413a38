use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Problem;

/// All of a user's own profiles and overlays, with the credentials that they name. They take the
/// place of those that the user sent before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserFiles {
    /// The declarations, each file with its name in the user's folder, such as `work.json`.
    #[serde(default)]
    pub policies: Vec<UserFile>,
    /// The credentials, each with the name that profiles call it by.
    #[serde(default)]
    pub credentials: Vec<UserFile>,
}

/// One file of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserFile {
    /// Its name, without a folder.
    pub name: String,
    /// What is in it.
    pub content: Content,
}

/// The bytes of a file, written as base64. `Debug` tells their number alone: they may be a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content(pub Vec<u8>);

impl fmt::Debug for Content {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "*** ({} bytes)", self.0.len())
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        // No text of the sender is repeated in an error: it may be a secret.
        let bytes = STANDARD
            .decode(text.as_bytes())
            .map_err(|_| serde::de::Error::custom("the content of a file is not base64"))?;
        Ok(Self(bytes))
    }
}

/// What came of a user's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserAnswer {
    /// False where everything was so before.
    pub changed: bool,
    /// The identifiers of the user's own profiles that are in force now.
    #[serde(default)]
    pub profiles: Vec<String>,
    /// What is wrong; `file` is the name of the file.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_base64_and_never_shown() {
        let content = Content(b"correct horse\n\0\xff".to_vec());
        let text = serde_json::to_string(&content).unwrap();
        assert_eq!(text, "\"Y29ycmVjdCBob3JzZQoA/w==\"");
        assert_eq!(serde_json::from_str::<Content>(&text).unwrap(), content);
        let file = UserFile {
            name: "gateway".into(),
            content,
        };
        let shown = format!("{file:?}");
        assert!(
            shown.contains("gateway") && shown.contains("*** (16 bytes)"),
            "{shown}"
        );
        assert!(!shown.contains("horse"), "{shown}");
    }

    #[test]
    fn a_bad_content_is_told_without_it() {
        let error = serde_json::from_str::<Content>("\"correct horse\"").unwrap_err();
        assert!(!error.to_string().contains("horse"), "{error}");
    }
}
