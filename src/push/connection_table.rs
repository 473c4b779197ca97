//! The connections of a shard.

use std::collections::BTreeMap;

use super::attach::ConnectionId;
use super::connection::Connection;

/// Connections by id, which is the order of attachment.
#[derive(Default)]
pub(super) struct ConnectionTable {
    /// Boxed, so that the nodes of the tree stay small.
    connections: BTreeMap<ConnectionId, Box<Connection>>,
    /// Connections that may need an earlier deadline than their timer has.
    dirty: Vec<ConnectionId>,
}

impl ConnectionTable {
    pub(super) fn insert(&mut self, id: ConnectionId, connection: Connection) {
        self.connections.insert(id, Box::new(connection));
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Box<Connection>> {
        self.connections.remove(&id)
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(&id).map(|connection| &**connection)
    }

    /// For a caller that rearms the timer of the connection itself.
    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(&id).map(|connection| &mut **connection)
    }

    /// Changes a connection, and notes whether it needs an earlier deadline.
    pub(super) fn update<R>(
        &mut self,
        id: ConnectionId,
        change: impl FnOnce(&mut Connection) -> R,
    ) -> Option<R> {
        let connection = self.connections.get_mut(&id)?;
        let result = change(connection);
        if connection.is_dirty() {
            self.dirty.push(id);
        }
        Some(result)
    }

    /// Takes the ids of the connections that may need an earlier deadline.
    pub(super) fn take_dirty(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.dirty)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.connections.iter().map(|(id, connection)| (*id, &**connection))
    }
}
