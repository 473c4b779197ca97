//! The wire: every message of the WebSocket and of the event stream, and the codes with which a connection ends.
//!
//! `schemas/asyncapi.yaml` says the same for clients, and tests hold the running service and these lists to it.

mod client_message;
mod close;
mod server_message;

pub use client_message::{ClientMessage, Token};
pub use close::Close;
pub use server_message::{BroadcastView, ConnectedStats, Frame, Mode, Place, ServerMessage};
