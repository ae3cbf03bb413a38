use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::PROXY_AUTHORIZATION;
use http::request;
use offramp_relay::{Counters, End, Limits};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::answer::Refusal;
use crate::connect;
use crate::dns::Resolver;
use crate::flow::Flow;
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::request::Ask;
use crate::udp;
use crate::users::Users;

/// How long a client may take to be told of the end of an association.
const GOODBYE: Duration = Duration::from_secs(5);

/// What all connections of a gateway share.
pub(crate) struct Service {
    pub(crate) users: Option<Users>,
    pub(crate) policy: Policy,
    pub(crate) resolver: Resolver,
    pub(crate) limits: Limits,
    pub(crate) udp_idle: Duration,
    pub(crate) flows: Arc<Semaphore>,
    pub(crate) associations: Arc<Semaphore>,
    pub(crate) metrics: Arc<Metrics>,
    /// No new flows; running ones go on.
    pub(crate) stop: CancellationToken,
    /// Running flows end now.
    pub(crate) abort: CancellationToken,
}

/// A request that may go ahead.
pub(crate) enum Open {
    /// The target is open and waits for the client's stream.
    Flow(Far),
    /// The body is a query for the gateway's resolver.
    Lookup(Permits),
}

/// The target's end of a flow.
pub(crate) struct Far {
    socket: Socket,
    _permits: Permits,
}

enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

/// Holds a flow's place under the limits.
pub(crate) struct Permits {
    _flow: OwnedSemaphorePermit,
    _association: Option<OwnedSemaphorePermit>,
}

impl Service {
    pub(crate) fn flow(&self, client: SocketAddr, http: &'static str) -> Flow {
        Flow::new(client, http, self.metrics.clone())
    }

    /// Checks who asks and what for, and opens the target.
    pub(crate) async fn open(
        &self,
        client: SocketAddr,
        head: &request::Parts,
        protocol: Option<&str>,
        flow: &mut Flow,
    ) -> Result<Open, Refusal> {
        let ask = Ask::read(head, protocol);
        if let Ok(ask) = &ask {
            flow.asks(ask);
        }
        // Who is not known learns nothing, not even that a request is malformed.
        if let Some(users) = &self.users {
            let header = head.headers.get(PROXY_AUTHORIZATION);
            flow.of(Some(users.check(header, client.ip()).await?));
        }
        let ask = ask?;
        let permits = self.permits(&ask)?;
        let socket = match ask {
            Ask::Tcp(target) => Socket::Tcp(connect::tcp(&self.policy, &target).await?),
            Ask::Udp(target) => Socket::Udp(connect::udp(&self.policy, &target).await?),
            Ask::Dns => return Ok(Open::Lookup(permits)),
        };
        Ok(Open::Flow(Far {
            socket,
            _permits: permits,
        }))
    }

    /// Answers a lookup; the body was read by the caller.
    pub(crate) async fn lookup(&self, query: &[u8], counters: &Counters) -> Result<Bytes, Refusal> {
        use std::sync::atomic::Ordering::Relaxed;
        let answer = self.resolver.forward(query).await?;
        counters.sent.fetch_add(query.len() as u64, Relaxed);
        counters.received.fetch_add(answer.len() as u64, Relaxed);
        Ok(answer)
    }

    fn permits(&self, ask: &Ask) -> Result<Permits, Refusal> {
        let take = |semaphore: &Arc<Semaphore>| {
            semaphore
                .clone()
                .try_acquire_owned()
                .map_err(|_| Refusal::Full)
        };
        let association = match ask {
            Ask::Udp(_) => Some(take(&self.associations)?),
            Ask::Tcp(_) | Ask::Dns => None,
        };
        Ok(Permits {
            _flow: take(&self.flows)?,
            _association: association,
        })
    }
}

impl Far {
    pub(crate) fn is_udp(&self) -> bool {
        matches!(self.socket, Socket::Udp(_))
    }

    /// Relays to the end and closes or resets the target; the client's end is the caller's.
    pub(crate) async fn relay<S>(
        self,
        client: &mut S,
        service: &Service,
        counters: &Counters,
    ) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stop = &service.abort;
        match self.socket {
            Socket::Tcp(target) => {
                let mut target = ResetOnDrop(Some(target));
                let Some(stream) = &mut target.0 else {
                    return End::Stopped;
                };
                let end =
                    offramp_relay::copy(client, stream, &service.limits, counters, stop).await;
                if end.is_clean() {
                    target.0 = None;
                }
                end
            }
            Socket::Udp(socket) => {
                let dropped = &service.metrics.datagrams_dropped;
                let end =
                    udp::relay(client, &socket, service.udp_idle, counters, dropped, stop).await;
                if end.is_clean() {
                    let _ = timeout(GOODBYE, client.shutdown()).await;
                }
                end
            }
        }
    }
}

/// Resets the target wherever a flow is broken off, by its task's abort too.
struct ResetOnDrop(Option<TcpStream>);

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            offramp_relay::reset(stream);
        }
    }
}
