use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::Config;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, unreadable or holds nothing of the kind.
    #[error("cannot read {what} from {}; give a PEM file with {flag}", path.display())]
    Read {
        /// What should be in the file.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The flag that names it.
        flag: &'static str,
        /// Why not.
        #[source]
        source: pem::Error,
    },
    /// The key does not belong to the certificate, or one of them is of a kind that TLS has not.
    #[error(
        "the certificate in {} and the key in {} do not work together; give a matching pair",
        certificate.display(),
        key.display()
    )]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// The authorities of client certificates cannot be used.
    #[error("the authorities in {} cannot be used; give CA certificates with --client-ca", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Reads the files and sets TLS 1.3 up.
pub(crate) fn configure(config: &Config) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let chain = certificates("a certificate", &config.certificate, "--certificate")?;
    let key = PrivateKeyDer::from_pem_file(&config.key)
        .map_err(|source| unreadable("a private key", &config.key, "--key", source))?;
    let pair = |source| TlsError::Pair {
        certificate: config.certificate.clone(),
        key: config.key.clone(),
        source,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(pair)?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let unusable = |source| TlsError::Authorities {
                path: path.clone(),
                source,
            };
            let mut roots = RootCertStore::empty();
            for authority in certificates("CA certificates", path, "--client-ca")? {
                roots
                    .add(authority)
                    .map_err(|error| unusable(error.into()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|e| unusable(e.into()))?)
        }
    };
    let mut tls = builder.with_single_cert(chain, key).map_err(pair)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls.into())
}

fn certificates(
    what: &'static str,
    path: &Path,
    flag: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| unreadable(what, path, flag, source);
    let found = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(unreadable)?;
    if found.is_empty() {
        return Err(unreadable(pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn unreadable(what: &'static str, path: &Path, flag: &'static str, source: pem::Error) -> TlsError {
    let path = path.to_owned();
    TlsError::Read {
        what,
        path,
        flag,
        source,
    }
}
