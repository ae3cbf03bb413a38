use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, HINFO, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use tokio::time::timeout;

use offramp_rules::DomainName;

use crate::message::{self, Asked, Received};
use crate::{Family, Names, NoAddress, ResolveError, SystemResolver};

use self::special::Special;

mod special;

/// How long an answer from the far side is waited for; apps ask again after five seconds.
const FAR_LIMIT: Duration = Duration::from_secs(10);

/// The bounds of how long an excluded name's address is approved for: apps keep addresses for
/// longer than a TTL of zero, and a TTL of days is no reason to keep a table full.
const APPROVED: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(3600)];

/// How the lookups of a name are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Answered with a synthetic address, so that the name itself goes to the upstream.
    Relay,
    /// Excluded: answered by the system's resolver.
    System,
    /// Answered with REFUSED.
    Refuse,
    /// Answered with NXDOMAIN: apps do without it, and ask us about everything else.
    Absent,
}

/// What carried a query to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Answers have a greatest size.
    Udp,
    /// Answers have up to 65535 bytes.
    Tcp,
}

/// How names of one class of apps are treated; the daemon implements it.
pub trait Lookup: Send + Sync {
    /// Which way the lookups of `name` go.
    fn way(&self, name: &DomainName) -> Way;

    /// Whether relayed names have IPv6 addresses; if not, AAAA is answered with no data at once.
    fn ipv6(&self) -> bool;

    /// The user whose program asks; root's names are not counted.
    fn asker(&self) -> u32 {
        0
    }

    /// A name has no address because a limit is reached; the look-up fails.
    fn no_address(&self, _why: NoAddress) {}

    /// Resolves at the far side what synthetic addresses cannot answer (MX, TXT, SRV, PTR, ...):
    /// raw query in, raw answer out. `asked` is the server that the app asked. Waited for at
    /// most 10 s.
    fn far(
        &self,
        query: Bytes,
        asked: SocketAddr,
    ) -> impl Future<Output = io::Result<Bytes>> + Send;

    /// Opens the way to addresses of an excluded name for this long, before the app is told them.
    fn approve(&self, addresses: &[(IpAddr, Duration)]) -> impl Future<Output = ()> + Send;
}

/// Answers queries.
#[derive(Debug)]
pub struct Responder {
    names: Arc<Names>,
    system: SystemResolver,
}

impl Responder {
    /// Synthetic addresses come from `names`, lookups of excluded names go to `system`.
    pub fn new(names: Arc<Names>, system: SystemResolver) -> Self {
        Self { names, system }
    }

    /// The addresses that the system's resolver has for a name.
    pub async fn system_addresses(
        &self,
        name: &DomainName,
        family: Family,
    ) -> Result<Vec<IpAddr>, ResolveError> {
        let Some(query) = message::question(name, family) else {
            return Ok(Vec::new());
        };
        let answer = self.system.exchange(&query, Transport::Udp, &self.names);
        let addresses = message::addresses(&answer.await?).unwrap_or_default();
        Ok(addresses.into_iter().map(|(address, _)| address).collect())
    }

    /// The answer to `query`, which the app sent to `asked`; `None` for what is not a query at
    /// all and is to be dropped.
    pub async fn answer<L: Lookup>(
        &self,
        query: Bytes,
        asked: SocketAddr,
        transport: Transport,
        lookup: &L,
    ) -> Option<Bytes> {
        let query = match Received::read(query) {
            Received::Nothing => return None,
            Received::Wrong(answer) => return Some(answer),
            Received::Asked(query) => query,
        };
        let answer = self.resolve(&query, asked, transport, lookup).await;
        Some(match transport {
            Transport::Udp => query.fit_udp(answer),
            Transport::Tcp => answer,
        })
    }

    async fn resolve<L: Lookup>(
        &self,
        query: &Asked,
        asked: SocketAddr,
        transport: Transport,
        lookup: &L,
    ) -> Bytes {
        if query.question.query_class() != DNSClass::IN {
            return query.code(ResponseCode::Refused);
        }
        if query.question.name().is_root() {
            // No rule can name the root, so nothing says which way it would go.
            return query.code(ResponseCode::Refused);
        }
        let Some(name) = query.name() else {
            return query.negative(ResponseCode::NXDomain);
        };
        if let Some(special) = Special::always(&name) {
            return special.answer(query);
        }
        if let Some(answer) = self.reverse(query, lookup.asker()) {
            return answer;
        }
        match lookup.way(&name) {
            Way::Refuse => query.code(ResponseCode::Refused),
            Way::Absent => query.negative(ResponseCode::NXDomain),
            Way::System => self.ask_system(query, transport, lookup).await,
            Way::Relay => self.relay(query, &name, asked, lookup).await,
        }
    }

    async fn relay<L: Lookup>(
        &self,
        query: &Asked,
        name: &DomainName,
        asked: SocketAddr,
        lookup: &L,
    ) -> Bytes {
        if let Some(special) = Special::relayed(name, query.question.query_type()) {
            return special.answer(query);
        }
        match query.question.query_type() {
            RecordType::A => self.synthetic(query, name, Family::V4, lookup),
            RecordType::AAAA if lookup.ipv6() => self.synthetic(query, name, Family::V6, lookup),
            // Passed on as they are, the hints in HTTPS and SVCB would lead around the names.
            RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB => {
                query.negative(ResponseCode::NoError)
            }
            // RFC 8482 section 4.2.
            RecordType::ANY => query.record(RData::HINFO(HINFO::new(
                "RFC8482".to_owned(),
                String::new(),
            ))),
            RecordType::AXFR | RecordType::IXFR => query.code(ResponseCode::Refused),
            _ => ask_far(query, asked, lookup).await,
        }
    }

    fn synthetic<L: Lookup>(
        &self,
        query: &Asked,
        name: &DomainName,
        family: Family,
        lookup: &L,
    ) -> Bytes {
        match self.names.address_for(name, family, lookup.asker()) {
            Ok(IpAddr::V4(address)) => query.record(RData::A(A(address))),
            Ok(IpAddr::V6(address)) => query.record(RData::AAAA(AAAA(address))),
            Err(why) => {
                lookup.no_address(why);
                query.code(ResponseCode::ServFail)
            }
        }
    }

    /// The answer to a reverse lookup of an address of ours or of loopback.
    fn reverse(&self, query: &Asked, asker: u32) -> Option<Bytes> {
        let block = query.question.name().parse_arpa_name().ok()?;
        let address = block.addr();
        if block.prefix_len() != block.max_prefix_len() {
            return None;
        }
        let name = if address.is_loopback() {
            Name::from_ascii("localhost.").ok()
        } else if self.names.contains(address) {
            let name = self.names.name_of(address, asker);
            name.and_then(|name| Name::from_ascii(format!("{name}.")).ok())
        } else {
            return None;
        };
        Some(match (name, query.question.query_type()) {
            (None, _) => query.negative(ResponseCode::NXDomain),
            (Some(name), RecordType::PTR) => query.record(RData::PTR(PTR(name))),
            (Some(_), _) => query.negative(ResponseCode::NoError),
        })
    }

    async fn ask_system<L: Lookup>(
        &self,
        query: &Asked,
        transport: Transport,
        lookup: &L,
    ) -> Bytes {
        let failed = || query.code(ResponseCode::ServFail);
        let answer = match self
            .system
            .exchange(&query.raw, transport, &self.names)
            .await
        {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(error = %error, "the system resolver gave no answer");
                return failed();
            }
        };
        let Some(answer) = query.adopt(&answer) else {
            return failed();
        };
        let addresses = match message::addresses(&answer) {
            Some(addresses) => addresses,
            None if message::is_truncated(&answer) => Vec::new(),
            // What cannot be read cannot be approved, so it would be of no use to the app.
            None => return failed(),
        };
        let approved: Vec<_> = addresses
            .into_iter()
            .filter(|(address, _)| !self.names.contains(*address))
            .map(|(address, ttl)| (address, ttl.clamp(APPROVED[0], APPROVED[1])))
            .collect();
        if !approved.is_empty() {
            lookup.approve(&approved).await;
        }
        answer
    }
}

async fn ask_far<L: Lookup>(query: &Asked, asked: SocketAddr, lookup: &L) -> Bytes {
    let answer = match timeout(FAR_LIMIT, lookup.far(query.raw.clone(), asked)).await {
        Ok(Ok(answer)) => query.adopt(&answer),
        Ok(Err(error)) => {
            tracing::debug!(error = %error, "the far side gave no answer");
            None
        }
        Err(_) => {
            tracing::debug!("the far side did not answer in time");
            None
        }
    };
    answer.unwrap_or_else(|| query.code(ResponseCode::ServFail))
}

#[cfg(test)]
mod tests;
