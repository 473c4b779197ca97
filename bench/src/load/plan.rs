//! What a load consists of.

/// Whom to connect, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many clients.
    pub clients: usize,
    /// How many of them never read.
    pub deaf: usize,
    /// How many handshakes are under way at once.
    pub at_once: usize,
    /// Whether the server sends the state on connect, and clients wait for it.
    pub greeted: bool,
    /// Whether broadcasts are as long as they can be.
    pub long: bool,
}
