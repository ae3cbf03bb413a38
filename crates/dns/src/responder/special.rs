use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::A;
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
    /// By its addresses programs find out whether a network translates IPv4 (RFC 7050): it does not.
    Ipv4Only,
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
        // Names of the home's network (RFC 8375), and of onion services, which no DNS knows and which
        // nobody is to be told (RFC 7686).
        if within(name, "home.arpa") || within(name, "onion") {
            return Some(Self::Absent);
        }
        if name == "ipv4only.arpa" {
            return Some(Self::Ipv4Only);
        }
        // A resolver that is known by name says here how it is reached encrypted (RFC 9462 section
        // 5), past us.
        if name.starts_with("_dns.") && kind == RecordType::SVCB {
            return Some(Self::Empty);
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
        match (self, query.kind) {
            (Self::Loopback, RecordType::A) => query.address(Ipv4Addr::LOCALHOST.into()),
            (Self::Loopback, RecordType::AAAA) => query.address(Ipv6Addr::LOCALHOST.into()),
            (Self::Ipv4Only, RecordType::A) => {
                query.records(&[170, 171].map(|last| RData::A(A::new(192, 0, 0, last))))
            }
            (Self::Absent, _) => query.negative(ResponseCode::NXDomain),
            (Self::Loopback | Self::Empty | Self::Ipv4Only, _) => {
                query.negative(ResponseCode::NoError)
            }
        }
    }
}

fn within(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
