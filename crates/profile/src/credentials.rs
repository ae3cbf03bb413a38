use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::problem::{Code, Problem};
use crate::profile::{Asset, Method, Profile};
use crate::read::place;
use crate::secret::Secret;

/// The largest credential, in bytes: a bundle of certificates is the longest thing there is.
const SIZE: u64 = 1 << 20;

/// Where credentials are: a directory of systemd's first, then `CONFIG/credentials`.
#[derive(Clone, Debug)]
pub struct Credentials {
    directories: Vec<PathBuf>,
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

    /// The credentials of these directories; the first that has a name counts.
    pub fn within(directories: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            directories: directories.into_iter().collect(),
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
        let name = match asset {
            Asset::Inline(secret) => {
                return Ok((secret.expose().to_owned(), "what was given".to_owned()));
            }
            Asset::Credential(name) => name,
        };
        let mut path = PathBuf::new();
        for directory in &self.directories {
            path = directory.join(name);
            match std::fs::File::open(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(CredentialError::Unreadable { path, source }),
                Ok(file) => return read_guarded(file, path, forbidden),
            }
        }
        let name = name.clone();
        Err(CredentialError::Missing { name, path })
    }
}

fn read_guarded(
    file: std::fs::File,
    path: PathBuf,
    forbidden: u32,
) -> Result<(String, String), CredentialError> {
    let unreadable = |source| CredentialError::Unreadable {
        path: path.clone(),
        source,
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if let Some(what) = exposure(&metadata, forbidden) {
        return Err(CredentialError::Exposed { path, what });
    }
    let mut text = String::new();
    file.take(SIZE)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    Ok((text, path.display().to_string()))
}

/// What is wrong with the owner or the mode of a file that only root or this process's user may
/// change; `forbidden` are the bits that its mode must not have.
pub(crate) fn exposure(metadata: &std::fs::Metadata, forbidden: u32) -> Option<String> {
    let owner = metadata.uid();
    if !metadata.is_file() {
        return Some("is no regular file".to_owned());
    }
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Some(format!("belongs to user {owner}"));
    }
    let mode = metadata.mode() & 0o7777;
    (mode & forbidden != 0).then(|| format!("has mode {mode:04o}"))
}

fn missing(profile: &Profile, index: &str, path: [&str; 2], error: &CredentialError) -> Problem {
    let whole = ["Payload", "Servers", index, path[0], path[1]];
    let (line, column) = place(&profile.source, profile.id(), &whole);
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
