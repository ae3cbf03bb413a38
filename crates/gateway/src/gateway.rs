use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use offramp_relay::{Limit, Served};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::connection;
use crate::dns::Resolver;
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::service::Service;
use crate::tls::{self, TlsError};
use crate::users::{Chain, Users, UsersError};

/// Between the end of a drain and the abort of what still has not reset its peers.
const RESETTING: Duration = Duration::from_secs(1);
/// Readers of metrics at one time.
const READERS: usize = 16;

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate, key or authorities cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The users file cannot be used.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}; give a free address of this machine with {flag}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that names it.
        flag: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A gateway whose addresses are bound.
pub struct Gateway {
    listener: TcpListener,
    address: SocketAddr,
    metrics: Option<(TcpListener, SocketAddr)>,
    tls: Arc<RwLock<Arc<rustls::ServerConfig>>>,
    service: Arc<Service>,
    config: Config,
}

impl Gateway {
    /// Reads the files and binds the addresses; nothing is accepted before [`run`](Self::run).
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let tls = tls::configure(&config)?;
        let users = config.users.as_deref().map(Users::load).transpose()?;
        let (listener, address) = listen(config.listen, "--listen").await?;
        let metrics = match config.metrics {
            Some(address) => Some(listen(address, "--metrics").await?),
            None => None,
        };
        let own = std::iter::once(address).chain(metrics.as_ref().map(|(_, address)| *address));
        let service = Arc::new(Service {
            users,
            policy: Policy::new(config.allow.clone(), own.collect()),
            resolver: Resolver::new(config.resolver),
            limits: config.limits.clone(),
            udp_idle: config.udp_idle,
            flows: Arc::new(Semaphore::new(config.flows)),
            associations: Arc::new(Semaphore::new(config.associations)),
            metrics: Arc::default(),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
        });
        Ok(Self {
            listener,
            address,
            metrics,
            tls: Arc::new(RwLock::new(tls)),
            service,
            config,
        })
    }

    /// Where clients are awaited.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(|(_, address)| *address)
    }

    /// Reads the certificate, key, authorities and users again for what comes; bad files change
    /// nothing and are logged.
    pub fn reloader(&self) -> impl Fn() + Send + Sync + 'static {
        let (tls, service) = (self.tls.clone(), self.service.clone());
        let config = self.config.clone();
        move || {
            match tls::configure(&config) {
                Ok(new) => *tls.write().unwrap_or_else(PoisonError::into_inner) = new,
                Err(error) => tracing::warn!(
                    error = %Chain(&error),
                    "certificate not read, it stays as it is"
                ),
            }
            if let Some(users) = &service.users {
                users.reload();
            }
        }
    }

    /// Serves clients until `stop`, then drains.
    pub async fn run(self, stop: CancellationToken) -> Served {
        let Self {
            listener,
            metrics,
            tls,
            service,
            config,
            ..
        } = self;
        let clients = offramp_relay::serve(
            listener,
            Limit::refuse(config.connections),
            &stop,
            config.drain + RESETTING,
            |stream, client| {
                let tls = tls.read().unwrap_or_else(PoisonError::into_inner).clone();
                connection::serve(stream, client, tls, service.clone())
            },
        );
        let ended = CancellationToken::new();
        let clients = async {
            let served = clients.await;
            ended.cancel();
            served
        };
        let drain = async {
            tokio::select! {
                () = stop.cancelled() => service.stop.cancel(),
                () = ended.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(config.drain) => service.abort.cancel(),
                () = ended.cancelled() => {}
            }
        };
        let readers = serve_metrics(metrics, service.metrics.clone(), &ended);
        let (served, (), ()) = tokio::join!(Box::pin(clients), drain, Box::pin(readers));
        served
    }
}

async fn listen(
    address: SocketAddr,
    flag: &'static str,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen {
        address,
        flag,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

async fn serve_metrics(
    listener: Option<(TcpListener, SocketAddr)>,
    metrics: Arc<Metrics>,
    stop: &CancellationToken,
) {
    let Some((listener, _)) = listener else {
        return;
    };
    let limit = Limit::wait(READERS);
    offramp_relay::serve(listener, limit, stop, Duration::ZERO, |stream, _| {
        let metrics = metrics.clone();
        async move {
            let answer = service_fn(|request: http::Request<hyper::body::Incoming>| {
                let response = metrics_page(request.uri().path(), &metrics);
                async { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .serve_connection(TokioIo::<TcpStream>::new(stream), answer);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "metrics not sent");
            }
        }
    })
    .await;
}

fn metrics_page(path: &str, metrics: &Metrics) -> Response<Full<Bytes>> {
    if path != "/metrics" {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    let mut response = Response::new(Full::from(metrics.text()));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
