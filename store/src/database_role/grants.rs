//! What each role's database user may do. Everything that isn't listed is refused by PostgreSQL.

use super::DatabaseRole;

/// What the roles may do with a table: privileges as `GRANT` takes them; empty for none.
struct TableGrants {
    table: &'static str,
    proxy: &'static str,
    provisioner: &'static str,
    webui: &'static str,
}

const fn table(
    table: &'static str,
    proxy: &'static str,
    provisioner: &'static str,
    webui: &'static str,
) -> TableGrants {
    TableGrants { table, proxy, provisioner, webui }
}

const READ: &str = "SELECT";
const NEXT_REVISION: &str = "SELECT, UPDATE (value)";
const ALL: &str = "SELECT, INSERT, UPDATE, DELETE";
const KEEP: &str = "SELECT, INSERT, UPDATE";
const ADD: &str = "SELECT, INSERT, DELETE";

/// In the order of the migrations. The proxy reads what grants consist of; the provisioner reads no credential, no session and
/// nothing of a user but the state; the web UI reads everything, and writes nothing that proxies or the provisioner observe.
const TABLES: &[TableGrants] = &[
    table("_sqlx_migrations", READ, READ, READ),
    table("revision", NEXT_REVISION, NEXT_REVISION, NEXT_REVISION),
    table("installation", READ, READ, READ),
    // Desired state.
    table("plans", READ, READ, ALL),
    table("users", "SELECT (id, state, revision)", "SELECT (id, state, revision)", KEEP),
    table("caches", READ, READ, KEEP),
    table("instances", READ, READ, KEEP),
    table("tokens", READ, "", ALL),
    table("certificates", READ, "", ALL),
    table("wake_requests", KEEP, READ, READ),
    table("image_upgrade", "", READ, READ),
    // Observed state.
    table("routes", READ, KEEP, READ),
    table("networks", "", KEEP, READ),
    table("addresses", "", KEEP, READ),
    table("ready_instances", "", ALL, READ),
    table("instance_events", "", ALL, "SELECT, UPDATE (notified, repetition_notified), DELETE"),
    table("instance_statistics", "", ALL, READ),
    table("statistics_history", "", ALL, READ),
    table("isolation_checks", "", ALL, READ),
    table("image_upgrade_progress", "", KEEP, READ),
    table("host_capacity", "", KEEP, READ),
    // What users and operators ask for, and how far it is. An upgrade of the image asks for restarts.
    table("operations", "SELECT (id, cache_id, revision)", ALL, ALL),
    table("operation_progress", "SELECT (operation_id, revision)", KEEP, READ),
    // Usage and metering.
    table("usage", KEEP, READ, READ),
    table("usage_latency", KEEP, READ, READ),
    table("usage_connections", ALL, READ, READ),
    table("usage_reports", ALL, "", ""),
    table("usage_hours", USAGE_HOURS_OF_PROXY, USAGE_HOURS_OF_PROVISIONER, READ),
    table("reserved_memory", "", ALL, READ),
    table("token_uses", KEEP, "", READ),
    // Denials and live connections.
    table("denials", ALL, "", "SELECT, DELETE"),
    table("proxies", ALL, READ, READ),
    table("connection_requests", READ, "", KEEP),
    table("connection_lists", ADD, "", READ),
    table("live_connections", ADD, "", READ),
    table("connection_closes", "SELECT, UPDATE (closed_at)", "", ADD),
    // Accounts.
    table("leaks", "", "", ALL),
    table("sessions", "", "", ALL),
    table("account_links", "", "", ALL),
    table("mails", "", "", ALL),
    table("second_factors", "", "", ALL),
    table("recovery_codes", "", "", ALL),
    table("pending_sign_ins", "", "", ALL),
    table("api_keys", "", "", ALL),
    table("api_requests", "", "", ALL),
    // What users are notified of.
    table("notifications", "", "", ALL),
    table("notification_preferences", "", "", ALL),
    table("notification_positions", "", "", ALL),
    table("failed_caches", "", "", ALL),
    table("webhooks", "", "", ALL),
    table("webhook_deliveries", "", "", ALL),
    // Nobody changes an entry.
    table("audit", "", "SELECT (seq, hash), INSERT", "SELECT, INSERT"),
];

const USAGE_HOURS_OF_PROXY: &str = "SELECT, \
    INSERT (hour, instance_id, plan, hits, misses, stores, deletes, arithmetic, touches, others, errors, bytes_in, \
    bytes_out, peak_connections), \
    UPDATE (hits, misses, stores, deletes, arithmetic, touches, others, errors, bytes_in, bytes_out, peak_connections)";
const USAGE_HOURS_OF_PROVISIONER: &str =
    "SELECT, INSERT (hour, instance_id, plan, memory_mb_seconds), UPDATE (memory_mb_seconds), DELETE";

/// The names of all tables.
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    TABLES.iter().map(|it| it.table)
}

/// All tables, and what a role may do with each; empty for nothing.
pub(super) fn of(role: DatabaseRole) -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLES.iter().map(move |it| {
        let privileges = match role {
            DatabaseRole::Proxy => it.proxy,
            DatabaseRole::Provisioner => it.provisioner,
            DatabaseRole::Webui => it.webui,
        };
        (it.table, privileges)
    })
}
