//! A gateway in this process, clients for it, and targets behind it, all on loopback.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use offramp_gateway::{Config, Gateway};
use offramp_relay::Served;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// No test waits longer for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Certificates in files.
pub(crate) struct Papers {
    pub(crate) dir: TempDir,
}

impl Papers {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, "lab");
        let ca = rcgen::CertifiedIssuer::self_signed(ca, rcgen::KeyPair::generate().unwrap());
        let ca = ca.unwrap();
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        for name in ["gateway", "client"] {
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let leaf = rcgen::CertificateParams::new(names).unwrap();
            let key = rcgen::KeyPair::generate().unwrap();
            let leaf = leaf.signed_by(&key, &ca).unwrap();
            std::fs::write(dir.path().join(format!("{name}.pem")), leaf.pem()).unwrap();
            std::fs::write(dir.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A gateway's configuration that may reach loopback.
    pub(crate) fn config(&self) -> Config {
        let listen = "127.0.0.1:0".parse().unwrap();
        let mut config = Config::new(listen, self.path("gateway.pem"), self.path("gateway.key"));
        config.allow = vec!["127.0.0.0/8".parse().unwrap()];
        config
    }

    pub(crate) fn client_tls(&self, alpn: &str, with_certificate: bool) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut tls = if with_certificate {
            let chain = vec![CertificateDer::from_pem_file(self.path("client.pem")).unwrap()];
            let key = PrivateKeyDer::from_pem_file(self.path("client.key")).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        TlsConnector::from(Arc::new(tls))
    }
}

/// A running gateway; dropped, it is gone.
pub(crate) struct Lab {
    pub(crate) papers: Papers,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: JoinSet<Option<Served>>,
}

impl Lab {
    pub(crate) async fn new() -> Self {
        Self::with(|_, _| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config, &Papers)) -> Self {
        let papers = Papers::new();
        let mut config = papers.config();
        change(&mut config, &papers);
        let gateway = Gateway::start(config).await.unwrap();
        let (address, metrics) = (gateway.address(), gateway.metrics_address());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let token = stop.clone();
        tasks.spawn(async move { Some(gateway.run(token).await) });
        Self {
            papers,
            address,
            metrics,
            stop,
            tasks,
        }
    }

    pub(crate) async fn tls(&self, alpn: &str) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        self.papers
            .client_tls(alpn, false)
            .connect(name, stream)
            .await
            .unwrap()
    }

    /// Sends a head over HTTP/1.1 and gives the stream with the head of the answer.
    pub(crate) async fn http1(&self, head: &str) -> (TlsStream<TcpStream>, String) {
        let mut stream = self.tls("http/1.1").await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_head(&mut stream).await;
        (stream, answer)
    }

    /// An HTTP/2 connection; its driver runs until the lab is dropped.
    pub(crate) async fn http2(&mut self) -> SendRequest<Bytes> {
        let stream = self.tls("h2").await;
        let (client, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .handshake(stream)
            .await
            .unwrap();
        self.tasks.spawn(async move {
            let _ = connection.await;
            None
        });
        let mut client = client.ready().await.unwrap();
        // The settings of the gateway are needed for extended CONNECT.
        while !client.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
            client = client.ready().await.unwrap();
        }
        client
    }

    /// Runs until the lab is dropped.
    pub(crate) fn background(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            None
        });
    }

    /// A target that sends back what it gets, and after the end of it, how much that was.
    pub(crate) async fn echo(&mut self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.background(async move {
            let mut flows = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                flows.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let total = tokio::io::copy(&mut read, &mut write).await.unwrap_or(0);
                    let _ = write.write_all(format!("total {total}").as_bytes()).await;
                    let _ = write.shutdown().await;
                });
            }
        });
        address
    }

    /// A UDP target that sends back what it gets.
    pub(crate) async fn udp_echo(&mut self) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        self.background(async move {
            let mut datagram = vec![0; 65_536];
            while let Ok((size, client)) = socket.recv_from(&mut datagram).await {
                let _ = socket.send_to(&datagram[..size], client).await;
            }
        });
        address
    }

    /// Stops the gateway and gives what it did.
    pub(crate) async fn stopped(&mut self) -> Served {
        self.stop.cancel();
        loop {
            let ended = tokio::time::timeout(LIMIT, self.tasks.join_next()).await;
            if let Some(served) = ended.unwrap().unwrap().unwrap() {
                return served;
            }
        }
    }
}

pub(crate) async fn read_head(stream: &mut TlsStream<TcpStream>) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    String::from_utf8(head).unwrap()
}

/// The text of a users file with the user `a`, password `secret`, and the token `token-of-b`.
pub(crate) fn users() -> String {
    use argon2::password_hash::{PasswordHasher, SaltString};
    let salt = SaltString::encode_b64(b"saltsalt").unwrap();
    let cheap = argon2::Params::new(16, 1, 1, None).unwrap();
    let argon2 = argon2::Argon2::new(Default::default(), Default::default(), cheap);
    let password = argon2.hash_password(b"secret", &salt).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"token-of-b");
    let digest: String = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("a:{password}\nb:sha256:{digest}\n")
}
