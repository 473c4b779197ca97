//! WebSockets and event streams: what a connected client receives, and how many are connected.

mod autobahn;
mod event_streams_behind_proxies;
mod load;
mod positions;
mod presence;
mod refused_handshakes;
mod websocket;
