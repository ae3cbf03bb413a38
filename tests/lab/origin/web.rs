//! The web server of the origin: pages that tell the peer, and static files.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::canonical;
use crate::authority::Authority;

/// Names that the origin's certificate is good for; each is also in the lab's DNS.
pub(crate) const NAMES: [&str; 6] = [
    "origin.test",
    "v4.test",
    "v6.test",
    "excluded.test",
    "other.test",
    "*.wild.test",
];

/// What the web server needs.
pub(super) struct Web {
    tls: TlsAcceptor,
    files: PathBuf,
}

impl Web {
    /// Gets a certificate for the origin's names and addresses; `files` is what it serves.
    pub(super) fn new(authority: &Authority, files: &Path) -> Self {
        let addresses = (1..=16).map(|number| crate::addresses::target(number).to_string());
        let mut names: Vec<String> = NAMES
            .map(String::from)
            .into_iter()
            .chain(addresses)
            .collect();
        names.push(crate::addresses::ORIGIN6.to_string());
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let identity = authority.sign("origin", &names);
        let certificate =
            CertificateDer::from_pem_file(&identity.certificate).expect("just written");
        let key = PrivateKeyDer::from_pem_file(&identity.key).expect("just written");
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("certificate and key belong together");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self {
            tls: TlsAcceptor::from(Arc::new(config)),
            files: files.to_owned(),
        }
    }

    pub(super) async fn plain(self: Arc<Self>, flow: TcpStream) -> io::Result<()> {
        let peer = canonical(flow.peer_addr()?);
        self.serve(flow, peer).await
    }

    pub(super) async fn tls(self: Arc<Self>, flow: TcpStream) -> io::Result<()> {
        let peer = canonical(flow.peer_addr()?);
        let flow = self.tls.accept(flow).await?;
        self.serve(flow, peer).await
    }

    async fn serve<S>(self: Arc<Self>, flow: S, peer: SocketAddr) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answer = service_fn(move |request| {
            let web = Arc::clone(&self);
            async move { web.answer(request, peer).await }
        });
        let server = auto::Builder::new(TokioExecutor::new());
        server
            .serve_connection(TokioIo::new(flow), answer)
            .await
            .map_err(io::Error::other)
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let version = format!("{:?}", request.version());
        let path = request.uri().path().to_owned();
        // The body is read so that an upload ends well; what it was does not matter.
        let sent = request
            .into_body()
            .collect()
            .await
            .map_or(0, |body| body.to_bytes().len());
        let (status, kind, body) = match path.as_str() {
            "/" => (
                StatusCode::OK,
                "text/plain",
                format!("peer={peer} {version} sent={sent}\n").into(),
            ),
            "/page" => (StatusCode::OK, "text/html", page(peer)),
            "/script.js" => (StatusCode::OK, "text/javascript", script()),
            path => self.file(path),
        };
        let response = Response::builder()
            .status(status)
            .header("content-type", kind);
        Ok(response
            .body(Full::new(body))
            .expect("status and header are valid"))
    }

    fn file(&self, path: &str) -> (StatusCode, &'static str, Bytes) {
        let path = Path::new(path.trim_start_matches('/'));
        let inside = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        match std::fs::read(self.files.join(path)) {
            Ok(bytes) if inside => (StatusCode::OK, "application/octet-stream", bytes.into()),
            _ => (
                StatusCode::NOT_FOUND,
                "text/plain",
                Bytes::from_static(b"not here\n"),
            ),
        }
    }
}

/// A page that a browser has to run: the script changes the text.
fn page(peer: SocketAddr) -> Bytes {
    format!(
        "<!doctype html><title>origin</title><p id=p>waiting</p><p>peer={peer}</p>\
         <script src=/script.js></script>"
    )
    .into()
}

fn script() -> Bytes {
    Bytes::from_static(b"document.getElementById('p').textContent = 'ran ' + (6 * 7);")
}
