//! Options whose values are not shown when they are wrong: a secret may stand there, by mistake or as part of a URL.

use std::ffi::OsStr;
use std::fmt::Display;
use std::marker::PhantomData;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

/// Reads a value, and says what is wrong with it in the words of its type alone.
pub(super) struct RedactedParser<T>(PhantomData<fn() -> T>);

impl<T> RedactedParser<T> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for RedactedParser<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T> TypedValueParser for RedactedParser<T>
where
    T: FromStr<Err: Display> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(&self, command: &Command, option: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        let read = value.to_str().ok_or_else(|| "it is no UTF-8".to_owned());
        read.and_then(|text| text.parse().map_err(|why: T::Err| why.to_string())).map_err(|why| {
            let name = option.and_then(Arg::get_long).unwrap_or_default();
            Error::raw(ErrorKind::ValueValidation, format!("the value of --{name}: {why}\n"))
                .with_cmd(command)
        })
    }
}
