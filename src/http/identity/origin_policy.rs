//! Which pages may send what changes state or opens connections, and which hosts a request may name.

use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName};

use super::origin::{NULL, Origin, Pattern, address, is_loopback};
use crate::http::excerpt::excerpt;

/// How the page that sends a request and its target are related (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The configured rules of origins and hosts.
#[derive(Clone, Debug, Default)]
pub struct OriginPolicy {
    /// Dev auth: pages of this machine are allowed, and requests have to name this machine, so that no website can point a
    /// name of its own here (DNS rebinding).
    pub dev: bool,
    /// Dev auth on any address: a request may also name the service by an IP address, which no DNS answer can forge.
    pub anywhere: bool,
    /// `--allowed-origins`.
    pub listed: Vec<Pattern>,
    /// `--public-url`: the origins of this service itself.
    pub own: Vec<Origin>,
    /// `--allowed-hosts`, in lower case: further names of this service in dev auth.
    pub hosts: Vec<String>,
}

/// The page that sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// No page of another origin: a program, or a page of this very origin.
    Own,
    /// A page of another origin that is allowed.
    Allowed,
    /// A page of another origin that is not.
    Foreign,
}

impl OriginPolicy {
    /// The page that sends a request.
    pub fn page(&self, headers: &HeaderMap) -> Page {
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            // Browsers send some requests to other origins without `Origin`; then `Sec-Fetch-Site` tells.
            (None, _) if is_cross_origin(headers) => Page::Foreign,
            (None, _) => Page::Own,
            (Some(origin), None) if self.allows(origin.to_str().unwrap_or("?"), headers) => Page::Allowed,
            _ => Page::Foreign,
        }
    }

    fn allows(&self, text: &str, headers: &HeaderMap) -> bool {
        if self.listed.iter().any(|pattern| pattern.allows(text)) {
            return true;
        }
        let Ok(origin) = text.parse::<Origin>() else { return false };
        self.own.contains(&origin)
            || (self.dev && origin.is_of_this_machine())
            || (self.compares_hosts() && host(headers).is_some_and(|host| origin.is_at(&host)))
    }

    /// Whether pages of the host that a request names are allowed. In dev auth that host was checked before.
    fn compares_hosts(&self) -> bool {
        self.dev || (self.listed.is_empty() && self.own.is_empty())
    }

    /// Whether a request in dev auth names a host that is not known as this service. Browsers always send `Host`.
    pub fn refuses_host(&self, headers: &HeaderMap) -> bool {
        self.dev && headers.contains_key(HOST) && !host(headers).is_some_and(|host| self.is_own_host(&host))
    }

    fn is_own_host(&self, host: &Authority) -> bool {
        let name = host.host().to_ascii_lowercase();
        is_loopback(&name)
            || (self.anywhere && address(&name).is_some())
            || self.hosts.contains(&name)
            || self.own.iter().any(|own| own.host() == Some(&name))
            || self.listed.iter().any(|pattern| pattern.has_host(&name))
    }

    /// Why a page is refused, for the operator who configures origins. Only a well-formed origin is repeated: anything else
    /// does not come from a browser, and would let any text into the diagnostics.
    pub fn explain_refusal(&self, headers: &HeaderMap) -> String {
        let page = match headers.get(ORIGIN).map(|origin| origin.to_str()) {
            None => "Pages of other origins".to_owned(),
            Some(Ok(origin)) if is_an_origin(origin) => format!("Pages of the origin `{}`", excerpt(origin)),
            Some(_) => "Requests whose `Origin` is malformed".to_owned(),
        };
        let own = self.own.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let rule = match () {
            () if self.dev && own.is_empty() => {
                "Dev auth allows pages of this machine and of this service; --allowed-origins adds others."
                    .to_owned()
            }
            () if self.dev => {
                format!("Dev auth allows pages of this machine and of {own}; --allowed-origins adds others.")
            }
            () if !own.is_empty() => {
                format!("--public-url allows pages of {own}; --allowed-origins adds others.")
            }
            () if !self.listed.is_empty() => {
                "--allowed-origins lists the allowed origins; --public-url adds this service's own."
                    .to_owned()
            }
            () => format!(
                "Pages of the request's own host, `{}`, are allowed; --allowed-origins adds others, and --public-url names \
                 this service's own address.",
                host_excerpt(headers)
            ),
        };
        format!("{page} are not allowed to send this request. {rule}")
    }
}

/// An excerpt of the host that a request names, or `?` when it is malformed.
pub fn host_excerpt(headers: &HeaderMap) -> String {
    host(headers).map_or_else(|| "?".to_owned(), |host| excerpt(host.as_str()))
}

fn is_an_origin(text: &str) -> bool {
    text == NULL || text.parse::<Origin>().is_ok()
}

fn host(headers: &HeaderMap) -> Option<Authority> {
    headers.get(HOST)?.to_str().ok()?.parse().ok()
}

fn is_cross_origin(headers: &HeaderMap) -> bool {
    headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site" || site == "same-site")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: &str) -> HeaderMap {
        [(HOST, host.parse().unwrap())].into_iter().collect()
    }

    fn listed(patterns: &[&str]) -> OriginPolicy {
        let listed = patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
        OriginPolicy { listed, ..OriginPolicy::default() }
    }

    fn of(urls: &[&str]) -> OriginPolicy {
        let own = urls.iter().map(|url| Origin::of_service(url).unwrap()).collect();
        OriginPolicy { own, ..OriginPolicy::default() }
    }

    fn allows(origins: &OriginPolicy, origin: &str, host: &str) -> bool {
        let mut headers = asked(host);
        headers.insert(ORIGIN, origin.parse().unwrap());
        origins.page(&headers) == Page::Allowed
    }

    #[test]
    fn a_refusal_repeats_origins_and_hosts_and_no_other_text() {
        let explained = |origin: &str| {
            let mut headers = asked("example.com");
            headers.insert(ORIGIN, origin.parse().unwrap());
            OriginPolicy::default().explain_refusal(&headers)
        };
        for origin in ["https://app.example.com", "null", "capacitor://localhost"] {
            assert!(explained(origin).contains(&format!("`{origin}`")), "{origin}");
        }
        assert!(explained("https://app.example.com").contains("`example.com`"));
        for text in ["a line of my own", "https://a line of my own", "https://a@line"] {
            let said = explained(text);
            assert!(said.contains("is malformed") && !said.contains("line"), "{said}");
        }
        assert_eq!(host_excerpt(&asked("a line of my own")), "?");
    }

    #[test]
    fn without_a_list_a_page_of_the_same_host_may() {
        let same = listed(&[]);
        for (origin, host) in [
            ("https://example.com", "example.com"),
            ("https://Example.com", "example.COM:443"),
            ("http://example.com:8000", "example.com:8000"),
            ("http://[::1]:8000", "[::1]:8000"),
        ] {
            assert!(allows(&same, origin, host), "{origin} at {host}");
        }
        for (origin, host) in [
            ("https://example.org", "example.com"),
            ("https://example.com:444", "example.com"),
            ("https://a.example.com", "example.com"),
            ("null", "example.com"),
            ("https://example.com.evil.org", "example.com"),
            ("https://example.com@evil.org", "evil.org"),
            ("https://example.com:", "example.com"),
            ("https://example.com:x", "example.com"),
            ("https://example.com/", "example.com"),
            ("ftp://example.com", "example.com"),
            ("capacitor://localhost", "localhost"),
        ] {
            assert!(!allows(&same, origin, host), "{origin} at {host}");
        }
    }

    #[test]
    fn a_list_says_it_all() {
        let list = listed(&["https://app.example.com", "https://*.example.org", "http://x.test:3000"]);
        for origin in ["https://app.example.com", "https://a.example.org", "https://b.a.example.org:443"] {
            assert!(allows(&list, origin, "api.example.net"), "{origin}");
        }
        assert!(allows(&list, "http://x.test:3000", "api.example.net"));
        for origin in [
            "https://api.example.net",
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://example.org",
            "https://.example.org",
            "https://evilexample.org",
            "http://a.example.org",
            "http://x.test",
            "null",
        ] {
            assert!(!allows(&list, origin, "api.example.net"), "{origin}");
        }
    }

    #[test]
    fn with_a_public_url_the_scheme_of_a_page_counts() {
        let service = of(&["https://h", "https://h:8443"]);
        for (origin, allowed) in [
            ("https://h", true),
            ("https://h:443", true),
            ("https://h:8443", true),
            ("http://h", false),
            ("http://h:8443", false),
            ("http://h:443", false),
            ("https://other", false),
        ] {
            for host in ["h", "h:8443", "other"] {
                assert_eq!(allows(&service, origin, host), allowed, "{origin} at {host}");
            }
        }
        let with_list = OriginPolicy { listed: listed(&["https://app"]).listed, ..service };
        assert!(allows(&with_list, "https://h", "x") && allows(&with_list, "https://app", "x"));
        let mut headers = asked("h");
        headers.insert(ORIGIN, "http://h".parse().unwrap());
        assert!(
            with_list.explain_refusal(&headers).contains("https://h, https://h:8443"),
            "an error names it"
        );
    }

    #[test]
    fn a_page_without_an_origin_of_its_own_is_allowed_on_request_alone() {
        let dev = OriginPolicy { dev: true, ..OriginPolicy::default() };
        assert!(!allows(&dev, "null", "localhost:8000"));
        assert!(allows(&dev, "http://localhost:5173", "localhost:8000"));
        let asked_for = OriginPolicy { listed: vec![Pattern::Null], ..dev };
        assert!(allows(&asked_for, "null", "localhost:8000"));
    }

    #[test]
    fn a_browser_that_leaves_the_origin_out_says_whether_the_page_is_another() {
        let from = |site: &str| {
            let mut headers = asked("h");
            headers.insert(SEC_FETCH_SITE, site.parse().unwrap());
            listed(&[]).page(&headers)
        };
        assert_eq!([from("same-origin"), from("none")], [Page::Own; 2]);
        assert_eq!([from("cross-site"), from("same-site")], [Page::Foreign; 2]);
        assert_eq!(listed(&[]).page(&asked("h")), Page::Own, "no browser");
    }

    #[test]
    fn two_origins_are_none_that_is_allowed() {
        let mut headers = asked("h");
        headers.append(ORIGIN, "https://h".parse().unwrap());
        headers.append(ORIGIN, "https://h".parse().unwrap());
        assert_eq!(listed(&[]).page(&headers), Page::Foreign);
    }

    #[test]
    fn a_name_that_somebody_makes_lead_here_is_refused_in_dev_auth() {
        let dev = OriginPolicy { dev: true, ..listed(&["http://me.test"]) };
        let dev =
            OriginPolicy { hosts: vec!["tidings.internal".to_owned()], own: of(&["https://own"]).own, ..dev };
        let known = [
            "localhost:8000",
            "127.0.0.1",
            "[::1]:8000",
            "LOCALHOST",
            "me.test:8000",
            "Tidings.internal:1",
            "own",
        ];
        for host in known {
            assert!(!dev.refuses_host(&asked(host)), "{host}");
        }
        let names = ["evil.org:8000", "localhost.evil.org", "127.0.0.1.nip.io", "a b", "internal"];
        for host in names.into_iter().chain(["10.0.0.1", "[2001:db8::1]"]) {
            assert!(dev.refuses_host(&asked(host)), "{host}");
        }
        assert!(!dev.refuses_host(&HeaderMap::new()), "no browser leaves it out");
        let anywhere = OriginPolicy { anywhere: true, ..dev };
        for host in ["10.0.0.1:8000", "[2001:db8::1]:8000"] {
            assert!(!anywhere.refuses_host(&asked(host)), "no DNS answer can forge {host}");
        }
        for host in names {
            assert!(anywhere.refuses_host(&asked(host)), "{host}");
        }
    }
}
