use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use argon2::password_hash::PasswordHash;

use super::Name;

/// Stands in for the hash of a user that does not exist; nothing hashes to it.
const DECOY: &str = "$argon2id$v=19$m=19456,t=2,p=1$\
    b2ZmcmFtcC1kZWNveS1zYWx0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The users of one file.
pub(super) struct Table {
    pub(super) passwords: HashMap<Name, String>,
    pub(super) tokens: Vec<([u8; 32], Name)>,
    pub(super) decoy: String,
}

/// Tells one content of a file from the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Self {
        fs::metadata(path).map_or_else(
            |_| Self::default(),
            |file| Self {
                inode: file.ino(),
                size: file.size(),
                modified: (file.mtime(), file.mtime_nsec()),
            },
        )
    }
}

/// Why a users file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The file cannot be opened or is not text.
    #[error("cannot read the users file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A line is not what it should be.
    #[error("the users file {} is wrong in line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// What is wrong.
        problem: BadLine,
    },
    /// The file names nobody.
    #[error("the users file {} names no user; add lines made with `offramp-gateway hash`", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("no random bytes for the users table")]
    NoRandomness,
}

/// What is wrong with a line of a users file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadLine {
    /// No colon, or nothing before it.
    NoName,
    /// Neither kind of hash.
    NoHash,
    /// Not 64 hexadecimal digits.
    BadDigest,
    /// The name has a password already.
    Twice,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadLine::NoName => "write name:HASH",
            BadLine::NoHash => {
                "behind the name comes $argon2id$… (see `offramp-gateway hash`) or sha256:HEX"
            }
            BadLine::BadDigest => "behind sha256: come the 64 hexadecimal digits of a token's hash",
            BadLine::Twice => "the name has a password in an earlier line",
        })
    }
}

/// Reads a whole file; the stamp is taken first, so that a change in between is seen later.
pub(super) fn read(path: &Path) -> Result<(Stamp, Table), UsersError> {
    let stamp = Stamp::of(path);
    let text = fs::read_to_string(path).map_err(|source| UsersError::Read {
        path: path.to_owned(),
        source,
    })?;
    let table = parse(&text).map_err(|(line, problem)| UsersError::Line {
        path: path.to_owned(),
        line,
        problem,
    })?;
    if table.passwords.is_empty() && table.tokens.is_empty() {
        return Err(UsersError::Empty {
            path: path.to_owned(),
        });
    }
    Ok((stamp, table))
}

pub(super) fn parse(text: &str) -> Result<Table, (usize, BadLine)> {
    let mut table = Table {
        passwords: HashMap::new(),
        tokens: Vec::new(),
        decoy: DECOY.to_owned(),
    };
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            add(&mut table, line).map_err(|problem| (number + 1, problem))?;
        }
    }
    if let Some(hash) = table.passwords.values().next() {
        table.decoy = decoy_like(hash);
    }
    Ok(table)
}

fn add(table: &mut Table, line: &str) -> Result<(), BadLine> {
    let (name, hash) = line.split_once(':').ok_or(BadLine::NoName)?;
    if name.is_empty() {
        return Err(BadLine::NoName);
    }
    if let Some(hex) = hash.strip_prefix("sha256:") {
        let digest = read_hex(hex).ok_or(BadLine::BadDigest)?;
        table.tokens.push((digest, name.into()));
        return Ok(());
    }
    // One that was cut off names no password, and a decoy made like it would take no time.
    let is_whole = |hash: PasswordHash<'_>| hash.salt.is_some() && hash.hash.is_some();
    if !hash.starts_with("$argon2id$") || !PasswordHash::new(hash).is_ok_and(is_whole) {
        return Err(BadLine::NoHash);
    }
    match table.passwords.insert(name.into(), hash.to_owned()) {
        None => Ok(()),
        Some(_) => Err(BadLine::Twice),
    }
}

fn read_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(digest)
}

/// A hash with the cost of a real one, so that both take the same time to check.
fn decoy_like(hash: &str) -> String {
    let cost = hash.rsplitn(3, '$').nth(2).unwrap_or_default();
    let (_, tail) = DECOY.split_at(DECOY.match_indices('$').nth(3).map_or(0, |(at, _)| at));
    format!("{cost}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "a:$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA";

    #[track_caller]
    fn check(text: &str, expected: Result<(usize, usize), (usize, BadLine)>) {
        let counts = parse(text).map(|table| (table.passwords.len(), table.tokens.len()));
        assert_eq!(counts, expected);
    }

    #[test]
    fn lines_are_read() {
        let token = format!("b:sha256:{}", "0aF".repeat(21) + "0");
        check("", Ok((0, 0)));
        check(
            &format!("# users\n\n {PASSWORD}\n{token}\n{token}\n"),
            Ok((1, 2)),
        );
        check(&format!("{PASSWORD}\n{PASSWORD}"), Err((2, BadLine::Twice)));
        check("a", Err((1, BadLine::NoName)));
        check(":x", Err((1, BadLine::NoName)));
        check("a:plain", Err((1, BadLine::NoHash)));
        check("a:$argon2id$v=19$m=8,t=1,p=1", Err((1, BadLine::NoHash)));
        check("\na:sha256:00", Err((2, BadLine::BadDigest)));
    }

    #[test]
    fn the_decoy_costs_what_a_user_costs() {
        let decoy = parse(PASSWORD).unwrap_or_else(|_| unreachable!()).decoy;
        assert!(
            decoy.starts_with("$argon2id$v=19$m=8,t=1,p=1$b2Zm"),
            "{decoy}"
        );
        assert!(PasswordHash::new(&decoy).is_ok());
        assert!(PasswordHash::new(DECOY).is_ok());
    }
}
