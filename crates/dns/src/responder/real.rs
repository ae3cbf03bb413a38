use std::net::SocketAddr;

use bytes::Bytes;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use offramp_rules::DomainName;

use crate::Family;
use crate::message::Asked;
use crate::svcb::Changes;

use super::special::Special;
use super::{Elsewhere, Lookup, Responder, is_for_hosts};

impl Responder {
    /// As far as nobody has to be waited for.
    pub(super) fn real<L: Lookup>(
        &self,
        query: &Asked,
        name: DomainName,
        lookup: &L,
    ) -> Result<Bytes, Elsewhere> {
        if let Some(special) = Special::relayed(&name, query.kind) {
            return Ok(special.answer(query));
        }
        match query.kind {
            RecordType::AAAA if !lookup.ipv6() => Ok(query.negative(ResponseCode::NoError)),
            kind if is_for_hosts(kind) => Err(Elsewhere::Real(name)),
            _ => self.relay(query, name, lookup),
        }
    }

    /// What the far side says of a relayed name: true addresses, the names on the way to them, hints,
    /// signatures. Where the app would not reach the far side by one of the addresses, the name is
    /// answered as if the app needed no true ones.
    pub(super) async fn ask_real<L: Lookup>(
        &self,
        query: &Asked,
        name: &DomainName,
        resolver: SocketAddr,
        lookup: &L,
    ) -> Bytes {
        let (answer, age) = match self.far_answer(query, resolver, lookup).await {
            Ok(found) => found,
            Err(failed) => return failed,
        };
        let may_be_told = match answer.addresses() {
            Some(addresses) if addresses.is_empty() => true,
            Some(addresses) => lookup.tell(name, &addresses).await,
            // What cannot be read cannot be remembered.
            None => false,
        };
        let changes = match query.kind {
            _ if may_be_told => Changes {
                none: true,
                ..Changes::default()
            },
            RecordType::A => return self.synthetic(query, name, Family::V4, lookup),
            RecordType::AAAA => return self.synthetic(query, name, Family::V6, lookup),
            _ => self.changes(name, lookup),
        };
        answer.for_app(query, age, changes)
    }
}

#[cfg(test)]
mod tests;
