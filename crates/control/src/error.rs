use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Problem;

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Why the daemon did not do it.
    pub error: Refusal,
}

/// Why the daemon did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What programs decide by.
    pub code: Code,
    /// What failed, for people.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// All that is wrong with a profile that was sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl Refusal {
    /// A refusal without hint or problems.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            problems: Vec::new(),
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with the problems of a profile.
    #[must_use]
    pub fn problems(mut self, problems: Vec<Problem>) -> Self {
        self.problems = problems;
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// The kinds of refusal; each has one HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request cannot be understood.
    BadRequest,
    /// The user may not do this.
    NotPermitted,
    /// There is no such path or profile.
    NotFound,
    /// The path is right and the method is not.
    MethodNotAllowed,
    /// More than one thing fits, or what is there stands in the way.
    Conflict,
    /// The body is larger than [`MAX_BODY`](crate::MAX_BODY).
    TooLarge,
    /// The profile has errors; `problems` tells them.
    Invalid,
    /// A limit is reached; what runs goes on.
    LimitReached,
    /// The daemon cannot do this now: it starts, stops, or lacks what it needs.
    Unavailable,
    /// This version does not do it.
    NotSupported,
    /// The daemon failed, or sent a code that this client does not know.
    #[serde(other)]
    Internal,
}

impl Code {
    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotPermitted => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Invalid => 422,
            Self::LimitReached => 429,
            Self::Internal => 500,
            Self::NotSupported => 501,
            Self::Unavailable => 503,
        }
    }
}

/// Why a call of the client did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket, or this user may not reach it.
    #[error("cannot reach the daemon at {}", socket.display())]
    Unreachable {
        /// The socket that was tried.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon took the call and did not answer in time.
    #[error("no answer from the daemon within {} s", limit.as_secs_f32())]
    TimedOut {
        /// How long the client waited.
        limit: Duration,
    },
    /// The daemon went away during the call.
    #[error("lost the daemon during the call")]
    Lost(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not one of this API: another program or version listens there.
    #[error("cannot understand the answer of the daemon: {0}")]
    Garbled(String),
    /// The daemon answered that it will not.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl ClientError {
    /// True where nobody who could have done it was there to be asked.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Refused(refusal) => {
                matches!(
                    refusal.code,
                    Code::Unavailable | Code::LimitReached | Code::Internal
                )
            }
            _ => true,
        }
    }

    /// The kind of refusal, where the daemon refused.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            _ => None,
        }
    }
}

/// What an answer with this status and body means.
pub(crate) fn check_answer(status: u16, body: &[u8]) -> Result<(), ClientError> {
    if (200..300).contains(&status) {
        return Ok(());
    }
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(answer) => Err(ClientError::Refused(answer.error)),
        Err(_) => Err(ClientError::Garbled(format!(
            "status {status} without a reason"
        ))),
    }
}

/// Reads the JSON of an answer.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Garbled(error.to_string()))
}
