//! The look-ups of one app: which way a name goes, and what is resolved at the far side.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use offramp_control::{self as control, LookupEvent};
use offramp_dns::{By, Lookup, NoAddress, Observed, Responder, Source, Way, exchange_tcp};
use offramp_intercept::{ClassId, Identity};
use offramp_rules::{
    Claims, DomainName, Host, ProfileId, State, Target, Verdict, Why, decide, decide_name,
    direct_routes,
};

use tokio::net::TcpStream;

use crate::active::Link;
use crate::approvals::{Answered, NotApproved};
use crate::budget::Reached;
use crate::flows::{executable, unix_ms};
use crate::policy::Book;
use crate::refusals::What;
use crate::shared::{ANYWHERE, Counts, Ends, Shared};
use crate::told;

/// How long the resolver that the app named may take, before the upstream's own is asked.
const NAMED_RESOLVER: Duration = Duration::from_secs(4);

/// Answers for one app.
pub(crate) struct AppLookup {
    shared: Arc<Shared>,
    identity: Identity,
    ends: Ends,
    claims: Arc<Claims>,
    book: Book,
    ipv6: bool,
}

impl AppLookup {
    /// None where the app's profile is gone.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        identity: Identity,
        ends: Ends,
        claims: Arc<Claims>,
    ) -> Option<Self> {
        let policy = shared.policy();
        let book = policy.book(&claims)?.clone();
        Counts::add(&shared.counts.lookups);
        let ipv6 = shared.ipv6.load(std::sync::atomic::Ordering::Relaxed);
        Some(Self {
            shared: Arc::clone(shared),
            identity,
            ends,
            claims,
            book,
            ipv6,
        })
    }

    pub(crate) fn responder(&self) -> Arc<Responder> {
        Arc::clone(&self.book.responder)
    }

    /// Who asks whom.
    pub(crate) fn ends(&self) -> &Ends {
        &self.ends
    }

    fn way_by(&self, verdict: &Verdict) -> Way {
        match verdict {
            // Let go directly, the app needs an address that it reaches so.
            Verdict::Direct(Why::NotConnected(profile, state))
                if *state != State::Connecting && self.is_real(profile) =>
            {
                Way::System
            }
            Verdict::Relay(profile)
            | Verdict::Refuse(Why::NotConnected(profile, _))
            | Verdict::Direct(Why::NotConnected(profile, _))
                if self.is_real(profile) =>
            {
                Way::Real
            }
            verdict => way(verdict),
        }
    }

    /// Whether lookups of a profile's names are answered with true addresses.
    fn is_real(&self, profile: &ProfileId) -> bool {
        let policy = self.shared.policy();
        let profile = policy.rules.find(profile);
        profile.is_some_and(|profile| profile.real_addresses)
    }

    /// Whether the app would reach an address by itself on another way than a name's: on this machine,
    /// directly, or as what stands for another name.
    async fn is_beside(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let (policy, world) = (
            self.shared.policy(),
            Arc::clone(&self.shared.world.borrow()),
        );
        !self.shared.is_openable(address)
            || direct_routes(&policy.rules, &self.claims, &world).contains(address)
            || self.shared.is_own(address).await
    }

    fn verdict(&self, host: Host) -> Verdict {
        let world = Arc::clone(&self.shared.world.borrow());
        let target = Target { host, port: 53 };
        decide(&self.shared.policy().rules, &self.claims, &target, &world).verdict
    }

    /// An answered look-up, for people.
    fn describe(&self, observed: &Observed) -> control::Lookup {
        control::Lookup {
            time: unix_ms(),
            app: control::App {
                pid: self.identity.pid,
                uid: self.identity.uid,
                executable: executable(self.identity.pid).to_string(),
                command: None,
            },
            profile: Shared::first_profile(&self.claims).to_string(),
            server: self.server().to_string(),
            name: observed.name.clone(),
            kind: observed.kind.clone(),
            answered: match observed.by {
                By::Synthetic => control::Answered::Synthetic,
                By::Here => control::Answered::Here,
                By::System => control::Answered::System,
                By::Far => control::Answered::Far,
            },
            code: observed.code.clone(),
            records: observed.records.clone(),
            took_us: observed.took.as_micros() as u64,
        }
    }

    /// The resolver that the app asked.
    fn server(&self) -> SocketAddr {
        let target = self.ends.target;
        let asked = self.shared.capture.asked(target.ip());
        SocketAddr::new(asked.unwrap_or(target.ip()), target.port())
    }

    /// Whether the program was recognised as no app after it had asked.
    fn is_unmanaged(&self) -> bool {
        self.claims.is_empty()
    }

    /// The connections that the app's flows take, whatever the target.
    async fn link(&self) -> io::Result<Arc<Link>> {
        let host = ANYWHERE;
        let decision = self
            .shared
            .decide(&self.claims, &Target { host, port: 53 })
            .await;
        let policy = self.shared.policy();
        let active = match &decision.verdict {
            Verdict::Relay(profile) => policy.active.get(profile),
            _ => None,
        };
        active
            .map(|active| Arc::clone(active.link()))
            .ok_or_else(|| io::Error::other(decision.verdict.to_string()))
    }
}

impl Lookup for AppLookup {
    fn way(&self, name: &DomainName) -> Way {
        let world = Arc::clone(&self.shared.world.borrow());
        let decision = decide_name(&self.shared.policy().rules, &self.claims, name, &world);
        self.way_by(&decision.verdict)
    }

    fn way_of(&self, address: IpAddr) -> Way {
        self.way_by(&self.verdict(Host::Address(address)))
    }

    fn source(&self) -> Option<Source> {
        let Verdict::Relay(profile) = self.verdict(ANYWHERE) else {
            return None;
        };
        let number = self.shared.policy().active.get(&profile)?.link().number();
        Some(Source { profile, number })
    }

    fn keep_ech(&self, _name: &DomainName) -> bool {
        // Synthetic addresses tell the name; of true ones the flow has to.
        !self.shared.policy().is_real(&self.claims)
    }

    fn ipv6(&self) -> bool {
        self.ipv6
    }

    fn asker(&self) -> u32 {
        self.identity.uid
    }

    fn no_address(&self, why: NoAddress) {
        let limit = match why {
            NoAddress::User(most) => Reached::User(most),
            NoAddress::All(most) => Reached::Machine(most),
            NoAddress::NoBlock => return,
        };
        self.shared
            .refused(What::Names, limit, &self.identity, &self.ends);
    }

    fn is_followed(&self) -> bool {
        self.shared.followed_lookups.any()
    }

    fn observe(&self, observed: Observed) {
        let event = || LookupEvent::Answered {
            lookup: Box::new(self.describe(&observed)),
        };
        self.shared.followed_lookups.tell(self.identity.uid, event);
    }

    async fn far(&self, query: Bytes, asked: SocketAddr) -> io::Result<Bytes> {
        if self.is_unmanaged() {
            let mut stream = TcpStream::connect(asked).await?;
            return exchange_tcp(&mut stream, &query).await;
        }
        let link = self.link().await?;
        let upstream = link.upstream().map_err(io::Error::other)?;
        if !self.shared.is_own(asked.ip()).await {
            let named = async {
                let mut tunnel = upstream
                    .open_tcp(&asked.into())
                    .await
                    .map_err(io::Error::other)?;
                exchange_tcp(&mut tunnel, &query).await
            };
            if let Ok(Ok(answer)) = tokio::time::timeout(NAMED_RESOLVER, named).await {
                return Ok(answer);
            }
        }
        upstream.resolve(query).await.map_err(io::Error::other)
    }

    async fn serves_names(&self) -> bool {
        let pid = self.identity.pid;
        let look = move || crate::facts::serves_names(pid);
        tokio::task::spawn_blocking(look).await.unwrap_or(false)
    }

    async fn approve(&self, name: &DomainName, addresses: &[(IpAddr, Duration)]) -> bool {
        if self.shared.policy().is_real(&self.claims) {
            let app = (self.identity.uid, &self.claims);
            let openable =
                |(address, _): &&(IpAddr, _)| self.shared.is_openable(address.to_canonical());
            let openable: Vec<_> = addresses.iter().filter(openable).copied().collect();
            self.shared
                .told
                .tell(app, name, told::By::System, &openable);
            return true;
        }
        if self.is_unmanaged() {
            return true;
        }
        // Others wait for their verdict in the same class.
        let class = match self.identity.class {
            ClassId::UNDECIDED => self.shared.find_class(&self.claims),
            class => Some(class),
        };
        // What another daemon has is its own.
        let is_handed_over = self.shared.flows.successor().is_some();
        let Some(class) = class.filter(|_| !is_handed_over) else {
            return true;
        };
        let answered = Answered {
            class,
            uid: self.identity.uid,
            name,
        };
        match self.shared.approve(&answered, addresses).await {
            Ok(()) => true,
            Err(NotApproved::Limit(limit)) => {
                let what = What::Addresses;
                self.shared.refused(what, limit, &self.identity, &self.ends);
                false
            }
            Err(NotApproved::Kernel(error)) => {
                tracing::warn!(
                    error = crate::chain(&error),
                    "excluded address stays closed"
                );
                false
            }
        }
    }

    async fn tell(&self, name: &DomainName, addresses: &[(IpAddr, Duration)]) -> bool {
        for (address, _) in addresses {
            if self.is_beside(*address).await {
                return false;
            }
        }
        let app = (self.identity.uid, &self.claims);
        self.shared.told.tell(app, name, told::By::Far, addresses);
        true
    }
}

/// Which way the look-ups of a name go, where none has a true address.
pub(crate) fn way(verdict: &Verdict) -> Way {
    match verdict {
        Verdict::Direct(
            Why::Excluded(..)
            | Why::OtherDomain(_)
            | Why::OnDemand(_)
            | Why::Loopback
            | Why::Unmanaged,
        ) => Way::System,
        Verdict::Refuse(Why::NotInForce(_)) => Way::Refuse,
        Verdict::Refuse(Why::EncryptedResolver(..)) => Way::Absent,
        // While the upstream is away the name still gets its address: the flow is refused, or let go
        // direct, when it comes.
        _ => Way::Relay,
    }
}
