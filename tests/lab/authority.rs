//! A certificate authority of the lab's own.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};

/// An authority that signs what the lab needs; its certificate lies in a file.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
    name: String,
}

/// A certificate and its key, in PEM files.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes an authority called `name` that writes its files to `directory`.
    pub fn new(directory: &Path, name: &str) -> Self {
        let key = KeyPair::generate().expect("the algorithm is supported");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, key).expect("the parameters are valid");
        let authority = Self {
            issuer,
            directory: directory.to_owned(),
            name: name.to_owned(),
        };
        write(&authority.certificate(), &authority.pem());
        authority
    }

    /// The file of the authority's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join(format!("{}.pem", self.name))
    }

    /// The authority's certificate itself.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Signs a certificate for `names` (addresses too), called `file` on disk.
    pub fn sign(&self, file: &str, names: &[&str]) -> Identity {
        self.issue(file, names, false)
    }

    /// Signs a certificate that expired long ago.
    pub fn sign_expired(&self, file: &str, names: &[&str]) -> Identity {
        self.issue(file, names, true)
    }

    fn issue(&self, file: &str, names: &[&str], expired: bool) -> Identity {
        let key = KeyPair::generate().expect("the algorithm is supported");
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("the names are valid");
        if expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let signed = params
            .signed_by(&key, &self.issuer)
            .expect("the authority can sign");
        let identity = Identity {
            certificate: self.directory.join(format!("{file}.crt")),
            key: self.directory.join(format!("{file}.key")),
        };
        write(&identity.certificate, &signed.pem());
        write(&identity.key, &key.serialize_pem());
        identity
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
