//! Authentication and authorization: who sends a request, which roles they have, and which pages may send it.

pub mod authenticator;
mod dev;
pub mod error;
mod fetch;
pub mod jwks;
pub mod keys;
pub mod origin;
pub mod origin_policy;
mod principal;
pub mod roles;
mod token;
mod token_source;

pub use principal::Principal;
pub use roles::{Grant, Role, Roles};
pub use token::{Signers, Verifier};
pub use token_source::{SUBPROTOCOL, TokenSources};
