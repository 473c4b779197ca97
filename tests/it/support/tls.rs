//! Certificates, made anew for each test.

use std::fs;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

/// Whoever signs certificates. The files live as long as this value.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its key, as files.
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut of = parameters(name);
        of.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        of.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::Builder::new().prefix("tidings-tls-").tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), of.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(of, key), folder }
    }

    /// The file with its own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server that is reached by this name or address.
    pub fn server(&self, name: &str) -> Identity {
        self.identity(name, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client.
    pub fn client(&self, name: &str) -> Identity {
        self.identity(name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn identity(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> Identity {
        let mut of = CertificateParams::new([name.to_owned()]).unwrap();
        of.distinguished_name = parameters(name).distinguished_name;
        of.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let certificate = of.signed_by(&key, &self.issuer).unwrap();
        let file = |ending: &str| self.folder.path().join(format!("{name}.{ending}"));
        let identity = Identity { certificate: file("pem"), key: file("key") };
        fs::write(&identity.certificate, certificate.pem()).unwrap();
        fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }
}

fn parameters(name: &str) -> CertificateParams {
    let mut of = CertificateParams::default();
    of.distinguished_name.push(DnType::CommonName, name);
    of
}
