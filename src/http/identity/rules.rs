//! Which pages may ask, and which hosts a request may name.

use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName};

use super::origin::{NULL, Origin, Pattern, address, is_loopback};

/// How the page that sends a request and its target are related (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The most characters of an `Origin` or `Host` that an answer or a line of diagnostics repeats.
const SHOWN: usize = 100;

/// Which pages may do what changes state and open connections, and which hosts requests may name.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    /// Dev auth: pages of this machine may ask, and requests name this machine, so that no website can make a name of its
    /// own lead here (DNS rebinding).
    pub dev: bool,
    /// Dev auth that others reach: a request may also name the service by an IP address, which no DNS answer can forge.
    pub anywhere: bool,
    /// `--allowed-origins`.
    pub listed: Vec<Pattern>,
    /// `--public-url`: the origins of this service itself.
    pub own: Vec<Origin>,
    /// `--allowed-hosts`, in lower case: further names of this service in dev auth.
    pub hosts: Vec<String>,
}

/// What is known of the page that sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// No browser says that a page is behind it, or it is a page of this very origin.
    Own,
    /// A page that may ask.
    Allowed,
    /// A page that may not.
    Foreign,
}

impl Origins {
    /// What is known of the page behind a request.
    pub fn page(&self, headers: &HeaderMap) -> Page {
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            // Browsers leave `Origin` out of some requests to other origins, and say so here.
            (None, _) if is_of_another_origin(headers) => Page::Foreign,
            (None, _) => Page::Own,
            (Some(origin), None) if self.allow(origin.to_str().unwrap_or("?"), headers) => Page::Allowed,
            _ => Page::Foreign,
        }
    }

    fn allow(&self, text: &str, headers: &HeaderMap) -> bool {
        if self.listed.iter().any(|pattern| pattern.allows(text)) {
            return true;
        }
        let Ok(origin) = text.parse::<Origin>() else { return false };
        self.own.contains(&origin)
            || (self.dev && origin.is_of_this_machine())
            || (self.compares_hosts() && host(headers).is_some_and(|host| origin.is_at(&host)))
    }

    /// Whether pages of the host that a request names may ask. In dev auth that host was checked before.
    fn compares_hosts(&self) -> bool {
        self.dev || (self.listed.is_empty() && self.own.is_empty())
    }

    /// Whether a request in dev auth names a host that is not known to be this service.
    pub fn refuse_host(&self, headers: &HeaderMap) -> bool {
        // No browser leaves it out.
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

    /// Why a page may not ask, for whoever has to configure it. Only what has the form of an origin is repeated: anything else
    /// does not come from a browser, and any text could get into the diagnostics.
    pub fn why_not(&self, headers: &HeaderMap) -> String {
        let page = match headers.get(ORIGIN).map(|origin| origin.to_str()) {
            None => "Pages of other origins".to_owned(),
            Some(Ok(origin)) if is_an_origin(origin) => format!("Pages of the origin `{}`", shown(origin)),
            Some(_) => "Requests whose `Origin` is not an origin".to_owned(),
        };
        let own = self.own.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let rule = match () {
            () if self.dev && own.is_empty() => {
                "In dev auth, pages of this machine and of this service may. --allowed-origins adds others."
                    .to_owned()
            }
            () if self.dev => {
                format!("In dev auth, pages of this machine and of {own} may. --allowed-origins adds others.")
            }
            () if !own.is_empty() => {
                format!("Pages of {own} may (--public-url). --allowed-origins adds others.")
            }
            () if !self.listed.is_empty() => {
                "--allowed-origins lists those that may; --public-url adds this service's own.".to_owned()
            }
            () => format!(
                "Pages of the host that the request names, `{}`, may. --allowed-origins lists others; --public-url \
                 says the service's own address.",
                shown_host(headers)
            ),
        };
        format!("{page} may not do this. {rule}")
    }
}

/// The host that a request names, for an answer or a line of diagnostics: bounded, and `?` where it is no host.
pub fn shown_host(headers: &HeaderMap) -> String {
    host(headers).map_or_else(|| "?".to_owned(), |host| shown(host.as_str()))
}

/// A value from a request, as an answer or a line of diagnostics repeats it: bounded, and without control characters.
pub fn shown(value: &str) -> String {
    value.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

fn is_an_origin(text: &str) -> bool {
    text == NULL || text.parse::<Origin>().is_ok()
}

fn host(headers: &HeaderMap) -> Option<Authority> {
    headers.get(HOST)?.to_str().ok()?.parse().ok()
}

fn is_of_another_origin(headers: &HeaderMap) -> bool {
    headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site" || site == "same-site")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: &str) -> HeaderMap {
        [(HOST, host.parse().unwrap())].into_iter().collect()
    }

    fn listed(patterns: &[&str]) -> Origins {
        let listed = patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
        Origins { listed, ..Origins::default() }
    }

    fn of(urls: &[&str]) -> Origins {
        let own = urls.iter().map(|url| Origin::of_service(url).unwrap()).collect();
        Origins { own, ..Origins::default() }
    }

    fn allows(origins: &Origins, origin: &str, host: &str) -> bool {
        let mut headers = asked(host);
        headers.insert(ORIGIN, origin.parse().unwrap());
        origins.page(&headers) == Page::Allowed
    }

    #[test]
    fn a_refusal_repeats_origins_and_hosts_and_no_other_text() {
        let why_not = |origin: &str| {
            let mut headers = asked("example.com");
            headers.insert(ORIGIN, origin.parse().unwrap());
            Origins::default().why_not(&headers)
        };
        for origin in ["https://app.example.com", "null", "capacitor://localhost"] {
            assert!(why_not(origin).contains(&format!("`{origin}`")), "{origin}");
        }
        assert!(why_not("https://app.example.com").contains("`example.com`"));
        for text in ["a line of my own", "https://a line of my own", "https://a@line"] {
            let said = why_not(text);
            assert!(said.contains("is not an origin") && !said.contains("line"), "{said}");
        }
        assert_eq!(shown_host(&asked("a line of my own")), "?");
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
        let with_list = Origins { listed: listed(&["https://app"]).listed, ..service };
        assert!(allows(&with_list, "https://h", "x") && allows(&with_list, "https://app", "x"));
        let mut headers = asked("h");
        headers.insert(ORIGIN, "http://h".parse().unwrap());
        assert!(with_list.why_not(&headers).contains("https://h, https://h:8443"), "an error names it");
    }

    #[test]
    fn a_page_without_an_origin_of_its_own_is_allowed_on_request_alone() {
        let dev = Origins { dev: true, ..Origins::default() };
        assert!(!allows(&dev, "null", "localhost:8000"));
        assert!(allows(&dev, "http://localhost:5173", "localhost:8000"));
        let asked_for = Origins { listed: vec![Pattern::Null], ..dev };
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
        let dev = Origins { dev: true, ..listed(&["http://me.test"]) };
        let dev =
            Origins { hosts: vec!["tidings.internal".to_owned()], own: of(&["https://own"]).own, ..dev };
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
            assert!(!dev.refuse_host(&asked(host)), "{host}");
        }
        let names = ["evil.org:8000", "localhost.evil.org", "127.0.0.1.nip.io", "a b", "internal"];
        for host in names.into_iter().chain(["10.0.0.1", "[2001:db8::1]"]) {
            assert!(dev.refuse_host(&asked(host)), "{host}");
        }
        assert!(!dev.refuse_host(&HeaderMap::new()), "no browser leaves it out");
        let anywhere = Origins { anywhere: true, ..dev };
        for host in ["10.0.0.1:8000", "[2001:db8::1]:8000"] {
            assert!(!anywhere.refuse_host(&asked(host)), "no DNS answer can forge {host}");
        }
        for host in names {
            assert!(anywhere.refuse_host(&asked(host)), "{host}");
        }
    }
}
