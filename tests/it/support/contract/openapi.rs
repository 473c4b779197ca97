//! Holds HTTP answers, and the requests that were accepted, to `openapi.yaml`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex};

use reqwest::header::{ALLOW, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;

use super::{Document, code_fault, judge};

pub static OPENAPI: LazyLock<Document> = LazyLock::new(|| Document::parse(tidings::contract::OPENAPI));

/// The operations, and the status codes of each, that a server has answered with.
type Answered = BTreeSet<(String, u16)>;

static ANSWERED: Mutex<BTreeMap<String, Answered>> = Mutex::new(BTreeMap::new());

/// What the replica at this address has answered so far.
pub fn answered_by(url: &str) -> Answered {
    let authority = url.trim_start_matches("http://");
    ANSWERED.lock().unwrap().get(authority).cloned().unwrap_or_default()
}

/// Headers that any client may send; they are no part of the interface, or, of those with a token, security schemes of it.
const ANY_CLIENT_SENDS: [&str; 15] = [
    "accept",
    "authorization",
    "cookie",
    "content-length",
    "content-type",
    "host",
    "origin",
    "sec-fetch-site",
    "user-agent",
    "connection",
    "upgrade",
    "sec-websocket-version",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "x-forwarded-for",
];

/// A request as it was sent.
pub struct Asked {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// What came back. There is no body when the answer has none, or has not ended.
pub struct Answer<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    pub body: Option<&'a [u8]>,
}

/// Fails unless the description has this answer to this request.
pub fn hold(asked: &Asked, answer: &Answer<'_>) {
    let what = format!("{} {} got {}", asked.method, asked.url, answer.status);
    let operation = operation(&asked.method, asked.url.path());
    judge("openapi.yaml", &what, &faults(&OPENAPI, operation.as_ref(), asked, answer));
    if let Ok(operation) = operation {
        let authority = asked.url.authority().to_owned();
        let id = operation["operationId"].as_str().unwrap().to_owned();
        ANSWERED.lock().unwrap().entry(authority).or_default().insert((id, answer.status.as_u16()));
    }
}

/// Fails unless the description has this answer as one that any address gives: to a client that sends nothing that could
/// be for one of them.
pub fn hold_anywhere(status: u16, headers: &HeaderMap, body: &[u8]) {
    let name = match status {
        400 => "Unreadable",
        408 => "RequestTimeout",
        414 | 431 => "HeadTooLarge",
        503 => "Unavailable",
        other => panic!("no address answers {other} to everybody"),
    };
    let nothing = Asked {
        method: Method::GET,
        url: "http://localhost/".parse().unwrap(),
        headers: HeaderMap::new(),
        body: Vec::new(),
    };
    let answer = Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: Some(body) };
    let response = &OPENAPI.json["components"]["responses"][name];
    let mut faults = header_faults(&OPENAPI, response, headers);
    faults.extend(body_faults(&OPENAPI, response, &nothing, &answer));
    judge("openapi.yaml", &format!("{status} at no address"), &faults);
}

/// Every operation: its method, its path, and itself.
pub fn operations() -> impl Iterator<Item = (Method, &'static str, &'static Value)> {
    let paths = OPENAPI.json["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, item)| {
        let operations = item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters");
        operations.map(|(method, operation)| {
            (method.to_ascii_uppercase().parse().unwrap(), path.as_str(), operation)
        })
    })
}

/// Why there is no operation for a request: the response that any address gives then.
#[derive(Clone, Copy)]
enum Nowhere {
    NotFound,
    MethodNotAllowed,
}

fn operation(method: &Method, path: &str) -> Result<&'static Value, Nowhere> {
    // `HEAD` is answered wherever `GET` is; the one address with a second spelling has a slash at its end.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let path = path.strip_suffix('/').filter(|path| path.ends_with("/broadcast")).unwrap_or(path);
    let matching: Vec<_> = operations().filter(|(_, template, _)| matches(template, path)).collect();
    let fewest = |template: &str| template.matches('{').count();
    let Some(nearest) = matching.iter().map(|(_, template, _)| fewest(template)).min() else {
        return Err(Nowhere::NotFound);
    };
    let found = matching.iter().find(|(own, template, _)| own == method && fewest(template) == nearest);
    found.map(|(_, _, operation)| *operation).ok_or(Nowhere::MethodNotAllowed)
}

fn matches(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    let part = |(wanted, given): (&&str, &&str)| {
        if wanted.starts_with('{') { !given.is_empty() } else { wanted == given }
    };
    template.len() == path.len() && template.iter().zip(&path).all(part)
}

fn faults(
    document: &Document,
    operation: Result<&&Value, &Nowhere>,
    asked: &Asked,
    answer: &Answer<'_>,
) -> Vec<String> {
    let status = answer.status.as_str();
    let (response, expected) = match operation {
        Ok(operation) => (&operation["responses"][status], status),
        Err(Nowhere::NotFound) => (&document.json["components"]["responses"]["NotFound"], "404"),
        Err(Nowhere::MethodNotAllowed) => {
            (&document.json["components"]["responses"]["MethodNotAllowed"], "405")
        }
    };
    if response.is_null() || status != expected {
        return vec![format!("the status {status} is not described")];
    }
    let response = document.follow(response);
    let mut faults = header_faults(document, response, answer.headers);
    faults.extend(body_faults(document, response, asked, answer));
    if let Ok(operation) = operation
        && (answer.status.is_success() || answer.status == StatusCode::SWITCHING_PROTOCOLS)
    {
        faults.extend(request_faults(document, operation, asked));
    }
    faults
}

fn header_faults(document: &Document, response: &Value, headers: &HeaderMap) -> Vec<String> {
    let none = serde_json::Map::new();
    let described = response["headers"].as_object().unwrap_or(&none);
    let mut faults = Vec::new();
    for (name, header) in described {
        let header = document.follow(header);
        match headers.get(name) {
            Some(value) => {
                let value = typed(document, &header["schema"], &String::from_utf8_lossy(value.as_bytes()));
                let wrong = document.faults(&header["schema"], &value);
                faults.extend(wrong.into_iter().map(|fault| format!("the header {name}{fault}")));
            }
            None if header["required"] == true => faults.push(format!("the header {name} is missing")),
            None => {}
        }
    }
    let ours = |name: &str| name.starts_with("tidings-") || name == ALLOW || name == RETRY_AFTER;
    for name in headers.keys().map(reqwest::header::HeaderName::as_str).filter(|name| ours(name)) {
        if !described.keys().any(|known| known.eq_ignore_ascii_case(name)) {
            faults.push(format!("the header {name} is not described"));
        }
    }
    faults
}

fn body_faults(document: &Document, response: &Value, asked: &Asked, answer: &Answer<'_>) -> Vec<String> {
    let Some(content) = response["content"].as_object() else { return Vec::new() };
    let kind = answer.headers.get(CONTENT_TYPE).map_or("", |kind| kind.to_str().unwrap());
    let essence = kind.split(';').next().unwrap().trim();
    let Some(media) = content.get(essence) else {
        return vec![format!("the content type `{kind}` is not described")];
    };
    let Some(body) = answer.body.filter(|_| asked.method != Method::HEAD) else { return Vec::new() };
    let body = match parsed(essence, body) {
        Ok(body) => body,
        Err(fault) => return vec![fault],
    };
    let wrong = document.faults(&media["schema"], &body);
    let mut faults: Vec<_> = wrong.into_iter().map(|fault| format!("the body {fault}\n{body}")).collect();
    let codes = document.json["components"]["schemas"]["Error"]["description"].as_str().unwrap();
    let of_status = codes.split("; ").find(|part| part.contains(&format!("{} `", answer.status.as_str())));
    faults.extend(code_fault(of_status, &body));
    faults
}

fn parsed(essence: &str, body: &[u8]) -> Result<Value, String> {
    if matches!(essence, "application/json" | "application/problem+json") {
        return serde_json::from_slice(body).map_err(|e| format!("the body is not JSON: {e}"));
    }
    String::from_utf8(body.to_vec()).map(Value::String).map_err(|e| format!("the body is no text: {e}"))
}

/// What was accepted must be what the description lets people send, or clients could not know of it.
fn request_faults(document: &Document, operation: &Value, asked: &Asked) -> Vec<String> {
    let none = Vec::new();
    let parameters = operation["parameters"].as_array().unwrap_or(&none);
    let parameters: Vec<_> = parameters.iter().map(|parameter| document.follow(parameter)).collect();
    let query = asked.url.query_pairs().map(|(name, value)| ("query", name.to_string(), value.to_string()));
    let header = |(name, value): (&reqwest::header::HeaderName, &reqwest::header::HeaderValue)| {
        ("header", name.to_string(), String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
    };
    let headers = asked.headers.iter().map(header);
    let mut faults = Vec::new();
    for (place, name, value) in
        query.chain(headers.filter(|(_, name, _)| !ANY_CLIENT_SENDS.contains(&name.as_str())))
    {
        let named = |known: &&&Value| {
            known["in"] == place && name.eq_ignore_ascii_case(known["name"].as_str().unwrap())
        };
        match parameters.iter().find(named) {
            Some(known) => {
                let wrong = document.faults(&known["schema"], &typed(document, &known["schema"], &value));
                faults.extend(wrong.into_iter().map(|fault| format!("the {place} {name}, accepted{fault}")));
            }
            None => faults.push(format!("the {place} {name} is not described, and accepted")),
        }
    }
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    if !schema.is_null() {
        let body = serde_json::from_slice(&asked.body).unwrap_or(Value::Null);
        let wrong = document.faults(schema, &body);
        faults
            .extend(wrong.into_iter().map(|fault| format!("the request's body, accepted: {fault}\n{body}")));
    }
    faults
}

/// The text of a header or a parameter as the JSON that its schema speaks of.
fn typed(document: &Document, schema: &Value, text: &str) -> Value {
    match document.follow(schema)["type"].as_str() {
        Some("integer") => text.parse::<u64>().map_or_else(|_| text.into(), Value::from),
        _ => text.into(),
    }
}

#[test]
fn what_is_against_the_description_is_noticed() {
    let asked = |method: Method, path: &str, body: &str| Asked {
        method,
        url: format!("http://localhost{path}").parse().unwrap(),
        headers: HeaderMap::new(),
        body: body.into(),
    };
    let faults = |asked: &Asked, status: u16, headers: &[(&'static str, &str)], body: &str| {
        let named = headers
            .iter()
            .map(|(name, value)| (reqwest::header::HeaderName::from_static(name), value.parse().unwrap()));
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &named.collect(),
            body: Some(body.as_bytes()),
        };
        faults(&OPENAPI, operation(&asked.method, asked.url.path()).as_ref(), asked, &answer)
    };
    let json = ("content-type", "application/json");
    let get = asked(Method::GET, "/api/creator/broadcast/active", "");
    let none = r#"{"broadcast":null}"#;
    assert_eq!(
        faults(&get, 200, &[json, ("tidings-position", "9f2c41d07be3a865-7")], none),
        Vec::<String>::new()
    );
    assert_eq!(faults(&get, 200, &[json], none).len(), 1, "a missing header");
    assert_eq!(faults(&get, 200, &[json, ("tidings-position", "x")], none).len(), 1, "a wrong header");
    let more = [json, ("tidings-position", "9f2c41d07be3a865-7"), ("tidings-more", "7")];
    assert_eq!(faults(&get, 200, &more, none).len(), 1, "an unknown header of ours");
    assert_eq!(
        faults(&get, 200, &[json, ("tidings-position", "9f2c41d07be3a865-7")], "{}").len(),
        1,
        "a wrong body"
    );
    let text = [("content-type", "text/plain"), ("tidings-position", "9f2c41d07be3a865-7")];
    assert_eq!(faults(&get, 200, &text, none).len(), 1, "a wrong type");
    let error = r#"{"status":"error","code":"not_found","message":"x"}"#;
    assert_eq!(faults(&get, 409, &[json], error).len(), 1, "an unknown status");
    assert_eq!(faults(&asked(Method::GET, "/nowhere", ""), 404, &[json], error), Vec::<String>::new());
    assert_eq!(faults(&asked(Method::GET, "/nowhere", ""), 200, &[json], error).len(), 1, "an unknown path");
    let wrong_method = asked(Method::PUT, "/livez", "");
    assert_eq!(
        faults(&wrong_method, 405, &[json, ("allow", "GET")], error).len(),
        1,
        "another status's code"
    );
    assert_eq!(faults(&wrong_method, 200, &[json], error).len(), 1, "an unknown method");
    let mut unknown = asked(Method::GET, "/livez?fast=1", "");
    unknown.headers.insert("x-fast", "1".parse().unwrap());
    assert_eq!(faults(&unknown, 200, &[json], r#"{"status":"ok"}"#).len(), 2, "unknown parameters");
}
