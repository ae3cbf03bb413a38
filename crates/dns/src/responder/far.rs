//! What the far side is asked, at most once at a time and not again while it is kept.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::time::timeout;

use offramp_rules::DomainName;

use crate::cache::Key;
use crate::far::Answer;
use crate::message::Asked;
use crate::svcb::Changes;
use crate::{Family, Lookup, Responder};

/// How long an answer from the far side is waited for; apps ask again after five seconds.
const FAR_LIMIT: Duration = Duration::from_secs(10);

/// The same for HTTPS and SVCB: a browser may wait for them before it connects, and can do without.
const SERVICE_LIMIT: Duration = Duration::from_secs(1);

impl Responder {
    /// Asks the far side, or who asked it before.
    pub(super) async fn ask_far<L: Lookup>(
        &self,
        query: &Asked,
        name: Option<&DomainName>,
        resolver: SocketAddr,
        lookup: &L,
    ) -> Bytes {
        match self.far_answer(query, resolver, lookup).await {
            Ok((answer, age)) => {
                let changes = match name.filter(|_| is_service(query)) {
                    Some(name) => self.changes(name, lookup),
                    None => Changes::default(),
                };
                answer.for_app(query, age, changes)
            }
            Err(failed) => failed,
        }
    }

    /// The answer and its age, or what the app gets in place of one.
    pub(super) async fn far_answer<L: Lookup>(
        &self,
        query: &Asked,
        resolver: SocketAddr,
        lookup: &L,
    ) -> Result<(Answer, Duration), Bytes> {
        let is_service = is_service(query);
        let limit = if is_service { SERVICE_LIMIT } else { FAR_LIMIT };
        let found = timeout(limit, self.find_far(query, resolver, lookup)).await;
        let failure = match found {
            Ok(Ok((answer, _))) if is_service && answer.code() != ResponseCode::NoError => {
                io::Error::other(answer.code().to_string())
            }
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        tracing::debug!(error = %failure, "the far side gave no answer");
        Err(match is_service {
            // The addresses are enough, and they are there: a browser would ask again and again before
            // it connects, or take the name for one that does not exist.
            true => query.negative(ResponseCode::NoError),
            false => query.code(ResponseCode::ServFail),
        })
    }

    async fn find_far<L: Lookup>(
        &self,
        query: &Asked,
        resolver: SocketAddr,
        lookup: &L,
    ) -> io::Result<(Answer, Duration)> {
        let ask = async || {
            let raw = lookup.far(query.far_query(), resolver).await?;
            Answer::read(query, raw).ok_or(io::Error::from(io::ErrorKind::InvalidData))
        };
        let Some(source) = lookup.source() else {
            return Ok((ask().await?, Duration::ZERO));
        };
        let key = Key::new(source, lookup.asker(), resolver, query);
        if let Some(found) = self.cache.find(&key) {
            return Ok(found);
        }
        let answer = self.cache.board(key).answer(ask).await?;
        Ok((answer, Duration::ZERO))
    }

    /// What HTTPS and SVCB records of this name may say.
    pub(super) fn changes<L: Lookup>(&self, name: &DomainName, lookup: &L) -> Changes {
        let mut changes = Changes {
            keep_ech: lookup.keep_ech(name),
            ..Changes::default()
        };
        // A port and a protocol are in front of the host's name (RFC 9460 section 2.3).
        if name.as_str().starts_with('_') {
            return changes;
        }
        let address = |family| self.names.address_for(name, family, lookup.asker()).ok();
        if let Some(IpAddr::V4(v4)) = address(Family::V4) {
            changes.ipv4 = Some(v4);
        }
        if lookup.ipv6()
            && let Some(IpAddr::V6(v6)) = address(Family::V6)
        {
            changes.ipv6 = Some(v6);
        }
        changes
    }
}

/// Whether it is about what a host serves, not where it is.
pub(super) fn is_service(query: &Asked) -> bool {
    matches!(query.kind, RecordType::HTTPS | RecordType::SVCB)
}
