use std::io;
use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{ConfigError, Endpoint, Server, Trust};
use crate::error::{CertificateProblem, ConnectError};
use crate::slot::HTTP2;

/// An encrypted connection to a proxy server.
pub(crate) type Stream = TlsStream<TcpStream>;

/// Whether the server chose HTTP/2; everything else is HTTP/1.1.
pub(crate) fn is_h2(stream: &Stream) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2.as_bytes())
}

/// Named outright, so that a library that installs another default changes nothing here.
static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// TLS 1.3 alone; the provider puts X25519MLKEM768 first.
pub(crate) fn client_config(server: &Server) -> Result<Arc<ClientConfig>, ConfigError> {
    let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites for TLS 1.3")
        .with_root_certificates(roots(server)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(server: &Server) -> Result<RootCertStore, ConfigError> {
    let mut store = RootCertStore::empty();
    match &server.trust {
        Trust::System => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                return Err(ConfigError::NoAuthorities {
                    server: server.name.clone(),
                });
            }
        }
        Trust::Anchors(pem) => {
            let unreadable = |reason: String| ConfigError::Anchors {
                server: server.name.clone(),
                reason,
            };
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
                store
                    .add(certificate)
                    .map_err(|error| unreadable(error.to_string()))?;
            }
            if store.is_empty() {
                return Err(unreadable("there is no PEM certificate".into()));
            }
        }
    }
    Ok(store)
}

/// Shakes hands within the endpoint's time limit.
pub(crate) async fn handshake(
    endpoint: &Endpoint,
    stream: TcpStream,
) -> Result<Stream, ConnectError> {
    let connector = TlsConnector::from(endpoint.tls.clone());
    let handshake = connector.connect(endpoint.server_name.clone(), stream);
    match tokio::time::timeout(endpoint.timeouts.tls, handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failure(endpoint, error)),
        Err(_) => Err(ConnectError::TlsTimeout {
            server: endpoint.name.to_string(),
        }),
    }
}

fn failure(endpoint: &Endpoint, error: io::Error) -> ConnectError {
    let server = endpoint.name.to_string();
    let verification = error.get_ref().and_then(|inner| inner.downcast_ref());
    match verification {
        Some(rustls::Error::InvalidCertificate(reason)) => ConnectError::Certificate {
            server,
            name: endpoint.server_name.to_str().into_owned(),
            problem: problem(reason),
        },
        _ => ConnectError::Tls {
            server,
            source: error,
        },
    }
}

fn problem(reason: &CertificateError) -> CertificateProblem {
    match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            CertificateProblem::Expired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            CertificateProblem::NotYetValid
        }
        // Another authority of the same name shows as a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            CertificateProblem::UnknownIssuer
        }
        CertificateError::NotValidForName => CertificateProblem::OtherName(String::new()),
        CertificateError::NotValidForNameContext { presented, .. } => {
            CertificateProblem::OtherName(names(presented))
        }
        CertificateError::Revoked => CertificateProblem::Revoked,
        // rustls has no variant of its own for it.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            CertificateProblem::Authority
        }
        other => CertificateProblem::Unusable(other.to_string()),
    }
}

/// `DnsName("other.test")`, as the verifier writes names, without its ornament.
fn names(presented: &[String]) -> String {
    let bare = presented.iter().map(|name| {
        let inner = name
            .split_once('(')
            .and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(name).trim_matches('"')
    });
    bare.collect::<Vec<_>>().join(", ")
}
