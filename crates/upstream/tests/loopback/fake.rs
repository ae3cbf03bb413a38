//! A proxy server that does what a test wants, right or wrong.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use offramp_rules::{DomainName, Host, Target};
use offramp_upstream::{Config, Server, State, Timeouts, Trust, Upstream};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

pub(crate) type Stream = TlsStream<TcpStream>;

/// An authority and a server's certificate signed by it.
pub(crate) struct Identity {
    pub(crate) authority: Vec<u8>,
    config: Arc<rustls::ServerConfig>,
}

impl Identity {
    pub(crate) fn new(alpn: &[&str]) -> Self {
        Self::with(alpn, |_| {})
    }

    pub(crate) fn with(alpn: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["proxy.test".to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self {
            authority: issuer.pem().into_bytes(),
            config: Arc::new(config),
        }
    }
}

/// Accepts connections and gives each to a handler with its number, counted from 0.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    pub(crate) accepted: Arc<AtomicUsize>,
    authority: Vec<u8>,
    /// Ends with the value, and all connections with it.
    _task: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn new<F>(
        identity: &Identity,
        handle: impl Fn(Stream, usize) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::on(0, identity, handle).await
    }

    pub(crate) async fn on<F>(
        port: u16,
        identity: &Identity,
        handle: impl Fn(Stream, usize) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = TlsAcceptor::from(identity.config.clone());
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = accepted.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                if let Ok(stream) = acceptor.accept(stream).await {
                    connections.spawn(handle(stream, counter.fetch_add(1, Ordering::AcqRel)));
                }
            }
        });
        Self {
            port,
            accepted,
            authority: identity.authority.clone(),
            _task: task,
        }
    }

    pub(crate) fn server(&self, name: &str) -> Server {
        server(name, self.port, self.authority.clone())
    }
}

pub(crate) fn server(name: &str, port: u16, authority: Vec<u8>) -> Server {
    Server {
        name: name.to_owned(),
        host: Host::Address(Ipv4Addr::LOCALHOST.into()),
        port,
        server_name: Some(DomainName::parse("proxy.test").unwrap()),
        trust: Trust::Anchors(authority),
        authorization: None,
    }
}

/// Speaks HTTP/2 and gives every request to a handler.
pub(crate) async fn http2<F>(
    stream: Stream,
    builder: &h2::server::Builder,
    handle: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = builder.handshake(stream).await else {
        return;
    };
    let mut requests = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        requests.spawn(handle(request, respond));
    }
}

/// A builder with room for what the tests send.
pub(crate) fn builder() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 20)
        .enable_connect_protocol();
    builder
}

pub(crate) fn accept(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> (RecvStream, SendStream<Bytes>) {
    let send = respond.send_response(Response::new(()), false).unwrap();
    (request.into_body(), send)
}

/// Answers 200 and sends back what comes, then the end.
pub(crate) async fn echo(request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let (mut receive, mut send) = accept(request, respond);
    while let Some(Ok(data)) = receive.data().await {
        let _ = receive.flow_control().release_capacity(data.len());
        if !write(&mut send, data).await {
            return;
        }
    }
    let _ = send.send_data(Bytes::new(), true);
}

/// Sends within the window; false when the stream has ended.
pub(crate) async fn write(send: &mut SendStream<Bytes>, mut data: Bytes) -> bool {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let Some(Ok(granted)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else {
            return false;
        };
        if send
            .send_data(data.split_to(granted.min(data.len())), false)
            .is_err()
        {
            return false;
        }
    }
    true
}

/// Reads the head of an HTTP/1.1 request.
pub(crate) async fn head(stream: &mut Stream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Reads the head of a request and answers with these bytes.
pub(crate) async fn answer(stream: &mut Stream, bytes: &[u8]) -> Option<String> {
    let head = head(stream).await?;
    stream.write_all(bytes).await.ok()?;
    stream.flush().await.ok()?;
    Some(head)
}

/// An upstream that runs as long as the value lives.
pub(crate) struct Running {
    pub(crate) upstream: Arc<Upstream>,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Running {
    pub(crate) fn new(servers: Vec<Server>) -> Self {
        let timeouts = Timeouts {
            connect: Duration::from_secs(2),
            tls: Duration::from_secs(2),
            answer: Duration::from_millis(700),
        };
        let upstream = Arc::new(Upstream::new(Config { servers, timeouts }).unwrap());
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        let (runs, token) = (upstream.clone(), stop.clone());
        task.spawn(async move { runs.run(token).await });
        Self {
            upstream,
            stop,
            task,
        }
    }

    /// Waits for a state that satisfies the test.
    pub(crate) async fn until(&self, wanted: impl FnMut(&State) -> bool) -> State {
        let mut state = self.upstream.state();
        state.wait_for(wanted).await.unwrap().clone()
    }

    pub(crate) async fn connected(&self) -> State {
        self.until(|state| matches!(state, State::Connected { .. }))
            .await
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        self.task.join_next().await.unwrap().unwrap();
    }
}

pub(crate) fn target() -> Target {
    Target {
        host: Host::Name(DomainName::parse("origin.test").unwrap()),
        port: 443,
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
        panic!("bound to IPv4");
    };
    address.port()
}
