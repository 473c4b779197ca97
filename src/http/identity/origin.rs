//! Origins of pages (RFC 6454, the Fetch standard), and the patterns of allowed ones.

use std::fmt;
use std::str::FromStr;

use axum::http::uri::Authority;
use thiserror::Error;

/// The origin that browsers send for files and sandboxed frames: any page can have it.
pub const NULL: &str = "null";

/// The origin of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Of the web: compared by scheme, host and port.
    Web {
        /// `https`, or `http`.
        https: bool,
        /// In lower case.
        host: String,
        /// Named, or the default of the scheme.
        port: u16,
    },
    /// Of an application with a scheme of its own, such as `capacitor://localhost` or `chrome-extension://…`: compared as
    /// text.
    App(String),
}

const fn default_port(https: bool) -> u16 {
    if https { 443 } else { 80 }
}

/// A text is not an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not an origin such as https://app.example.com")]
pub struct InvalidOrigin;

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidOrigin)?;
        match scheme {
            "https" => web(true, rest),
            "http" => web(false, rest),
            _ if is_scheme(scheme) && !rest.is_empty() && rest.bytes().all(is_of_app) => {
                Ok(Self::App(text.to_owned()))
            }
            _ => Err(InvalidOrigin),
        }
    }
}

fn web(https: bool, rest: &str) -> Result<Origin, InvalidOrigin> {
    let authority: Authority = rest.parse().map_err(|_| InvalidOrigin)?;
    if rest.contains('@') || authority.host().is_empty() {
        return Err(InvalidOrigin);
    }
    let port = match authority.port() {
        Some(port) => port.as_u16(),
        // The parser ignores a port that is no number; here it is an error.
        None if rest.len() > authority.host().len() => return Err(InvalidOrigin),
        None => default_port(https),
    };
    Ok(Origin::Web { https, host: authority.host().to_ascii_lowercase(), port })
}

/// RFC 3986, section 3.1; browsers write schemes in lower case.
fn is_scheme(scheme: &str) -> bool {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    scheme.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
        && scheme.bytes().all(known)
        && scheme != "file"
}

fn is_of_app(b: u8) -> bool {
    b.is_ascii_graphic() && !b"/?#@*,\\\"".contains(&b)
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(text) => f.write_str(text),
            Self::Web { https, host, port } => {
                let scheme = if *https { "https" } else { "http" };
                write!(f, "{scheme}://{host}")?;
                if *port == default_port(*https) { Ok(()) } else { write!(f, ":{port}") }
            }
        }
    }
}

impl Origin {
    /// The origin of a URL of this service, such as `https://tidings.example.com`: a slash may follow, and nothing else.
    pub fn of_service(url: &str) -> Result<Self, String> {
        match url.strip_suffix('/').unwrap_or(url).parse() {
            Ok(origin @ Self::Web { .. }) => Ok(origin),
            _ => {
                Err(format!("`{url}` is not an address such as https://tidings.example.com, without a path"))
            }
        }
    }

    /// Its host, if it is of the web.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Web { host, .. } => Some(host),
            Self::App(_) => None,
        }
    }

    /// Whether the `Host` of a request names the same host and port. It does not name a scheme, which only the proxy that
    /// terminates TLS knows.
    pub fn is_at(&self, asked: &Authority) -> bool {
        let Self::Web { https, host, port } = self else { return false };
        host.eq_ignore_ascii_case(asked.host())
            && *port == asked.port_u16().unwrap_or_else(|| default_port(*https))
    }

    /// Whether the page is of a loopback address.
    pub fn is_of_this_machine(&self) -> bool {
        self.host().is_some_and(is_loopback)
    }
}

/// Whether this host is `localhost` or a loopback address.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || address(host).is_some_and(|address| address.is_loopback())
}

/// The address that a host is, if it is none that has to be looked up.
pub fn address(host: &str) -> Option<std::net::IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Origins that are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// `null`: pages without an origin of their own, and so any page. In dev auth only.
    Null,
    /// This one.
    One(Origin),
    /// `https://*.example.com`: every host below this one, by the same scheme and port.
    Below(Origin),
}

/// A text is not a [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidPattern {
    /// It is no origin.
    #[error(
        "`{}` is not an origin: https://app.example.com, https://*.example.com, or capacitor://localhost, and nothing behind it",
        .0.escape_debug()
    )]
    Origin(String),
    /// It has a `*` in another position.
    #[error("`{}` has a * elsewhere than in front of a host: https://*.example.com", .0.escape_debug())]
    Star(String),
    /// Every host below a public suffix: anybody can register one.
    #[error(
        "`{}` would allow pages of strangers: anybody can register a name below `{host}`",
        .text.escape_debug()
    )]
    PublicSuffix {
        /// The text.
        text: String,
        /// The public suffix in it.
        host: String,
    },
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == NULL {
            return Ok(Self::Null);
        }
        let no_origin = || InvalidPattern::Origin(text.to_owned());
        let misplaced = || InvalidPattern::Star(text.to_owned());
        if text.contains("://*.") {
            let above: Origin = text.replacen("://*.", "://", 1).parse().map_err(|_| no_origin())?;
            let host = above.host().ok_or_else(no_origin)?;
            if host.contains('*') {
                return Err(misplaced());
            }
            if anybody_may_register_below(host) {
                return Err(InvalidPattern::PublicSuffix { text: text.to_owned(), host: host.to_owned() });
            }
            return Ok(Self::Below(above));
        }
        let origin: Origin = text.parse().map_err(|_| no_origin())?;
        if text.contains('*') { Err(misplaced()) } else { Ok(Self::One(origin)) }
    }
}

/// Whether a host is a public suffix (publicsuffix.org), such as `com`, `co.uk` or `github.io`. One label is always one.
fn anybody_may_register_below(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    host != "localhost"
        && address(host).is_none()
        && psl::suffix_str(host).is_none_or(|suffix| suffix == host)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str(NULL),
            Self::One(origin) => origin.fmt(f),
            Self::Below(above) => f.write_str(&above.to_string().replacen("://", "://*.", 1)),
        }
    }
}

impl Pattern {
    /// Whether it allows this origin, as a browser wrote it.
    pub fn allows(&self, text: &str) -> bool {
        match self {
            Self::Null => text == NULL,
            Self::One(origin) => text.parse().is_ok_and(|asked: Origin| asked == *origin),
            Self::Below(Origin::App(_)) => false,
            Self::Below(Origin::Web { https, host, port }) => match text.parse() {
                Ok(Origin::Web { https: scheme, host: asked, port: at }) => {
                    scheme == *https && at == *port && is_below(&asked, host)
                }
                _ => false,
            },
        }
    }

    /// Whether it allows pages of this host.
    pub fn has_host(&self, asked: &str) -> bool {
        match self {
            Self::Null => false,
            Self::One(origin) => origin.host() == Some(asked),
            Self::Below(above) => above.host().is_some_and(|host| is_below(asked, host)),
        }
    }
}

fn is_below(asked: &str, host: &str) -> bool {
    asked.strip_suffix(host).is_some_and(|sub| sub.len() > 1 && sub.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_this_machine_are_of_this_machine() {
        let local = |text: &str| text.parse().is_ok_and(|origin: Origin| origin.is_of_this_machine());
        for origin in
            ["http://localhost:3000", "http://127.0.0.1:8000", "http://[::1]:1", "https://127.9.9.9"]
        {
            assert!(local(origin), "{origin}");
        }
        for foreign in [
            "null",
            "https://example.org",
            "http://localhost.example.org",
            "http://127.0.0.1.nip.io",
            "capacitor://localhost",
            "?",
            "",
        ] {
            assert!(!local(foreign), "{foreign}");
        }
    }

    #[test]
    fn an_origin_of_an_application_is_allowed_by_its_text() {
        let apps = [
            "capacitor://localhost",
            "ionic://localhost",
            "tauri://localhost",
            "app://-",
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            "vscode-webview://1q2w3e4r-5t6z",
        ];
        for app in apps {
            let pattern: Pattern = app.parse().unwrap();
            assert_eq!(pattern.to_string(), app);
            for other in apps {
                assert_eq!(pattern.allows(other), other == app, "{app} {other}");
            }
            for other in ["null", "https://localhost", "http://localhost", "capacitor://localhost:1"] {
                assert!(!pattern.allows(other), "{app} {other}");
            }
        }
        for bad in [
            "capacitor://",
            "file://",
            "file://x",
            "app://a/b",
            "app://*",
            "app://*.x",
            "Capacitor://x",
            "://x",
        ] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_below_a_public_suffix_is_refused() {
        for bad in
            ["https://*.com", "https://*.com.", "https://*.co.uk", "https://*.github.io", "https://*.corp"]
        {
            let why = bad.parse::<Pattern>().unwrap_err();
            assert!(why.to_string().contains("register"), "{bad}: {why}");
        }
        for good in ["https://*.example.com", "https://*.example.co.uk", "http://*.localhost:3000"] {
            assert_eq!(good.parse::<Pattern>().unwrap().to_string(), good);
        }
        for bad in [
            "example.com",
            "https://",
            "https://*",
            "https://a.*.com",
            "https://a.com/x",
            "*",
            "https://*.*.a.com",
        ] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_address_of_a_service_has_no_path() {
        for (url, origin) in [
            ("https://tidings.example.com", "https://tidings.example.com"),
            ("https://Tidings.example.com:443/", "https://tidings.example.com"),
            ("http://h:8000", "http://h:8000"),
        ] {
            assert_eq!(Origin::of_service(url).unwrap().to_string(), origin);
        }
        for bad in
            ["tidings.example.com", "https://h/tidings", "capacitor://localhost", "null", "https://u@h"]
        {
            assert!(Origin::of_service(bad).is_err(), "{bad}");
        }
    }
}
