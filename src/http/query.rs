//! The query of a request: each parameter at most once, and none that the address does not know.

use std::collections::HashMap;

use axum::http::Uri;

/// The parameter that every read accepts: the position in the log that the answer has to reflect.
pub const MIN_POSITION: &str = "min_position";

/// Parameters that a read accepts besides its own.
const ACCEPTED_BY_READS: [&str; 1] = [MIN_POSITION];

/// What is wrong with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// It is not `application/x-www-form-urlencoded`; the reason.
    Malformed(String),
    /// A parameter appears twice.
    LogLimiter(String),
    /// The address does not know a parameter.
    Unknown {
        /// The parameter.
        name: String,
        /// Those that the address knows.
        known: Vec<&'static str>,
    },
}

/// The parameters of a query.
#[derive(Debug)]
pub struct Query(HashMap<String, String>);

impl Query {
    /// Parses the query of an address.
    pub fn of(uri: &Uri) -> Result<Self, QueryError> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| QueryError::Malformed(error.to_string()))?;
        let mut parameters = HashMap::new();
        for (name, value) in pairs.0 {
            if parameters.contains_key(&name) {
                return Err(QueryError::LogLimiter(name));
            }
            parameters.insert(name, value);
        }
        Ok(Self(parameters))
    }

    /// Refuses other parameters than these and those that every read accepts: an answer that ignored one would mislead.
    pub fn only(self, names: &[&'static str]) -> Result<Self, QueryError> {
        self.known(names.iter().copied().chain(ACCEPTED_BY_READS).collect())
    }

    /// Refuses every parameter: a write has none.
    pub fn none(self) -> Result<Self, QueryError> {
        self.known(Vec::new())
    }

    fn known(self, known: Vec<&'static str>) -> Result<Self, QueryError> {
        // Of several unknown parameters, the error names the same one each time.
        match self.0.keys().filter(|name| !known.contains(&name.as_str())).min() {
            Some(name) => Err(QueryError::Unknown { name: name.clone(), known }),
            None => Ok(self),
        }
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// A number in decimal digits, in its canonical spelling: neither `+5` nor `05`.
pub fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_appears_once_and_is_known() {
        let of = |query: &str| Query::of(&format!("/x?{query}").parse().unwrap());
        assert!(of("a=1&a=2").is_err() && of("a=1&%61=1").is_err());
        assert!(of("a=1&min_position=7").unwrap().only(&["a"]).is_ok());
        let unknown = QueryError::Unknown { name: "foo".to_owned(), known: vec!["limit", MIN_POSITION] };
        assert_eq!(of("foo=1").unwrap().only(&["limit"]).unwrap_err(), unknown);
        let query = of("a=1&b=%20").unwrap();
        assert_eq!((query.get("a"), query.get("b"), query.get("c")), (Some("1"), Some(" "), None));
    }
}
