use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RData;

use crate::Names;
use crate::cache::text;
use crate::message::Asked;

/// Records of an answer that are told, and how long each is at most.
const RECORDS: usize = 8;
const LONGEST: usize = 200;

/// A look-up that was answered, for people who follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The name that was asked for.
    pub name: String,
    /// The type, as `MX` or `TYPE1234`.
    pub kind: String,
    /// Where the answer is from.
    pub by: By,
    /// How it went, as `No Error`.
    pub code: String,
    /// The first records of the answer, without their names.
    pub records: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Where an answer is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// An address that stands for the name.
    Synthetic,
    /// Made here, without asking anybody.
    Here,
    /// The system's resolver.
    System,
    /// The far side, or what is kept of its answers.
    Far,
}

impl Observed {
    pub(super) fn read(
        asked: &Asked,
        answer: &[u8],
        by: By,
        names: &Names,
        took: Duration,
    ) -> Self {
        let message = Message::from_vec(answer).ok();
        let answers = message.iter().flat_map(|message| &message.answers);
        let data = answers.map(|record| &record.data);
        let is_synthetic = data.clone().any(|data| match data {
            RData::A(address) => names.contains(address.0.into()),
            RData::AAAA(address) => names.contains(address.0.into()),
            _ => false,
        });
        let code = message
            .as_ref()
            .map(|message| message.metadata.response_code);
        Self {
            name: text(asked.wire_name()),
            kind: asked.kind.to_string(),
            by: match is_synthetic {
                true => By::Synthetic,
                false => by,
            },
            code: code.map(|code| code.to_string()).unwrap_or_default(),
            records: data
                .take(RECORDS)
                .map(|data| data.to_string().chars().take(LONGEST).collect())
                .collect(),
            took,
        }
    }
}
