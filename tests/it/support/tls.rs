//! Certificates, made anew for each test.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

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

impl Identity {
    /// A port at which TLS with this certificate ends, in front of a server that speaks none.
    pub async fn in_front_of(&self, plain: SocketAddr) -> u16 {
        let certificates = CertificateDer::pem_file_iter(&self.certificate).unwrap();
        let certificates = certificates.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(certificates, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Who does not trust it ends here.
                let Ok(mut secure) = acceptor.accept(stream).await else { continue };
                let mut plain = TcpStream::connect(plain).await.unwrap();
                let _ = copy_bidirectional(&mut secure, &mut plain).await;
            }
        });
        port
    }
}

fn parameters(name: &str) -> CertificateParams {
    let mut of = CertificateParams::default();
    of.distinguished_name.push(DnType::CommonName, name);
    of
}
