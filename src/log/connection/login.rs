//! How a server is reached and asked to let somebody in: what an address says of that, and its files.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::{ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::address::NatsAddress;
use crate::disk::private::warn_of_readers;
use crate::disk::{read_bounded, read_small};

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Reconnects are spread over up to this, so that a restarted server does not meet every replica at once.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);

/// The client's own default of 60 s would leave a stopped server unnoticed for minutes.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Commands that wait for the socket. Small: what waits here during an outage may land late.
const SENDER_CAPACITY: usize = 256;

/// Messages that may wait for one subscriber before the client drops some and says so; the reader notices the gap.
const SUBSCRIPTION_CAPACITY: usize = 16 * 1024;

/// Bytes of a file of certificates at most: all authorities that a system trusts take a quarter of a megabyte.
const CERTIFICATES_BYTES: usize = 4 << 20;

/// Doubles from 50 ms up to the maximum, and takes between half and all of it. The jitter comes from a hasher that std
/// seeds at random in each process: no more is needed to spread a few replicas.
fn reconnect_delay(attempt: usize) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    let exponent = u32::try_from(attempt).unwrap_or(u32::MAX).min(10);
    let ceiling = Duration::from_millis(50).saturating_mul(1 << exponent).min(RECONNECT_DELAY_MAX);
    let share = RandomState::new().hash_one(attempt) % 1_000;
    ceiling / 2 + ceiling.mul_f64(0.5) * u32::try_from(share).unwrap_or(0) / 1_000
}

fn servers(address: &NatsAddress) -> anyhow::Result<Vec<ServerAddr>> {
    let parsed: Result<_, _> = address.servers.iter().map(|server| server.parse()).collect();
    parsed.with_context(|| format!("reading the address of {address}"))
}

/// Without its login: the client shows its servers when it is asked to say everything, and takes a login elsewhere.
fn without_login(server: ServerAddr) -> anyhow::Result<ServerAddr> {
    let mut url = server.into_inner();
    if url.set_username("").and_then(|()| url.set_password(None)).is_err() {
        bail!("an address of NATS has no host");
    }
    Ok(ServerAddr::from_url(url)?)
}

/// As the client takes them.
pub(super) fn hosts(address: &NatsAddress) -> anyhow::Result<Vec<ServerAddr>> {
    servers(address)?.into_iter().map(without_login).collect()
}

/// The user and the password of a URL, or the token alone, as NATS's own tools read it.
fn login(server: &ServerAddr) -> Option<(String, Option<String>)> {
    let plain = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
    Some((plain(server.username()?), server.password().map(plain)))
}

/// How to reach a server and be let in, without any habits of a connection that stays.
pub(super) fn login_options(address: &NatsAddress, name: &str) -> anyhow::Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .name(name)
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .client_capacity(SENDER_CAPACITY)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .reconnect_delay_callback(reconnect_delay);
    // The client itself passes over what a URL says of this.
    match servers(address)?.iter().find_map(login) {
        Some((user, Some(password))) => options = options.user_and_password(user, password),
        Some((token, None)) => options = options.token(token),
        None => {}
    }
    if let Some(path) = &address.credentials {
        let reading = || format!("reading the NATS credentials {}", path.display());
        options = options.credentials(&read_small(path).with_context(reading)?).with_context(reading)?;
    }
    if let Some(ca) = &address.tls_ca {
        has_certificates(ca)?;
        // Required, since whoever stands in between could say that there is no TLS, and would be told the password.
        options = options.add_root_certificates(ca.clone()).require_tls(true);
    }
    if let Some((certificate, key)) = &address.tls_identity {
        has_certificates(certificate)?;
        let reading = || format!("reading the key of this client's certificate, {}", key.display());
        PrivateKeyDer::from_pem_slice(read_small(key).with_context(reading)?.as_bytes())
            .with_context(reading)?;
        options = options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
    }
    Ok(options)
}

/// The client itself would read these files only when it connects, and try again for ever.
fn has_certificates(file: &Path) -> anyhow::Result<()> {
    let reading = || format!("reading the certificates for NATS in {}", file.display());
    let text = read_bounded(file, CERTIFICATES_BYTES).with_context(reading)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    if found.with_context(reading)?.is_empty() {
        bail!("there is no certificate in {}; NATS's are given in PEM", file.display());
    }
    Ok(())
}

/// Said once for each address, and not whenever its files are read again.
pub(super) fn warn_of_exposed_files(address: &NatsAddress) {
    if let Some(credentials) = &address.credentials {
        warn_of_readers(credentials, "the NATS credentials");
    }
    if let Some((_, key)) = &address.tls_identity {
        warn_of_readers(key, "the key of this client's certificate");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_say_who_is_there() {
        let of = |url: &str| login(&url.parse().unwrap());
        assert_eq!(of("nats://ann:p%40ss@h:4222"), Some(("ann".to_owned(), Some("p@ss".to_owned()))));
        assert_eq!(of("nats://token@h:4222"), Some(("token".to_owned(), None)));
        assert_eq!(of("nats://h:4222"), None);
    }

    #[test]
    fn the_client_is_not_shown_a_login() {
        let bare = without_login("nats://ann:secret@h:4222".parse().unwrap()).unwrap();
        assert_eq!(bare.into_inner().as_str(), "nats://h:4222");
    }

    #[test]
    fn reconnects_are_quick_at_first_and_never_slower_than_two_seconds() {
        assert!(reconnect_delay(1) <= Duration::from_millis(100));
        for attempt in 0..200 {
            assert!(reconnect_delay(attempt) <= RECONNECT_DELAY_MAX);
        }
        assert!(reconnect_delay(usize::MAX) >= RECONNECT_DELAY_MAX / 2);
    }
}
