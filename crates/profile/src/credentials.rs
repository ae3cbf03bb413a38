use std::path::{Path, PathBuf};

use crate::files::{self, Refused};
use crate::load::Directories;
use crate::problem::{Code, Problem};
use crate::profile::{Asset, Method, Profile};
use crate::read::place;
use crate::secret::Secret;
use crate::user::folder;

/// The largest credential, in bytes: a bundle of certificates is the longest thing there is.
pub(crate) const SIZE: usize = 1 << 20;

/// Where credentials are: a directory of systemd's first, then `CONFIG/credentials`.
#[derive(Clone, Debug)]
pub struct Credentials {
    directories: Vec<PathBuf>,
    /// The user whose own they are; none: the machine's.
    owner: Option<u32>,
}

/// A user and a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Password {
    /// The user, without a colon.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// Why a credential cannot be used; the message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// No directory has the file.
    #[error("the credential {name} is missing: put it into {}, owned by root, with mode 0600", path.display())]
    Missing {
        /// The name.
        name: String,
        /// Where it is looked for last.
        path: PathBuf,
    },
    /// The user has not given it.
    #[error("the credential {name} is missing: put it into the user's own folder of credentials")]
    NotGiven {
        /// The name.
        name: String,
    },
    /// The file cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others may read or write the file, or somebody else owns it.
    #[error("{} {what}: make it root's with mode 0600", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// What is wrong with its owner or mode.
        what: String,
    },
    /// The content is not what the profile says that it is.
    #[error("{origin} {what}")]
    Malformed {
        /// The file, or that it was given inline.
        origin: String,
        /// What is wrong, without the content.
        what: &'static str,
    },
}

impl Credentials {
    /// The credentials of the configuration directory `config`, after those that systemd has put
    /// into `$CREDENTIALS_DIRECTORY`.
    pub fn open(config: &Path) -> Self {
        let systemd = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        Self::within(systemd.into_iter().chain([config.join("credentials")]))
    }

    /// The credentials that `profile` may use: a user's own for a user's profile, otherwise those of
    /// [`Credentials::open`].
    pub fn open_for(directories: &Directories, profile: &Profile) -> Self {
        let Some(uid) = profile.rules.owner else {
            return Self::open(&directories.config);
        };
        let own = directories.users.iter().map(|users| folder(users, uid));
        Self {
            owner: Some(uid),
            ..Self::within(own.map(|folder| folder.join("credentials")))
        }
    }

    /// The credentials of these directories; the first that has a name counts.
    pub fn within(directories: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            directories: directories.into_iter().collect(),
            owner: None,
        }
    }

    /// Reads `USER:PASSWORD`.
    pub fn password(&self, asset: &Asset) -> Result<Password, CredentialError> {
        let (line, origin) = self.line(asset)?;
        match line.expose().split_once(':') {
            Some((user, password)) if !user.is_empty() => Ok(Password {
                user: user.to_owned(),
                password: Secret::from(password.to_owned()),
            }),
            _ => Err(CredentialError::Malformed {
                origin,
                what: "has to be one line USER:PASSWORD",
            }),
        }
    }

    /// Reads a bearer token.
    pub fn bearer(&self, asset: &Asset) -> Result<Secret, CredentialError> {
        let (line, origin) = self.line(asset)?;
        // RFC 6750 section 2.1: b64token.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
        if line.expose().is_empty() || !line.expose().bytes().all(plain) {
            let what = "has to be one line with a token (letters, digits and -._~+/=)";
            return Err(CredentialError::Malformed { origin, what });
        }
        Ok(line)
    }

    /// Reads PEM certificates. Their file may be readable by everybody.
    pub fn anchors(&self, asset: &Asset) -> Result<Vec<u8>, CredentialError> {
        let (pem, origin) = self.read(asset, 0o022)?;
        if !pem.contains("-----BEGIN CERTIFICATE-----") {
            let what = "has no PEM certificate (-----BEGIN CERTIFICATE-----)";
            return Err(CredentialError::Malformed { origin, what });
        }
        Ok(pem.into_bytes())
    }

    /// Tries every asset of a profile; each that cannot be used is a problem at its reference.
    pub fn check(&self, profile: &Profile) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (index, server) in profile.servers.iter().enumerate() {
            let index = index.to_string();
            if let Some(authentication) = &server.authentication {
                let asset = &authentication.asset;
                let tried = match authentication.method {
                    Method::Password => self.password(asset).map(drop),
                    Method::Bearer => self.bearer(asset).map(drop),
                };
                let path = ["Authentication", "CredentialsAssetReference"];
                problems.extend(tried.err().map(|e| missing(profile, &index, path, &e)));
            }
            if let Some(asset) = &server.anchors {
                let path = ["TLS", "AnchorsAssetReference"];
                let tried = self.anchors(asset);
                problems.extend(tried.err().map(|e| missing(profile, &index, path, &e)));
            }
        }
        problems
    }

    /// One line, and where it came from.
    fn line(&self, asset: &Asset) -> Result<(Secret, String), CredentialError> {
        let (text, origin) = self.read(asset, 0o077)?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() || line.chars().any(char::is_control) {
            let what = "has to be one line of text";
            return Err(CredentialError::Malformed { origin, what });
        }
        Ok((Secret::from(line.to_owned()), origin))
    }

    /// The content of an asset, whose mode has none of the `forbidden` bits.
    fn read(&self, asset: &Asset, forbidden: u32) -> Result<(String, String), CredentialError> {
        let (owner, name) = match asset {
            Asset::Inline(secret) => {
                return Ok((secret.expose().to_owned(), "what was given".to_owned()));
            }
            Asset::Credential(name) => (None, name),
            Asset::Own { owner, name } => (Some(*owner), name),
        };
        // A name that a user has written never means a file of somebody else's.
        if owner != self.owner {
            return Err(CredentialError::NotGiven { name: name.clone() });
        }
        let mut path = PathBuf::new();
        for directory in &self.directories {
            path = directory.join(name);
            match files::read(&path, forbidden, SIZE) {
                Ok(bytes) => return text(bytes, path),
                Err(Refused::Unreadable(e)) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(Refused::Unreadable(source)) => {
                    return Err(CredentialError::Unreadable { path, source });
                }
                Err(Refused::Exposed(what)) => return Err(CredentialError::Exposed { path, what }),
            }
        }
        let name = name.clone();
        Err(match self.owner {
            Some(_) => CredentialError::NotGiven { name },
            None => CredentialError::Missing { name, path },
        })
    }
}

fn text(bytes: Vec<u8>, path: PathBuf) -> Result<(String, String), CredentialError> {
    let origin = path.display().to_string();
    let what = match String::from_utf8(bytes) {
        Ok(text) if text.len() <= SIZE => return Ok((text, origin)),
        Ok(_) => "is over 1024 KiB",
        Err(_) => "is not UTF-8",
    };
    Err(CredentialError::Malformed { origin, what })
}

fn missing(profile: &Profile, index: &str, path: [&str; 2], error: &CredentialError) -> Problem {
    let whole = ["Payload", "Servers", index, path[0], path[1]];
    let (line, column) = place(&profile.source, profile.identifier(), &whole);
    let cause = std::error::Error::source(error);
    Problem {
        code: Code::MissingAssets,
        file: profile.source.file.clone(),
        line,
        column,
        key_path: format!("Payload.Servers[{index}].{}.{}", path[0], path[1]),
        message: match cause {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
        hint: None,
    }
}
