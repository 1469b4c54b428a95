//! Who is here now, for whoever wants to see it, and the end of one that is to end.

use store::{ConnectionId, LiveConnection};

use super::{SessionEntry, SessionHandle, Tenant};
use crate::mailbox::ConnectionList;
use crate::protocol::Protocol;

/// So many are listed; of more, the longest-lived.
const LISTED_MAX: usize = 1000;

impl Tenant {
    /// The live connections, in the name of the proxy that they are of.
    pub(crate) fn list(&self, proxy: &str) -> ConnectionList {
        let sessions = self.sessions.borrow();
        let mut numbers: Vec<usize> = sessions.keys().copied().collect();
        numbers.sort_unstable();
        numbers.truncate(LISTED_MAX);
        let known = numbers.into_iter().filter_map(|number| Some((number, sessions.get(&number)?)));
        let connections = known.filter_map(|(number, it)| it.listed(number, proxy)).collect();
        ConnectionList { total: sessions.len(), connections }
    }

    /// Somebody who was let in without a word has said one.
    pub(crate) fn hears(&self, session: &SessionHandle, protocol: Protocol) {
        if let Some(sessions) = self.sessions.borrow_mut().get_mut(&session.number) {
            sessions.protocol = protocol;
        }
    }

    /// Ends that connection, if it is here.
    pub(crate) fn end(&self, id: &ConnectionId) {
        let Ok(number) = usize::try_from(id.number) else { return };
        let sessions = self.sessions.borrow();
        let found = sessions.get(&number).filter(|sessions| sessions.since == id.since);
        if let Some(responses) = found.and_then(|sessions| sessions.responses.upgrade()) {
            responses.cut();
        }
    }
}

impl SessionEntry {
    fn listed(&self, number: usize, proxy: &str) -> Option<LiveConnection> {
        let responses = self.responses.upgrade()?;
        let (number, since) = (i64::try_from(number).ok()?, self.since);
        let protocol = match self.protocol {
            Protocol::Text => "text",
            Protocol::Binary => "binary",
        };
        Some(LiveConnection {
            id: ConnectionId { proxy: proxy.to_owned(), number, since },
            token_id: self.token.to_string(),
            source: self.source.to_string(),
            protocol: protocol.to_owned(),
            tls: responses.stream().is_tls(),
            since,
            operations: i64::try_from(responses.operations()).unwrap_or(i64::MAX),
        })
    }
}
