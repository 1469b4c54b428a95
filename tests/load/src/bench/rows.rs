//! The rows of the table: each is a shape of load.

use crate::wire::Protocol;

/// How requests are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Closed,
    /// A share of direct's throughput in the closed loop, and the rate that follows, in requests per second.
    Open {
        share: f64,
        rate: f64,
    },
    /// Connect, log in, get, close.
    Churn,
    /// Several keys per get.
    MultiGet(usize),
    /// Each connection belongs to another user.
    Users,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Row {
    pub(super) kind: Kind,
    pub(super) value: usize,
    pub(super) connections: usize,
    pub(super) pipeline: usize,
    /// The protocol of memgate's clients.
    pub(super) protocol: Protocol,
    pub(super) tls: Tls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    No,
    /// Clients resume earlier TLS sessions.
    Resumed,
    /// Every TLS handshake is a full one.
    Full,
}

/// Operations of a churn run: the port of each is unusable for a minute afterwards (TIME_WAIT).
const CHURN_OPERATIONS_MAX: u64 = 5_000;

const fn closed(value: usize, connections: usize, pipeline: usize) -> Row {
    Row { kind: Kind::Closed, value, connections, pipeline, protocol: Protocol::Text, tls: Tls::No }
}

const MAIN: [Row; 7] = [
    closed(100, 1, 1),
    closed(100, 50, 1),
    closed(100, 256, 1),
    closed(100, 50, 16),
    closed(100, 256, 16),
    closed(1024, 256, 1),
    closed(65_536, 50, 1),
];

/// All rows, the open loops behind the closed one that they take their rates from. `users` of the last one: a
/// connection each.
pub(super) fn all(quick: bool, users: usize) -> Vec<Row> {
    let mut rows = MAIN.to_vec();
    if quick {
        return rows;
    }
    rows.extend([
        closed(100, 1000, 1),
        closed(100, 1000, 16),
        closed(1024, 1, 1),
        closed(1024, 256, 16),
        closed(65_536, 1, 1),
        closed(65_536, 50, 16),
        closed(65_536, 256, 1),
    ]);
    for protocol in [Protocol::Meta, Protocol::Binary] {
        rows.extend([closed(100, 256, 1), closed(100, 256, 16)].map(|row| Row { protocol, ..row }));
    }
    let usual = closed(100, 256, 1);
    rows.extend([0.5, 0.9].map(|share| Row { kind: Kind::Open { share, rate: 0.0 }, pipeline: 64, ..usual }));
    let secured = [closed(100, 50, 1), usual, closed(100, 1000, 1), closed(100, 256, 16)];
    rows.extend(secured.map(|row| Row { tls: Tls::Resumed, ..row }));
    let churn = Row { kind: Kind::Churn, connections: 16, ..usual };
    rows.extend([Tls::Resumed, Tls::Full].map(|tls| Row { tls, ..churn }));
    rows.extend([Row { kind: Kind::MultiGet(10), connections: 50, ..usual }, churn]);
    if users > 0 {
        rows.push(Row { kind: Kind::Users, connections: users, ..usual });
    }
    rows
}

impl Row {
    pub(super) fn shape(&self) -> String {
        match self.kind {
            Kind::Closed => "closed".into(),
            Kind::Open { share, .. } => format!("open-{:.0}", share * 100.0),
            Kind::Churn => "churn".into(),
            Kind::MultiGet(keys) => format!("multiget-{keys}"),
            Kind::Users => "users".into(),
        }
    }

    pub(super) fn name(&self) -> String {
        let Self { value, connections, pipeline, protocol, .. } = self;
        let value = if *value < 1024 { format!("{value}B") } else { format!("{}KiB", value / 1024) };
        let protocol = format!("{protocol:?}").to_lowercase();
        let tls = match self.tls {
            Tls::No => "",
            Tls::Resumed => " tls",
            Tls::Full => " tls-full",
        };
        format!("{value}/{connections}/{pipeline} {} {protocol}{tls}", self.shape())
    }

    /// The generator's arguments, without those of the target.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = Vec::new();
        let mut option = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        option("value", self.value.to_string());
        option("connections", self.connections.to_string());
        option("pipeline", self.pipeline.to_string());
        match self.kind {
            Kind::Open { rate, .. } => option("rate", rate.to_string()),
            Kind::MultiGet(keys) => option("multiget", keys.to_string()),
            Kind::Churn => option("count", CHURN_OPERATIONS_MAX.to_string()),
            Kind::Users => option("keys", "100".into()),
            Kind::Closed => {}
        }
        if self.kind == Kind::Churn {
            arguments.push("--churn".into());
        }
        arguments
    }
}
