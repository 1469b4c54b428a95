//! The roles' own users of a PostgreSQL database: each does its role's work with them, and PostgreSQL refuses everything else.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use store::{
    Database, DatabaseRole, DeliveryOutcome, DenialCause, DenialRecord, DetectedSource, DisabledReason,
    EventAction, EventCause, InstanceState, LeakReport, MailLimits, NewInstanceEvent, NewToken,
    NotificationKind, NotificationKinds, Observed, Password, RoleUser, Store, StoreError, StoreOptions,
    WebhookFields, now,
};

use crate::test_db::{TestDb, first_cache, sign_up, token_key};

const PERMISSION_DENIED: &str = "42501";

/// A database whose roles have users of their own.
struct Roles {
    db: TestDb,
    owner: Store,
    users: Vec<RoleUser>,
}

impl Roles {
    async fn new(installation: &str) -> Self {
        let db = TestDb::postgres().await;
        let owner = db.open().await;
        let users: Vec<RoleUser> =
            DatabaseRole::ALL.iter().map(|role| RoleUser::generate(*role, installation)).collect();
        owner.set_up_role_users(&users, Password::Keep).await.unwrap();
        Self { db, owner, users }
    }

    fn url(&self, role: DatabaseRole) -> String {
        let user = self.users.iter().find(|user| user.role == role).unwrap();
        let Database::Postgres(url) = self.db.database() else { unreachable!("it is PostgreSQL") };
        url.replace("postgres://postgres@", &format!("postgres://{}:{}@", user.name, user.password))
    }

    fn database_name(&self) -> String {
        let url = self.url(DatabaseRole::Proxy);
        url.split('?').next().unwrap().rsplit_once('/').unwrap().1.to_owned()
    }

    /// The store as a process of the role opens it.
    async fn open(&self, role: DatabaseRole) -> Store {
        Store::open_existing(&Database::Postgres(self.url(role)), &StoreOptions::default()).await.unwrap()
    }

    /// Whether PostgreSQL refuses a statement for lack of rights.
    async fn refuses(&self, role: DatabaseRole, sql: &str) -> bool {
        let mut connection = PgConnection::connect(&self.url(role)).await.unwrap();
        let result = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await;
        connection.close().await.unwrap();
        let code = result.err().and_then(|error| Some(error.as_database_error()?.code()?.into_owned()));
        code.as_deref() == Some(PERMISSION_DENIED)
    }
}

// what a broken role can't do with PostgreSQL.
#[tokio::test]
async fn role_is_refused_what_others_write() {
    let roles = Roles::new("refused").await;
    let web = [
        "UPDATE routes SET address = '10.0.0.1'",
        "INSERT INTO routes (instance_id, state, generation, changed_at, revision) VALUES ('i', 'running', 1, 0, 0)",
        "DELETE FROM routes",
        "UPDATE addresses SET instance_id = NULL",
        "UPDATE networks SET subnet = '0.0.0.0/0'",
        "UPDATE instance_statistics SET hits = 0",
        "UPDATE statistics_history SET hits = 0",
        "UPDATE usage SET hits = 0",
        "UPDATE usage_hours SET memory_mb_seconds = 0",
        "UPDATE operation_progress SET state = 'done'",
        "UPDATE isolation_checks SET ports = 'passed'",
        "UPDATE installation SET id = 'other'",
        "UPDATE installation SET lane_key_fingerprint = NULL",
        "UPDATE audit SET actor = 'operator'",
        "DELETE FROM audit",
        "UPDATE denials SET count = 0",
        "UPDATE connection_closes SET closed_at = 1",
        "INSERT INTO ready_instances (id, memory_mb, connections, item_size_max, created_at) VALUES ('r', 1, 1, 1, 1)",
    ];
    let proxy = [
        "SELECT email FROM users",
        "SELECT password_hash FROM users",
        "SELECT * FROM users",
        "UPDATE users SET state = 'active'",
        "INSERT INTO tokens (id) VALUES ('t')",
        "UPDATE tokens SET scopes = 'read,write,flush,stats'",
        "DELETE FROM certificates",
        "UPDATE plans SET connections = 1000000",
        "UPDATE caches SET suspended = 0",
        "UPDATE routes SET address = '10.0.0.1'",
        "SELECT id_hash FROM sessions",
        "SELECT secret_hash FROM api_keys",
        "SELECT seed FROM second_factors",
        "SELECT actor FROM audit",
        "INSERT INTO audit (seq, at, actor, action, subject, detail, hash) VALUES (1, 1, 'a', 'a', 'a', 'a', 'a')",
        "UPDATE usage_hours SET memory_mb_seconds = 0",
        "DELETE FROM usage_hours",
        "SELECT requested_by FROM operations",
    ];
    let provisioner = [
        "SELECT secret_hash FROM tokens",
        "SELECT fingerprint FROM certificates",
        "SELECT email FROM users",
        "UPDATE users SET is_admin = 1",
        "SELECT id_hash FROM sessions",
        "SELECT recipient FROM mails",
        "UPDATE caches SET deleted_at = 1",
        "UPDATE instances SET desired = 'deleting'",
        "DELETE FROM instances",
        "UPDATE plans SET memory_mb = 1",
        "UPDATE usage_hours SET hits = 0",
        "SELECT detail FROM audit",
        "UPDATE wake_requests SET revision = 0",
    ];
    let all = [
        "CREATE TABLE public.mine (id BIGINT)",
        "DROP TABLE usage",
        "TRUNCATE usage",
        "ALTER TABLE usage ADD COLUMN mine BIGINT",
        "DELETE FROM revision",
        "INSERT INTO _sqlx_migrations (version) VALUES (1)",
        "CREATE ROLE mine",
        "COPY usage TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
    ];
    for (role, own) in [
        (DatabaseRole::Webui, &web[..]),
        (DatabaseRole::Proxy, &proxy[..]),
        (DatabaseRole::Provisioner, &provisioner[..]),
    ] {
        for sql in own.iter().chain(&all) {
            assert!(roles.refuses(role, sql).await, "{role:?} may do this: {sql}");
        }
    }
}

#[tokio::test]
async fn each_role_does_its_work() {
    let roles = Roles::new("works").await;
    let webui = roles.open(DatabaseRole::Webui).await;
    let (user, token) = sign_up(&webui, "ada@example.org").await;
    let cache = first_cache(&webui, &user).await;
    let provisioner = roles.open(DatabaseRole::Provisioner).await;
    let instance = provisioner.first_instance_of(&user.id).await.unwrap().unwrap();
    let observed = Observed {
        state: InstanceState::Running,
        generation: 1,
        address: Some("10.213.0.2".to_owned()),
        container: None,
        version: None,
        message: None,
    };
    provisioner.record_route(&instance.id, &observed).await.unwrap();

    let proxy = roles.open(DatabaseRole::Proxy).await;
    assert!(proxy.grant(&token.token.id()).await.unwrap().is_some());
    assert_eq!(proxy.grants_of_cache(&cache).await.unwrap().len(), 1);
    let mut feed = proxy.feed().await.unwrap();
    let denial = DenialRecord {
        token_id: token.token.id().to_string(),
        cause: DenialCause::WrongSecret,
        source: Some("192.0.2.1".to_owned()),
        detail: "SASL PLAIN".to_owned(),
        protocol: "binary".to_owned(),
        tls: true,
        count: 1,
        first_at: now(),
        last_at: now(),
    };
    proxy.add_denials(&[denial]).await.unwrap();
    webui.revoke_token(&token.token.id()).await.unwrap();
    let changes = feed.next().await.unwrap();
    assert_eq!(changes.tokens, [token.token.id()]);
    assert_eq!(webui.denials_of_cache(&cache).await.unwrap().len(), 1);
    webui.installation_id().await.unwrap();
}

#[tokio::test]
async fn web_ui_notifies_users_and_sends_to_webhooks() {
    let roles = Roles::new("notifies").await;
    let webui = roles.open(DatabaseRole::Webui).await;
    let (user, token) = sign_up(&webui, "ada@example.org").await;
    let cache = first_cache(&webui, &user).await;
    let fields = WebhookFields {
        url: "https://a.example/",
        host: "a.example",
        description: "",
        kinds: NotificationKinds::ALL,
    };
    let webhook = webui.create_webhook(&user.id, &fields).await.unwrap();
    // Something to mark in each table that another role writes.
    let instance = webui.first_instance_of(&user.id).await.unwrap().unwrap();
    let provisioner = roles.open(DatabaseRole::Provisioner).await;
    let event = NewInstanceEvent {
        instance_id: instance.id.clone(),
        cause: EventCause::OutOfMemory,
        action: EventAction::Started,
        contents_lost: true,
        detail: String::new(),
        at: now(),
    };
    for _ in 0..5 {
        provisioner.add_instance_events(std::slice::from_ref(&event)).await.unwrap();
    }
    let key = token_key();
    let leaked = NewToken::generate(&key, "leaked");
    webui.create_token(&cache, &leaked).await.unwrap();
    let report = LeakReport::new(&leaked.token, "https://git.example/a", "commit");
    assert!(webui.report_leak(&key, &leaked.token, &report).await.unwrap());
    let limits = MailLimits { to_recipient_per_hour: 5, in_total_per_hour: 100 };
    let mut added = Vec::new();
    for source in DetectedSource::ALL {
        added.extend(webui.detect_notifications(source, Some(&limits)).await.unwrap().added);
    }
    assert_eq!(
        added,
        [
            NotificationKind::TokenLeaked,
            NotificationKind::CacheEmptied,
            NotificationKind::CacheOutOfMemory,
            NotificationKind::CacheFailed
        ]
    );
    let claimed = webui.claim_delivery(Duration::from_secs(60)).await.unwrap().unwrap();
    webui.finish_delivery(&claimed, &DeliveryOutcome::Delivered(200)).await.unwrap();
    assert_eq!(webui.due_deliveries().await.unwrap(), 3);
    webui.disable_webhook(&webhook, DisabledReason::Gone, Some(&limits)).await.unwrap();
    webui.set_sleep_after(&cache, Some(600)).await.unwrap();
    roles.db.execute("UPDATE notifications SET created_at = 1").await.unwrap();
    assert_eq!(webui.delete_old_notifications().await.unwrap(), 5);
    assert!(webui.grant(&token.token.id()).await.unwrap().is_some());
}

/// A migration that adds a table has to say what each role may do with it.
#[tokio::test]
async fn each_table_has_its_rights() {
    let roles = Roles::new("tables").await;
    let sql = "SELECT CAST(table_name AS TEXT), CAST(0 AS BIGINT) FROM information_schema.tables \
               WHERE table_schema = 'public' AND NOT EXISTS (SELECT 1 FROM pg_roles r WHERE r.rolname LIKE 'memgate_tables_%' \
               AND has_any_column_privilege(r.rolname, quote_ident(table_name), 'SELECT'))";
    assert_eq!(roles.db.pairs(sql).await, [], "tables that no role may read");
    // a backup has each of them.
    let mut existing = roles.db.pairs("SELECT CAST(table_name AS TEXT), CAST(0 AS BIGINT) FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1").await;
    let mut named: Vec<_> = store::postgres_tables().map(|name| (name.to_owned(), 0)).collect();
    existing.sort();
    named.sort();
    assert_eq!(existing, named);
}

#[tokio::test]
async fn rights_follow_the_version_and_passwords_change_only_on_demand() {
    let roles = Roles::new("again").await;
    let name = &roles.users[0].name;
    // As an earlier version might have granted.
    let extra = format!("GRANT SELECT, UPDATE (email) ON users TO {name}; REVOKE ALL ON usage FROM {name}");
    roles.db.execute(&extra).await.unwrap();
    let password = format!(
        "SELECT CAST(rolname AS TEXT) || rolpassword, CAST(0 AS BIGINT) FROM pg_authid WHERE rolname = '{name}'"
    );
    let before = roles.db.pairs(&password).await;
    assert!(before[0].0.contains("SCRAM-SHA-256$4096:"), "{before:?}");
    roles.owner.set_up_role_users(&roles.users, Password::Keep).await.unwrap();
    assert_eq!(roles.db.pairs(&password).await, before);
    assert!(roles.refuses(DatabaseRole::Proxy, "SELECT email FROM users").await);
    assert!(roles.refuses(DatabaseRole::Proxy, "UPDATE users SET email = ''").await);
    assert!(!roles.refuses(DatabaseRole::Proxy, "SELECT hits FROM usage").await);
    roles.owner.set_up_role_users(&roles.users, Password::Set).await.unwrap();
    assert_ne!(roles.db.pairs(&password).await, before);
}

// what a user has set for itself ends with the next start, or with `memgate migrate --roles`.
#[tokio::test]
async fn settings_that_a_user_has_made_for_itself_are_taken_back() {
    let roles = Roles::new("settings").await;
    let name = &roles.users[0].name;
    let sql = format!(
        "ALTER ROLE {name} SET statement_timeout = '1ms'; \
         ALTER ROLE {name} IN DATABASE {} SET default_transaction_read_only = on",
        roles.database_name()
    );
    assert!(!roles.refuses(DatabaseRole::Proxy, &sql).await, "PostgreSQL allows this to every user");
    let settings = format!("SELECT COUNT(*) FROM pg_db_role_setting WHERE setrole = '{name}'::regrole");
    assert_eq!(roles.db.number(&settings).await, 2);
    roles.owner.set_up_role_users(&roles.users, Password::Keep).await.unwrap();
    assert_eq!(roles.db.number(&settings).await, 0);
}

// one role's user leaves connections to the others.
#[tokio::test]
async fn each_user_has_half_of_the_connections_at_most() {
    let roles = Roles::new("connections").await;
    for user in &roles.users {
        let sql = format!(
            "SELECT CAST(rolconnlimit * 2 - CAST(current_setting('max_connections') AS INT) AS BIGINT) \
             FROM pg_roles WHERE rolname = '{}'",
            user.name
        );
        assert!((-1..=0).contains(&roles.db.number(&sql).await), "{user:?}");
    }
}

// any user can take the lock that keeps provisioners from acting at the same time, so it is named.
#[tokio::test]
async fn other_user_who_holds_the_leader_lock_is_named() {
    const LEADER_LOCK: i64 = 0x6d_65_6d_67_61_74_65;
    let roles = Roles::new("leader").await;
    let provisioner = roles.open(DatabaseRole::Provisioner).await;
    let own = provisioner.try_acquire_leader_lock().await.unwrap().unwrap();
    assert_eq!(provisioner.other_leader_lock_holder().await.unwrap(), None);
    drop(own);
    let mut proxy = PgConnection::connect(&roles.url(DatabaseRole::Proxy)).await.unwrap();
    sqlx::query("SELECT pg_advisory_lock($1)").bind(LEADER_LOCK).execute(&mut proxy).await.unwrap();
    assert!(provisioner.try_acquire_leader_lock().await.unwrap().is_none());
    let holder = provisioner.other_leader_lock_holder().await.unwrap();
    assert_eq!(holder.as_deref(), Some("memgate_leader_proxy"));
    proxy.close().await.unwrap();
}

// what a role creates in the schema, the owner of the tables would run in a restore.
#[tokio::test]
async fn schema_in_which_everybody_may_create_is_refused() {
    let roles = Roles::new("schema").await;
    roles.db.execute("GRANT CREATE ON SCHEMA public TO PUBLIC").await.unwrap();
    let error = roles.owner.set_up_role_users(&roles.users, Password::Keep).await.unwrap_err();
    assert!(matches!(error, StoreError::SchemaIsWritable(_)), "{error}");
    assert!(error.to_string().contains("REVOKE CREATE ON SCHEMA public FROM PUBLIC"), "{error}");
    roles.db.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC").await.unwrap();
    roles.owner.set_up_role_users(&roles.users, Password::Keep).await.unwrap();
}

#[tokio::test]
async fn user_without_the_right_to_create_others_is_told() {
    let roles = Roles::new("owner").await;
    let webui = roles.open(DatabaseRole::Webui).await;
    let another = RoleUser::generate(DatabaseRole::Proxy, "another");
    let error = webui.set_up_role_users(&[another], Password::Keep).await.unwrap_err();
    assert!(matches!(error, StoreError::MayNotCreateUsers(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("memgate_owner_webui") && text.contains("CREATEROLE"), "{text}");
}

#[tokio::test]
async fn new_password_ends_connections_with_the_former_one() {
    let roles = Roles::new("ended").await;
    let proxy = roles.users[0].clone();
    let mut connection = PgConnection::connect(&roles.url(proxy.role)).await.unwrap();
    roles.owner.set_up_role_users(std::slice::from_ref(&proxy), Password::Set).await.unwrap();
    sqlx::raw_sql("SELECT 1").execute(&mut connection).await.unwrap();
    // A user that may not is told how many there are.
    let webui = roles.open(DatabaseRole::Webui).await;
    assert_eq!(webui.end_connections_of(&proxy).await.unwrap(), 1);
    sqlx::raw_sql("SELECT 1").execute(&mut connection).await.unwrap();
    assert_eq!(roles.owner.end_connections_of(&proxy).await.unwrap(), 0);
    assert!(sqlx::raw_sql("SELECT 1").execute(&mut connection).await.is_err());
    webui.ping().await.unwrap();
}

#[tokio::test]
async fn right_to_create_users_is_asked_for() {
    let roles = Roles::new("right").await;
    roles.owner.require_may_create_users().await.unwrap();
    let refused = roles.open(DatabaseRole::Webui).await.require_may_create_users().await;
    assert!(matches!(refused, Err(StoreError::MayNotCreateUsers(_))));
}

#[tokio::test]
async fn sqlite_has_no_users() {
    let store = TestDb::sqlite().open().await;
    let error = store.set_up_role_users(&[], Password::Keep).await.unwrap_err();
    assert!(matches!(error, StoreError::Unsupported(_)));
    assert!(error.to_string().contains("SQLite has no users"), "{error}");
}
