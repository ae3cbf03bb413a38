//! Who may use the gateway: the users file and the check of `Proxy-Authorization`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use argon2::Argon2;
use argon2::password_hash::{self, PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use aws_lc_rs::{constant_time, digest, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use tokio::sync::Semaphore;

use crate::answer::Refusal;
use attempts::Attempts;
use file::{Stamp, Table};

mod attempts;
mod file;
#[cfg(test)]
mod fuzz;

pub use file::{BadLine, UsersError};

/// Credentials that were found right and need no second argon2 run.
const REMEMBERED: usize = 4096;
/// Argon2 runs at one time; each takes the memory that the hash asks for.
const VERIFYING: usize = 2;

/// A user's name, for the log.
pub(crate) type Name = Arc<str>;

/// The users of a gateway; re-reads its file when the file changes.
pub(crate) struct Users {
    path: PathBuf,
    key: hmac::Key,
    current: Mutex<Current>,
    attempts: Mutex<Attempts>,
    verifying: Semaphore,
}

struct Current {
    stamp: Stamp,
    table: Arc<Table>,
    remembered: HashMap<[u8; 32], Name>,
}

impl Users {
    /// Reads the file.
    pub(crate) fn load(path: &Path) -> Result<Self, UsersError> {
        let (stamp, table) = file::read(path)?;
        let mut key = [0; 32];
        rand::fill(&mut key).map_err(|_| UsersError::NoRandomness)?;
        Ok(Self {
            path: path.to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            current: Mutex::new(Current {
                stamp,
                table: Arc::new(table),
                remembered: HashMap::new(),
            }),
            attempts: Mutex::default(),
            verifying: Semaphore::new(VERIFYING),
        })
    }

    /// Checks the value of `Proxy-Authorization` that came from `peer`.
    pub(crate) async fn check(
        &self,
        header: Option<&HeaderValue>,
        peer: IpAddr,
    ) -> Result<Name, Refusal> {
        let header = header.ok_or(Refusal::Unauthenticated)?.as_bytes();
        self.reload_if_changed();
        let digest = self.keyed(header);
        let table = {
            let current = lock(&self.current);
            if let Some(name) = current.remembered.get(&digest) {
                return Ok(name.clone());
            }
            current.table.clone()
        };
        if !lock(&self.attempts).may_try(peer) {
            return Err(Refusal::TooManyAttempts);
        }
        let name = self.verify(table.clone(), header).await;
        let name = name.ok_or(Refusal::Unauthenticated)?;
        lock(&self.attempts).succeeded(peer);
        self.remember(&table, digest, &name);
        Ok(name)
    }

    /// Reads the file again; a bad one changes nothing.
    pub(crate) fn reload(&self) {
        // The stamp is renewed either way, so that a bad file is reported once.
        let result = file::read(&self.path);
        let mut current = lock(&self.current);
        current.stamp = Stamp::of(&self.path);
        match result {
            Ok((stamp, table)) => {
                *current = Current {
                    stamp,
                    table: Arc::new(table),
                    remembered: HashMap::new(),
                };
                tracing::info!(file = %self.path.display(), "users file read");
            }
            Err(error) => tracing::warn!(
                error = %Chain(&error),
                "users file not read, the users stay as they are"
            ),
        }
    }

    fn reload_if_changed(&self) {
        let stamp = Stamp::of(&self.path);
        if lock(&self.current).stamp != stamp {
            self.reload();
        }
    }

    async fn verify(&self, table: Arc<Table>, header: &[u8]) -> Option<Name> {
        let (scheme, rest) = split_scheme(header)?;
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return verify_token(&table, rest);
        }
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return None;
        }
        let decoded = STANDARD.decode(rest).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let name = String::from_utf8(decoded[..colon].to_vec()).ok()?;
        let password = decoded[colon + 1..].to_vec();
        let _turn = self.verifying.acquire().await.ok()?;
        let task = tokio::task::spawn_blocking(move || verify_password(&table, &name, &password));
        task.await.ok().flatten()
    }

    fn remember(&self, table: &Arc<Table>, digest: [u8; 32], name: &Name) {
        let mut current = lock(&self.current);
        if !Arc::ptr_eq(&current.table, table) {
            return;
        }
        if current.remembered.len() >= REMEMBERED {
            current.remembered.clear();
        }
        current.remembered.insert(digest, name.clone());
    }

    fn keyed(&self, header: &[u8]) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(hmac::sign(&self.key, header).as_ref());
        digest
    }
}

/// The part of a users line behind `name:` for a password.
pub fn hash_password(password: &[u8]) -> Result<String, HashError> {
    let mut salt = [0; 16];
    rand::fill(&mut salt).map_err(|_| HashError::NoRandomness)?;
    let salt = SaltString::encode_b64(&salt)?;
    Ok(Argon2::default()
        .hash_password(password, &salt)?
        .to_string())
}

/// Why a password cannot be hashed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The system gives no random bytes.
    #[error("no random bytes for the salt")]
    NoRandomness,
    /// Argon2 does not take the password.
    #[error("argon2 failed: {0}")]
    Argon2(password_hash::Error),
}

impl From<password_hash::Error> for HashError {
    fn from(error: password_hash::Error) -> Self {
        HashError::Argon2(error)
    }
}

fn verify_token(table: &Table, token: &[u8]) -> Option<Name> {
    let digest = digest::digest(&digest::SHA256, token);
    let mut found = None;
    for (known, name) in &table.tokens {
        if constant_time::verify_slices_are_equal(known, digest.as_ref()).is_ok() {
            found = Some(name.clone());
        }
    }
    found
}

/// An unknown name costs as much as a known one.
fn verify_password(table: &Table, name: &str, password: &[u8]) -> Option<Name> {
    let known = table.passwords.get_key_value(name);
    let hash = known.map_or(table.decoy.as_str(), |(_, hash)| hash.as_str());
    let hash = PasswordHash::new(hash).ok()?;
    let right = Argon2::default().verify_password(password, &hash).is_ok();
    known.filter(|_| right).map(|(name, _)| name.clone())
}

fn split_scheme(header: &[u8]) -> Option<(&[u8], &[u8])> {
    let header = header.trim_ascii();
    let space = header.iter().position(|byte| *byte == b' ')?;
    Some((&header[..space], header[space + 1..].trim_ascii()))
}

/// A panic elsewhere leaves these tables whole: each change is one insert or one assignment.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error and its sources on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
