use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{HINFO, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use tokio::time::Instant;

use offramp_rules::DomainName;

use crate::cache::{Cache, Cached, Source};
use crate::message::{self, Asked, Received};
use crate::{Family, Names, NoAddress, ResolveError, SystemResolver};

use self::special::Special;
use crate::system::answer::{Tidied, tidy};

pub use self::followed::{By, Observed};

mod far;
mod followed;
mod real;
mod special;

/// The bounds of how long an excluded name's address is approved for: apps keep addresses for
/// longer than a TTL of zero, and a TTL of days is no reason to keep a table full.
const APPROVED: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(3600)];

/// How the lookups of a name are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Answered with a synthetic address, so that the name itself goes to the upstream.
    Relay,
    /// Answered with true addresses, as the far side gives them, which are remembered as this name's.
    Real,
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

    /// Which way flows to `address` go: its reverse name is looked up there.
    fn way_of(&self, _address: IpAddr) -> Way {
        Way::Relay
    }

    /// Whose far side is asked, for what is kept of its answers; `None`: nothing is kept.
    fn source(&self) -> Option<Source> {
        None
    }

    /// Whether apps may encrypt the name that they tell the server of `name` (Encrypted Client
    /// Hello): no, where rules need it.
    fn keep_ech(&self, _name: &DomainName) -> bool {
        true
    }

    /// A name has no address because a limit is reached; the look-up fails.
    fn no_address(&self, _why: NoAddress) {}

    /// Whether anybody wants to hear of answers.
    fn is_followed(&self) -> bool {
        false
    }

    /// Hears of an answer, where it was followed when the query came.
    fn observe(&self, _observed: Observed) {}

    /// Resolves at the far side what synthetic addresses cannot answer (MX, TXT, SRV, PTR, ...):
    /// raw query in, raw answer out. `asked` is the server that the app asked. Waited for at
    /// most 10 s, for HTTPS and SVCB 1 s.
    fn far(
        &self,
        query: Bytes,
        asked: SocketAddr,
    ) -> impl Future<Output = io::Result<Bytes>> + Send;

    /// Whether the program that asks is a server of names itself.
    fn serves_names(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }

    /// Opens the way to addresses of an excluded name for this long, before the app is told them.
    /// False: that is not possible, and the look-up fails.
    fn approve(
        &self,
        name: &DomainName,
        addresses: &[(IpAddr, Duration)],
    ) -> impl Future<Output = bool> + Send;

    /// Remembers, before the app is told them, that these addresses are those of a name that goes
    /// [`Way::Real`], for at least this long. False: the app would reach one of them on another way
    /// than the name's, and must not be told any.
    fn tell(
        &self,
        _name: &DomainName,
        _addresses: &[(IpAddr, Duration)],
    ) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }
}

/// Answers queries.
#[derive(Debug)]
pub struct Responder {
    names: Arc<Names>,
    system: SystemResolver,
    cache: Cache,
}

/// A query as far as nobody has to be waited for.
pub enum Begun {
    /// It is answered, or to be dropped.
    Done(Option<Bytes>),
    /// [`Responder::finish`] has to wait for somebody.
    Waits(Question),
}

/// A question whose answer comes from elsewhere.
pub struct Question {
    asked: Asked,
    from: Elsewhere,
    /// Where somebody follows.
    began: Option<Instant>,
}

enum Elsewhere {
    /// For the name, or what it ends with where host names cannot express it.
    System(Option<DomainName>),
    /// For the name, where host names can express it.
    Far(Option<DomainName>),
    /// The same, with true addresses.
    Real(DomainName),
}

impl Elsewhere {
    fn by(&self) -> By {
        match self {
            Self::System(_) => By::System,
            Self::Far(_) | Self::Real(_) => By::Far,
        }
    }
}

impl Responder {
    /// Synthetic addresses come from `names`, lookups of excluded names go to `system`.
    pub fn new(names: Arc<Names>, system: SystemResolver) -> Self {
        Self {
            names,
            system,
            cache: Cache::default(),
        }
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
        match self.begin(query, transport, lookup) {
            Begun::Done(answer) => answer,
            Begun::Waits(question) => Some(self.finish(question, asked, transport, lookup).await),
        }
    }

    /// Answers what needs nobody else, as synthetic addresses do.
    pub fn begin<L: Lookup>(&self, query: Bytes, transport: Transport, lookup: &L) -> Begun {
        let asked = match Received::read(query) {
            Received::Nothing => return Begun::Done(None),
            Received::Wrong(answer) => return Begun::Done(Some(answer)),
            Received::Asked(asked) => asked,
        };
        let began = lookup.is_followed().then(Instant::now);
        match self.resolve(&asked, lookup) {
            Ok(answer) => {
                let answer = fit(&asked, answer, transport);
                self.tell(&asked, &answer, By::Here, began, lookup);
                Begun::Done(Some(answer))
            }
            Err(from) => Begun::Waits(Question { asked, from, began }),
        }
    }

    /// Answers the rest; `asked` is the server that the app asked.
    pub async fn finish<L: Lookup>(
        &self,
        question: Question,
        asked: SocketAddr,
        transport: Transport,
        lookup: &L,
    ) -> Bytes {
        let query = question.asked;
        let by = question.from.by();
        let answer = match question.from {
            Elsewhere::System(name) => {
                let name = name.as_ref();
                let from = (asked, transport);
                self.ask_system(&query, name, from, lookup).await
            }
            Elsewhere::Far(name) => self.ask_far(&query, name.as_ref(), asked, lookup).await,
            Elsewhere::Real(name) => self.ask_real(&query, &name, asked, lookup).await,
        };
        let answer = fit(&query, answer, transport);
        self.tell(&query, &answer, by, question.began, lookup);
        answer
    }

    fn tell<L: Lookup>(
        &self,
        asked: &Asked,
        answer: &[u8],
        by: By,
        began: Option<Instant>,
        lookup: &L,
    ) {
        if let Some(began) = began {
            let took = began.elapsed();
            lookup.observe(Observed::read(asked, answer, by, &self.names, took));
        }
    }

    /// What is kept of the far side's answers, by name.
    pub fn cached(&self) -> Vec<Cached> {
        self.cache.entries()
    }

    /// Forgets the answers of other sources.
    pub fn retain(&self, stays: impl Fn(&Source) -> bool) {
        self.cache.retain(stays);
    }

    fn resolve<L: Lookup>(&self, query: &Asked, lookup: &L) -> Result<Bytes, Elsewhere> {
        if query.class != DNSClass::IN {
            return Ok(query.code(ResponseCode::Refused));
        }
        match query.kind {
            // Not types of records (RFC 6895 section 3.1).
            RecordType::ZERO | RecordType::OPT => return Ok(query.code(ResponseCode::FormErr)),
            RecordType::AXFR | RecordType::IXFR => return Ok(query.code(ResponseCode::Refused)),
            kind if is_meta(kind) => return Ok(query.code(ResponseCode::NotImp)),
            _ => {}
        }
        let Some(name) = query.name() else {
            return self.resolve_odd(query, lookup);
        };
        if let Some(special) = Special::always(&name) {
            return Ok(special.answer(query));
        }
        let mut way = None;
        if let Some(address) = reverse(&name) {
            if let Some(answer) = self.reverse(query, address, lookup.asker()) {
                return Ok(answer);
            }
            // Who knows the names of an address that is reached directly is near.
            way = Some(lookup.way_of(address)).filter(|way| *way == Way::System);
        }
        match way.unwrap_or_else(|| lookup.way(&name)) {
            Way::Refuse => Ok(query.code(ResponseCode::Refused)),
            Way::Absent => Ok(query.negative(ResponseCode::NXDomain)),
            Way::System => Err(Elsewhere::System(Some(name))),
            Way::Relay => self.relay(query, name, lookup),
            Way::Real => self.real(query, name, lookup),
        }
    }

    /// A name that no host can have: the root, or one of a service ("My Printer._ipp._tcp…").
    /// Rules are about what such a name ends with.
    fn resolve_odd<L: Lookup>(&self, query: &Asked, lookup: &L) -> Result<Bytes, Elsewhere> {
        let suffix = query.suffix();
        if let Some(special) = suffix.as_ref().and_then(Special::always) {
            return Ok(special.answer(query));
        }
        // No rule names what nobody has.
        let stand_in = || DomainName::parse("invalid").expect("a name");
        match lookup.way(&suffix.clone().unwrap_or_else(stand_in)) {
            Way::Refuse => return Ok(query.code(ResponseCode::Refused)),
            Way::Absent => return Ok(query.negative(ResponseCode::NXDomain)),
            Way::System => return Err(Elsewhere::System(suffix)),
            Way::Relay | Way::Real => {}
        }
        let special = suffix.and_then(|suffix| Special::relayed(&suffix, query.kind));
        match query.kind {
            _ if special.is_some() => Ok(query.negative(ResponseCode::NXDomain)),
            RecordType::ANY => Ok(query.records(&[least()])),
            kind if !is_for_hosts(kind) => Err(Elsewhere::Far(None)),
            _ if query.is_root() => Ok(query.negative(ResponseCode::NoError)),
            _ => Ok(query.negative(ResponseCode::NXDomain)),
        }
    }

    fn relay<L: Lookup>(
        &self,
        query: &Asked,
        name: DomainName,
        lookup: &L,
    ) -> Result<Bytes, Elsewhere> {
        if let Some(special) = Special::relayed(&name, query.kind) {
            return Ok(special.answer(query));
        }
        Ok(match query.kind {
            RecordType::A => self.synthetic(query, &name, Family::V4, lookup),
            RecordType::AAAA if lookup.ipv6() => self.synthetic(query, &name, Family::V6, lookup),
            RecordType::AAAA => query.negative(ResponseCode::NoError),
            RecordType::ANY => query.records(&[least()]),
            _ => return Err(Elsewhere::Far(Some(name))),
        })
    }

    fn synthetic<L: Lookup>(
        &self,
        query: &Asked,
        name: &DomainName,
        family: Family,
        lookup: &L,
    ) -> Bytes {
        match self.names.address_for(name, family, lookup.asker()) {
            Ok(address) => query.address(address),
            Err(why) => {
                lookup.no_address(why);
                query.code(ResponseCode::ServFail)
            }
        }
    }

    /// The answer to a reverse lookup of an address of ours or of loopback.
    fn reverse(&self, query: &Asked, address: IpAddr, asker: u32) -> Option<Bytes> {
        let name = if address.is_loopback() {
            Name::from_ascii("localhost.").ok()
        } else if self.names.contains(address) {
            let name = self.names.name_of(address, asker);
            name.and_then(|name| Name::from_ascii(format!("{name}.")).ok())
        } else {
            return None;
        };
        Some(match (name, query.kind) {
            (None, _) => query.negative(ResponseCode::NXDomain),
            (Some(name), RecordType::PTR) => query.records(&[RData::PTR(PTR(name))]),
            (Some(_), _) => query.negative(ResponseCode::NoError),
        })
    }

    async fn ask_system<L: Lookup>(
        &self,
        query: &Asked,
        name: Option<&DomainName>,
        (asked, transport): (SocketAddr, Transport),
        lookup: &L,
    ) -> Bytes {
        let failed = || query.code(ResponseCode::ServFail);
        // A resolver that is under a rule itself would be asked what it asks: it means the server
        // that it has asked.
        let exchanged = match lookup.serves_names().await {
            true => self.system.ask_one(asked, &query.raw, transport).await,
            false => {
                let names = &self.names;
                self.system.exchange(&query.raw, transport, names).await
            }
        };
        let answer = match exchanged {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(error = %error, "the system resolver gave no answer");
                return failed();
            }
        };
        let Some(answer) = query.adopt(&answer) else {
            return failed();
        };
        let Tidied { answer, addresses } = match tidy(&answer, APPROVED[1]) {
            Some(tidied) => tidied,
            None if message::is_truncated(&answer) => Tidied {
                answer,
                addresses: Vec::new(),
            },
            // What cannot be read cannot be approved, so it would be of no use to the app.
            None => return failed(),
        };
        let approved: Vec<_> = addresses
            .into_iter()
            .filter(|(address, _)| !self.names.contains(*address))
            .map(|(address, ttl)| (address, ttl.clamp(APPROVED[0], APPROVED[1])))
            .collect();
        match name.filter(|_| !approved.is_empty()) {
            Some(name) if !lookup.approve(name, &approved).await => failed(),
            _ => answer,
        }
    }
}

/// RFC 8482 section 4.2.
fn least() -> RData {
    RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()))
}

/// Types that are asked about hosts.
fn is_for_hosts(kind: RecordType) -> bool {
    matches!(
        kind,
        RecordType::A | RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB
    )
}

/// Questions that are no types of records, but for ANY (RFC 6895 section 3.1).
fn is_meta(kind: RecordType) -> bool {
    matches!(u16::from(kind), 128..=254)
}

/// The address whose reverse name this is.
fn reverse(name: &DomainName) -> Option<IpAddr> {
    if !name.as_str().ends_with(".arpa") {
        return None;
    }
    let name = Name::from_ascii(format!("{name}.")).ok()?;
    let block = name.parse_arpa_name().ok()?;
    (block.prefix_len() == block.max_prefix_len()).then(|| block.addr())
}

fn fit(query: &Asked, answer: Bytes, transport: Transport) -> Bytes {
    match transport {
        Transport::Udp => query.fit_udp(answer),
        Transport::Tcp => answer,
    }
}

#[cfg(test)]
mod tests;
