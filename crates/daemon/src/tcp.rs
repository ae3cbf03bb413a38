//! One captured TCP connection, from accept to its end.

mod late;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use offramp_control::Way;
use offramp_intercept::Identity;
use offramp_relay::{copy, reset};
use offramp_rules::{Claims, Host, Protocol, Target, Verdict};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::active::Link;
use crate::flows::{Beginning, FlowGuard, Leg, executable};
use crate::lookup::AppLookup;
use crate::refusals::What;
use crate::shared::{Counts, Ends, Shared, Wanted};
use crate::sniff::{self, Decided, Said};

const DNS_PORT: u16 = 53;
/// How long a direct connection may take to open.
const DIRECT_OPEN: Duration = Duration::from_secs(10);

/// Serves one flow. Whatever goes wrong, the app sees a reset. After `stop` no more is looked up;
/// flows end by themselves, or with their profile.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    mut stream: TcpStream,
    source: SocketAddr,
    stop: CancellationToken,
) {
    let accepted = Instant::now();
    // However this ends but well, also by the end of the daemon itself, the app sees a reset.
    linger(&stream, Some(Duration::ZERO));
    let Ok(target) = stream.local_addr() else {
        return;
    };
    let Some(identity) = shared.capture.identify_tcp(source, target) else {
        if shared.capture.is_probe(target) {
            return linger(&stream, None);
        }
        return Counts::add(&shared.counts.unidentified);
    };
    let ends = Ends {
        protocol: offramp_control::Protocol::Tcp,
        source,
        target,
    };
    let Some(_share) = shared.share(What::Flows, &identity, &ends) else {
        return;
    };
    let asking = shared.asking.token();
    let is_look_up = target.port() == DNS_PORT;
    let claims = match is_look_up {
        true => Box::pin(shared.claims_of_asker(&identity)).await,
        false => Box::pin(shared.claims_of(&identity)).await,
    };
    let Some(claims) = claims else {
        return Counts::add(&shared.counts.unidentified);
    };
    if is_look_up {
        return look_up(&shared, stream, ends, identity, claims, &stop).await;
    }
    drop(asking);
    // The relay is a task of its own kind of memory: what opening needed is gone by then.
    let arrival = Arrival {
        identity,
        claims,
        source,
        target,
        accepted,
    };
    let Some(opened) = Box::pin(open(&shared, &mut stream, arrival)).await else {
        return;
    };
    let _ = stream.set_nodelay(true);
    relay(&shared, stream, opened).await;
}

async fn look_up(
    shared: &Arc<Shared>,
    mut stream: TcpStream,
    ends: Ends,
    identity: Identity,
    claims: Arc<Claims>,
    stop: &CancellationToken,
) {
    let (Some(asked), Some(lookup)) = (
        shared.capture.asked(ends.target.ip()),
        AppLookup::new(shared, identity, ends, claims),
    ) else {
        return;
    };
    let asked = SocketAddr::new(asked, DNS_PORT);
    lookup
        .responder()
        .serve_tcp(&mut stream, asked, &lookup, stop)
        .await;
    linger(&stream, None);
}

fn linger(stream: &TcpStream, time: Option<Duration>) {
    if let Err(error) = socket2::SockRef::from(stream).set_linger(time) {
        tracing::debug!(error = %error, "linger not set");
    }
}

/// A flow that is to be opened.
struct Arrival {
    identity: Identity,
    claims: Arc<Claims>,
    source: SocketAddr,
    target: SocketAddr,
    accepted: Instant,
}

/// An open flow.
struct Opened {
    road: Road,
    guard: FlowGuard,
    _wanted: Wanted,
}

/// The way of a flow, open.
struct Road {
    far: Far,
    leg: Leg,
    /// Held, so that it stays up.
    link: Option<Arc<Link>>,
}

enum Far {
    Tunnel(offramp_upstream::Tunnel),
    Direct(TcpStream),
}

async fn open(shared: &Arc<Shared>, stream: &mut TcpStream, arrival: Arrival) -> Option<Opened> {
    let claims = arrival.claims;
    let wanted = shared.wanted(&arrival.identity, &claims, arrival.target)?;
    let said = match shared.needs_name(&claims, &wanted) {
        true => sniff::tcp(stream, arrival.accepted).await,
        false => Said::Other,
    };
    let told = match &said {
        Said::Name(told) => Some(told.clone()),
        Said::Other | Said::Nothing => None,
    };
    let decided = shared.decide_told(&claims, &wanted, told.as_ref()).await;
    let shown = wanted.shown(told.clone(), &decided);
    let guard = shared.flows.begin(Beginning {
        identity: arrival.identity,
        executable: executable(arrival.identity.pid),
        claims: Arc::clone(&claims),
        profile: Shared::profile_of(&decided.decision.verdict, &claims),
        protocol: Protocol::Tcp,
        source: arrival.source,
        target: wanted.target.clone(),
        told,
    });
    let way = Opening {
        shared,
        claims: &claims,
        wanted: &wanted,
        guard: &guard,
    };
    let road = match said {
        Said::Nothing => way.open_again(stream, decided).await,
        Said::Name(_) | Said::Other => way.open(decided).await,
    };
    shown.into_iter().for_each(|shown| guard.told(shown));
    Some(Opened {
        road: road?,
        guard,
        _wanted: wanted,
    })
}

/// What the way of a flow is opened with.
struct Opening<'a> {
    shared: &'a Arc<Shared>,
    claims: &'a Claims,
    wanted: &'a Wanted,
    guard: &'a FlowGuard,
}

impl Opening<'_> {
    async fn open(&self, Decided { decision, name }: Decided) -> Option<Road> {
        let (verdict, guard, target) = (decision.verdict, self.guard, &self.wanted.target);
        let link = self.shared.link(&Shared::profile_of(&verdict, self.claims));
        // Before the flow opens: what is cut meanwhile is not to run on.
        let leg = guard.leg(target, name, &verdict, link.as_deref());
        let far = match &verdict {
            Verdict::Relay(_) => open_tunnel(link.as_deref()?, target, guard).await,
            Verdict::Direct(_) => open_direct(target, guard).await,
            Verdict::Refuse(why) => {
                guard.failed(self.shared.explain(why));
                None
            }
        };
        Some(Road {
            far: far?,
            leg,
            link,
        })
    }
}

async fn open_tunnel(link: &Link, target: &Target, guard: &FlowGuard) -> Option<Far> {
    let opened = match link.upstream() {
        Ok(upstream) => upstream.open_tcp(target).await,
        Err(reason) => {
            guard.failed(reason);
            return None;
        }
    };
    match opened {
        Ok(tunnel) => {
            guard.opened(Way::Relay, Some(tunnel.server()));
            Some(Far::Tunnel(tunnel))
        }
        Err(error) => {
            guard.failed(crate::chain(&error));
            None
        }
    }
}

/// Opened by the daemon: for an app that its profile lets go direct while the upstream is away, or to
/// an address that the app was told of, or tells of itself, an excluded name.
async fn open_direct(target: &Target, guard: &FlowGuard) -> Option<Far> {
    match timeout(DIRECT_OPEN, connect(target)).await {
        Ok(Ok(stream)) => {
            let _ = stream.set_nodelay(true);
            guard.opened(Way::Direct, None);
            Some(Far::Direct(stream))
        }
        Ok(Err(error)) => {
            guard.failed(error.to_string());
            None
        }
        Err(_) => {
            guard.failed("the target did not answer in time");
            None
        }
    }
}

pub(crate) async fn connect(target: &Target) -> io::Result<TcpStream> {
    match &target.host {
        Host::Name(name) => TcpStream::connect((name.as_str(), target.port)).await,
        Host::Address(address) => TcpStream::connect((*address, target.port)).await,
    }
}

async fn relay(shared: &Shared, mut stream: TcpStream, mut opened: Opened) {
    let stop = &opened.road.leg.cut;
    let clean = match &mut opened.road.far {
        Far::Tunnel(tunnel) => pump(shared, &mut stream, tunnel, &opened.guard, stop).await,
        Far::Direct(direct) => pump(shared, &mut stream, direct, &opened.guard, stop).await,
    };
    if clean {
        linger(&stream, None);
    } else if let Far::Direct(direct) = opened.road.far {
        reset(direct);
    }
}

async fn pump<F: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    stream: &mut TcpStream,
    far: &mut F,
    guard: &FlowGuard,
    stop: &CancellationToken,
) -> bool {
    let end = copy(stream, far, &shared.limits, guard.counters(), stop).await;
    if !end.is_clean() {
        guard.failed(end.reason());
    }
    end.is_clean()
}
