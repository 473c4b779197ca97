//! Authentication: tokens, keys, roles, rate limits, and requests from browsers.

mod browsers;
mod claims;
mod connections;
mod key_proxy;
mod key_reload;
mod keys;
mod rate_limits;
mod roles;
mod tokens;
