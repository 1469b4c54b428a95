//! Who is here now, for whoever wants to see it, and the end of one that is to end.

use store::{ConnectionId, LiveConnection};

use super::{Home, Seat, Seated};
use crate::dialect::Dialect;
use crate::watch::Listed;

/// So many are listed; of more, the longest-lived.
const LISTED_MAX: usize = 1000;

impl Home {
    /// The live connections, in the name of the proxy that they are of.
    pub(crate) fn list(&self, proxy: &str) -> Listed {
        let seated = self.seated.borrow();
        let mut numbers: Vec<usize> = seated.keys().copied().collect();
        numbers.sort_unstable();
        numbers.truncate(LISTED_MAX);
        let known = numbers.into_iter().filter_map(|number| Some((number, seated.get(&number)?)));
        let connections = known.filter_map(|(number, it)| it.listed(number, proxy)).collect();
        Listed { total: seated.len(), connections }
    }

    /// Somebody who was let in without a word has said one.
    pub(crate) fn hears(&self, seat: &Seat, dialect: Dialect) {
        if let Some(seated) = self.seated.borrow_mut().get_mut(&seat.number) {
            seated.dialect = dialect;
        }
    }

    /// Ends that connection, if it is here.
    pub(crate) fn end(&self, id: &ConnectionId) {
        let Ok(number) = usize::try_from(id.number) else { return };
        let seated = self.seated.borrow();
        let found = seated.get(&number).filter(|seated| seated.since == id.since);
        if let Some(outbox) = found.and_then(|seated| seated.outbox.upgrade()) {
            outbox.cut();
        }
    }
}

impl Seated {
    fn listed(&self, number: usize, proxy: &str) -> Option<LiveConnection> {
        let outbox = self.outbox.upgrade()?;
        let (number, since) = (i64::try_from(number).ok()?, self.since);
        let dialect = match self.dialect {
            Dialect::Text => "text",
            Dialect::Binary => "binary",
        };
        Some(LiveConnection {
            id: ConnectionId { proxy: proxy.to_owned(), number, since },
            token_id: self.token.to_string(),
            source: self.source.to_string(),
            dialect: dialect.to_owned(),
            tls: outbox.stream().is_tls(),
            since,
            operations: i64::try_from(outbox.operations()).unwrap_or(i64::MAX),
        })
    }
}
