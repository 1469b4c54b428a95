//! How SQLite finds the rows of queries that pages and followers run again and again: through indexes, so that what a user
//! did long ago costs nothing. PostgreSQL's reads are counted in `tests/store/page_reads.rs`.

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _};

use crate::audit::search;
use crate::db::schema;
use crate::operation::{self, request};
use crate::tokens::{self, listing};
use crate::{
    account_link, account_mail, api_key, api_request, audit, cache, certificate, connections, denials,
    detection, feed, grant, host_capacity, instance, instance_event, instance_statistics, isolation_check,
    leak, mail, notification, plan_change, proxy, second_factor, session, usage, usage_hours, user, wake,
    webhook, webhook_delivery,
};

/// Rows that are sorted, or read from one end of an index up to a limit.
const SORTED: &str = "USE TEMP B-TREE FOR ORDER BY";
/// Sorts only rows of the same time.
const SORTED_TIES: &str = "USE TEMP B-TREE FOR LAST";

/// Rows of a search that are counted.
const COUNTED: &[&str] = &["CO-ROUTINE counted", "SCAN counted"];

/// Each query, with what it may do other than search an index.
const QUERIES: &[(&str, &[&str])] = &[
    (second_factor::OF_USER, &["CORRELATED SCALAR SUBQUERY"]),
    (second_factor::TRY, &[]),
    (second_factor::END_OTHER_SESSIONS, &["SCALAR SUBQUERY"]),
    (second_factor::IS_PENDING, &[]),
    (second_factor::DELETE_SURPLUS, &["LIST SUBQUERY", SORTED, SORTED_TIES]),
    (second_factor::DELETE_EXPIRED, &[]),
    (session::OTHERS_AND_PENDING, &["SCALAR SUBQUERY", "SCAN CONSTANT ROW"]),
    (account_link::BY_ID, &[]),
    (account_link::TAKE, &[]),
    (account_link::DELETE_TO, &[]),
    (account_link::DELETE_EXPIRED, &[]),
    (account_mail::COUNT_TO, &[]),
    (account_mail::COUNT_INVITATIONS_TO, &["CORRELATED SCALAR SUBQUERY"]),
    (mail::COUNT_TO, COUNTED),
    (mail::COUNT_ASKED_FOR, COUNTED),
    (mail::COUNT_NOTIFICATIONS, COUNTED),
    (mail::CLAIM, &["SCALAR SUBQUERY"]),
    (mail::DELETE_OLD, &[]),
    (api_key::BY_ID, &[]),
    (api_key::OF_USER, &[SORTED_TIES]),
    (api_key::COUNT_ACTIVE, &[]),
    (api_key::DELETE_SURPLUS, &["LIST SUBQUERY", SORTED_TIES]),
    (api_request::FIND, &[]),
    (api_request::DELETE_SURPLUS, &["LIST SUBQUERY", SORTED]),
    (api_request::DELETE_OLD, &["LIST SUBQUERY", "CREATE BLOOM FILTER"]),
    (notification::BY_ID, &[]),
    (notification::OF_USER, &[]),
    (notification::HAS_RECENT, &["CO-ROUTINE recent", "SCAN recent"]),
    (notification::DELETE_SURPLUS, &["LIST SUBQUERY", "CREATE BLOOM FILTER"]),
    (notification::DELETE_SURPLUS_OF_KIND, &["LIST SUBQUERY", "CREATE BLOOM FILTER"]),
    (notification::DELETE_OLD, &["LIST SUBQUERY", "CREATE BLOOM FILTER"]),
    (notification::FORGET_DELETED, &["SCAN failed_caches", "CORRELATED SCALAR SUBQUERY"]),
    (webhook::BY_ID, &[]),
    (webhook::OF_USER, &[]),
    (webhook::ENABLED_OF, &[SORTED]),
    (webhook::COUNT, &[]),
    (
        webhook::COUNT_FAILING,
        &["CO-ROUTINE failing", "SCAN failing", "SCAN webhooks USING COVERING INDEX webhooks_failing"],
    ),
    (webhook_delivery::COUNT_DUE, &["CO-ROUTINE counted", "SCAN counted", "CORRELATED SCALAR SUBQUERY"]),
    (webhook_delivery::OF_WEBHOOK, &[]),
    (audit::OF_ACTOR, &[]),
    (leak::OPEN, &[]),
    (leak::OF_USER, &[]),
    (denials::OF_TOKEN, &[SORTED]),
    (denials::OF_CACHE, &[SORTED_TIES]),
    (tokens::COUNT_ACTIVE, &[]),
    (listing::ACTIVE, &[SORTED]),
    (listing::ACTIVE_OF_USER, &[SORTED]),
    (listing::INACTIVE, &[]),
    (listing::ENDED, &[]),
    (listing::SURPLUS, &[]),
    (certificate::EXPIRING, &[SORTED]),
    (grant::OF_CACHE, &[]),
    (feed::CHANGED_TOKENS, &[]),
    (feed::CHANGED_CERTIFICATES, &[]),
    (feed::CHANGED_CACHES, &["COMPOUND QUERY", "LEFT-MOST SUBQUERY", "UNION USING TEMP B-TREE"]),
    (cache::LIVE_CACHES, &[SORTED]),
    (cache::CREATED_LATELY, &[]),
    (cache::LIVE_TOKENS, &[SORTED]),
    (cache::sleep::SET_SLEEP, &[]),
    (instance::ALL, &["SCAN i USING INDEX instances_created"]),
    (instance::IDS, &["SCAN i"]),
    (instance::OF_CACHE, &[]),
    (instance::FIRST_OF_USER, &[SORTED]),
    (instance_event::NEWEST, &[]),
    (request::SUSPENDED_BY, &[]),
    (request::MEMORY_OF_PLAN, &[]),
    (request::TAKE_OVER, &[]),
    (isolation_check::OF_INSTANCE, &[]),
    (host_capacity::SIZES, &["SCAN instances USING COVERING INDEX instances_running"]),
    (usage::ALL_LATENCY, &["SCAN usage_latency USING INDEX sqlite_autoindex_usage_latency_1"]),
    (usage::ALL_CONNECTIONS, &["SCAN usage_connections USING INDEX sqlite_autoindex_usage_connections_1"]),
    (plan_change::OF_SIZE, &[SORTED]),
    (plan_change::HOLDING_MORE, &[]),
    (connections::REQUESTS, &[]),
    (usage_hours::OF_ALL, &[]),
    (usage_hours::OF_INSTANCE, &[]),
    (usage_hours::INSTANCES_OF_USER, &[SORTED]),
    (
        usage_hours::OLDEST_KEPT,
        &["CO-ROUTINE kept", "SETUP", "RECURSIVE STEP", "SCAN kept", "CORRELATED SCALAR SUBQUERY"],
    ),
    (instance_statistics::HISTORY, &[SORTED]),
    (wake::IS_WANTED, &[]),
    (proxy::LAST_SEEN, &["SCAN proxies USING INDEX proxies_seen_at"]),
    (proxy::CONNECTIONS, &["SCAN usage_connections", "USE TEMP B-TREE FOR GROUP BY"]),
    (user::search::PAGE, &[]),
    (user::search::FIGURES, &["SCAN users USING INDEX users_email"]),
    (cache::listing::PAGE, &[]),
    (cache::listing::FAILED, &[]),
    (cache::listing::OF_USER, &[SORTED]),
    (cache::listing::STATES, &["SCAN c USING INDEX caches_live", "USE TEMP B-TREE FOR GROUP BY"]),
    (operation::listing::SEEN, &[SORTED]),
    (search::ANY, &["CO-ROUTINE e", "SCAN e"]),
    (search::OF_ACTOR, &["CO-ROUTINE e", "SCAN e"]),
    (search::OF_SUBJECT, &["CO-ROUTINE e", "SCAN e"]),
    (search::FIRST_SINCE, &[]),
    (search::OF_USER, &["MERGE (UNION)", "LEFT", "RIGHT", "CO-ROUTINE", "SCAN of_", "SCAN e", SORTED]),
    (denials::recent::TOTALS, &["CO-ROUTINE newest", "SCAN newest", "USE TEMP B-TREE"]),
    (denials::recent::NEWEST, &[SORTED_TIES]),
    (denials::recent::OF_CACHE, &[SORTED_TIES]),
    (denials::recent::OF_USER, &[SORTED]),
];

async fn plan(connection: &mut SqliteConnection, sql: &str) -> Vec<String> {
    let sql = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let rows: Vec<(i64, i64, i64, String)> = sqlx::query_as(sql).fetch_all(connection).await.unwrap();
    rows.into_iter().map(|(.., detail)| detail).collect()
}

//
#[tokio::test]
async fn pages_and_followers_search_indexes() {
    let mut connection = SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
    schema::migrate(&mut connection).await.unwrap();
    let of_notifications = detection::QUERY_PLANS.iter().chain(webhook::QUERY_PLANS);
    for &(sql, allowed) in QUERIES.iter().chain(of_notifications) {
        for step in plan(&mut connection, sql).await {
            let is_allowed = step.starts_with("SEARCH") && !step.contains("AUTOMATIC")
                || allowed.iter().any(|allowed| step.starts_with(allowed));
            assert!(is_allowed, "{sql}: {step}");
        }
    }
    // Counts those that there may be, and not all that there were.
    let steps = plan(&mut connection, user::COUNT).await;
    assert_eq!(steps, ["SCAN users USING INDEX users_email"]);
    let active = plan(&mut connection, listing::ACTIVE).await;
    assert!(
        active.iter().any(|step| step.contains("INDEX tokens_active (cache_id=? AND <expr>>?)")),
        "{active:?}"
    );
}
