//! Why a command did not succeed, and the exit status for it.

use std::fmt::{self, Write as _};

use offramp_control::{ClientError, Code};

/// A check or a promise failed.
pub(crate) const FAILED: u8 = 1;
/// The command line is wrong (`EX_USAGE`).
pub(crate) const USAGE: u8 = 64;
/// A file given by the user cannot be read (`EX_NOINPUT`).
pub(crate) const NO_INPUT: u8 = 66;
/// The daemon cannot be reached, or cannot do it now (`EX_UNAVAILABLE`).
pub(crate) const UNAVAILABLE: u8 = 69;
/// The user may not do this (`EX_NOPERM`).
pub(crate) const NOT_PERMITTED: u8 = 77;
/// The command is there and cannot be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// There is no such command.
pub(crate) const NOT_FOUND: u8 = 127;

/// What failed, what to do, and the exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: u8,
    message: Option<String>,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(status: u8, message: impl Into<String>) -> Self {
        Self {
            status,
            message: Some(message.into()),
            hint: None,
        }
    }

    /// Ends the program with a status and no message: all has been said.
    pub(crate) fn silent(status: u8) -> Self {
        Self {
            status,
            message: None,
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(message) = &self.message {
            write!(out, "offramp: {message}")?;
        }
        if let Some(hint) = &self.hint {
            write!(out, "\n  {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = chain(&error);
        match error {
            ClientError::Unreachable { .. } => Self::new(UNAVAILABLE, message)
                .hint("start it with `systemctl start offrampd`, or name its socket with --socket"),
            ClientError::Refused(refusal) => {
                let status = status_of(refusal.code);
                Self {
                    status,
                    message: Some(message),
                    hint: refusal.hint,
                }
            }
            ClientError::TimedOut { .. } | ClientError::Lost(_) | ClientError::Garbled(_) => {
                Self::new(UNAVAILABLE, message)
            }
        }
    }
}

fn status_of(code: Code) -> u8 {
    match code {
        Code::BadRequest | Code::NotFound | Code::Conflict | Code::TooLarge | Code::Invalid => {
            USAGE
        }
        Code::NotSupported | Code::MethodNotAllowed => USAGE,
        Code::NotPermitted => NOT_PERMITTED,
        Code::LimitReached | Code::Unavailable | Code::Internal => UNAVAILABLE,
    }
}

/// An error with all its sources, once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {inner}");
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use offramp_control::Refusal;

    use super::*;

    #[test]
    fn each_client_error_has_its_status() {
        let unreachable = ClientError::Unreachable {
            socket: "/x".into(),
            source: io::Error::from(io::ErrorKind::NotFound),
        };
        let late = ClientError::TimedOut {
            limit: Duration::from_secs(1),
        };
        let refused = |code| ClientError::Refused(Refusal::new(code, "no"));
        for (error, status) in [
            (unreachable, 69),
            (late, 69),
            (ClientError::Garbled("x".into()), 69),
            (refused(Code::Unavailable), 69),
            (refused(Code::LimitReached), 69),
            (refused(Code::Internal), 69),
            (refused(Code::NotPermitted), 77),
            (refused(Code::NotFound), 64),
            (refused(Code::Conflict), 64),
        ] {
            assert_eq!(Failure::from(error).status, status);
        }
    }

    #[test]
    fn message_names_the_source_once_and_the_hint_below() {
        let error = ClientError::Unreachable {
            socket: "/x.sock".into(),
            source: io::Error::other("gone"),
        };
        let text = Failure::from(error).to_string();
        assert!(text.starts_with("offramp: cannot reach the daemon at /x.sock: gone\n  start"));
    }
}
