//! An nginx that ends TLS in front of a replica, as docs/authentication.md shows it, and a way through TLS for clients that speak none.
//!
//! With `TIDINGS_TESTS_BEHIND=nginx`, every replica of every test stands behind one.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::nats::free_port;
use super::program::{NGINX_ARGUMENTS, NGINX_AROUND, Program, replace};
use super::shipped;
use super::tls::Authority;

/// The variable that puts one in front of every replica.
pub const VARIABLE: &str = "TIDINGS_TESTS_BEHIND";

/// The host in the configuration, for which the certificate is.
pub const HOST: &str = "tidings.example.com";

/// The configuration that docs/authentication.md shows.
pub fn nginx() -> String {
    let page = shipped("docs/authentication.md");
    let (_, after) = page.split_once("```nginx\n").expect("the document shows a configuration of nginx");
    after.split_once("```").expect("it ends").0.to_owned()
}

/// What every replica stands behind, if that is wanted.
pub fn everywhere() -> Option<String> {
    match std::env::var(VARIABLE).ok()?.as_str() {
        "nginx" => Some(nginx()),
        other => panic!("{VARIABLE}={other} is nothing that can stand in front of a replica"),
    }
}

pub struct Front {
    _program: Program,
    connector: TlsConnector,
    port: u16,
    url: String,
}

impl Front {
    /// Starts an nginx in front of a replica that listens at a port, or will.
    pub fn start(configuration: &str, replica: u16) -> Self {
        let authority = Authority::new("whom the clients trust");
        let identity = authority.server(HOST);
        let port = free_port();
        let mut configuration = configuration.to_owned();
        for (shown, here) in [
            ("listen 443 ssl", &*format!("listen 127.0.0.1:{port} ssl")),
            ("/etc/ssl/tidings.pem", "certificate.pem"),
            ("/etc/ssl/tidings.key", "certificate.key"),
            ("127.0.0.1:8000", &format!("127.0.0.1:{replica}")),
        ] {
            replace(&mut configuration, shown, here);
        }
        let files = [
            ("nginx.conf", &*configuration),
            ("main.conf", NGINX_AROUND),
            ("certificate.pem", &fs::read_to_string(&identity.certificate).unwrap()),
            ("certificate.key", &fs::read_to_string(&identity.key).unwrap()),
        ];
        let program = Program::start("nginx", NGINX_ARGUMENTS, &files);
        let mut front = Self { _program: program, connector: trusting(&authority), port, url: String::new() };
        front.url = front.url_from("127.0.0.1");
        front
    }

    /// Where clients that speak no TLS find a way through it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where clients that speak TLS find it, under a name of this host.
    pub fn authority(&self, host: &str) -> String {
        format!("{host}:{}", self.port)
    }

    /// The same as `url`, for clients that come to nginx from another address of this machine.
    pub fn url_from(&self, address: &str) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let listener = TcpListener::from_std(listener).unwrap();
        let from = SocketAddr::new(address.parse().unwrap(), 0);
        let (connector, to) = (self.connector.clone(), SocketAddr::from(([127, 0, 0, 1], self.port)));
        tokio::spawn(async move {
            while let Ok((plain, _)) = listener.accept().await {
                tokio::spawn(through_tls(plain, connector.clone(), from, to));
            }
        });
        url
    }
}

fn trusting(authority: &Authority) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.certificate()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// What a client says goes on through TLS, and what comes back comes back, until either side is done. Whatever goes wrong
/// is the end of the connection to the client.
async fn through_tls(
    mut plain: TcpStream,
    connector: TlsConnector,
    from: SocketAddr,
    to: SocketAddr,
) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(from)?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    plain.set_nodelay(true)?;
    let host = ServerName::try_from(HOST).expect("it is a name");
    let mut secure = connector.connect(host, stream).await?;
    copy_bidirectional(&mut plain, &mut secure).await.map(|_| ())
}
