//! The REST interface: requests and their errors, conditions, history and acknowledgements.

mod acknowledgements;
mod conditional_requests;
mod history;
mod requests;
mod unknown_broadcasts;
