use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, RecordType};

use offramp_rules::DomainName;

use crate::message::Asked;

/// Names that mean the same everywhere, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    /// This machine's loopback (RFC 6761 section 6.3).
    Loopback,
    /// The name is not to be found.
    Absent,
    /// The name exists and has no records.
    Empty,
}

impl Special {
    /// What is special whichever way the name goes.
    pub(super) fn always(name: &DomainName) -> Option<Self> {
        let name = name.as_str();
        if within(name, "localhost") {
            return Some(Self::Loopback);
        }
        // The canary that asks browsers not to turn on DNS over HTTPS by themselves, which would
        // take the names away from us.
        if within(name, "use-application-dns.net") || within(name, "invalid") {
            return Some(Self::Absent);
        }
        // Discovery of designated resolvers (RFC 9462 section 6.4): there is none but us.
        within(name, "resolver.arpa").then_some(Self::Empty)
    }

    /// What is special when the far side would have to know the name.
    pub(super) fn relayed(name: &DomainName, kind: RecordType) -> Option<Self> {
        let name = name.as_str();
        // Names of mDNS mean something on this link only. NXDOMAIN as RFC 6762 section 22.1 wants
        // it: REFUSED would make apps ask again and report a temporary failure.
        if within(name, "local") {
            return Some(Self::Absent);
        }
        // A name of one label means something on this machine's network only; relayed it would
        // be read in the gateway's. Other types are left: top-level domains have NS and DS.
        let address = matches!(
            kind,
            RecordType::A | RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB
        );
        (address && !name.contains('.')).then_some(Self::Absent)
    }

    pub(super) fn answer(self, query: &Asked) -> Bytes {
        match (self, query.question.query_type()) {
            (Self::Loopback, RecordType::A) => query.record(RData::A(A(Ipv4Addr::LOCALHOST))),
            (Self::Loopback, RecordType::AAAA) => {
                query.record(RData::AAAA(AAAA(Ipv6Addr::LOCALHOST)))
            }
            (Self::Loopback | Self::Empty, _) => query.negative(ResponseCode::NoError),
            (Self::Absent, _) => query.negative(ResponseCode::NXDomain),
        }
    }
}

fn within(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
