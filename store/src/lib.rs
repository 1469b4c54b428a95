//! The state that all roles share: desired and observed. Only this crate uses sqlx.
//!
//! One SQL text serves SQLite and PostgreSQL. Each statement is one function; each column has one writer
//! (see `migrations/`). This crate never connects to memcached or Docker and never logs a secret.

mod account;
mod account_link;
mod account_mail;
mod address;
mod api_key;
mod api_request;
mod audit;
mod cache;
mod certificate;
mod connections;
mod copy;
mod database_role;
mod db;
mod denials;
mod detection;
mod error;
mod fan_out;
mod feed;
mod grant;
mod host_capacity;
mod id;
mod image_upgrade;
mod inspection;
mod installation;
mod instance;
mod instance_event;
mod instance_networks;
mod instance_statistics;
mod isolation_check;
mod keys;
mod lane_credential;
mod latency_quantile;
mod leader;
mod leak;
mod mail;
mod notification;
mod operation;
mod operation_error;
mod plan;
mod plan_change;
pub mod private_file;
mod proxy;
#[cfg(test)]
mod query_plans;
mod ready_instance;
mod reserved_memory;
mod restored;
mod route;
mod rows;
mod second_factor;
mod session;
mod time;
mod token;
mod token_uses;
mod tokens;
mod usage;
mod usage_hours;
mod user;
mod wake;
mod webhook;
mod webhook_delivery;
mod write_counts;
mod write_health;

pub use account::{NewPassword, UserChange};
pub use account_link::{AccountLink, LinkKind};
pub use address::{Lease, NETWORK_PREFIX, Network};
pub use api_key::{
    ApiKey, ApiKeyId, ApiKeyRow, ApiScope, ApiScopes, NewApiKey, ParseApiKeyError, ParseApiScopesError,
};
pub use api_request::{ApiRequest, ApiRequestState};
pub use audit::{AuditChain, AuditEntry, AuditError, AuditFilter, AuditPage, NamedEntry};
pub use cache::{CREATED_MAX, Cache, CacheName, ListedCache, NewCache, ParseCacheNameError};
pub use certificate::{CertificateRow, Fingerprint, ParseFingerprintError};
pub use connections::{ConnectionId, ListRequest, LiveConnection, LiveConnections, ParseConnectionIdError};
pub use copy::CopyProgress;
pub use database_role::{DatabaseRole, Password, RoleUser, postgres_tables};
pub use db::{Database, LockWait, PoolUse, Store, StoreOptions, sqlite_file};
pub use denials::{DenialCause, DenialRecord, DenialTotal, UserDenial};
pub use detection::{Detected, DetectedSource};
pub use error::StoreError;
pub use feed::{Changes, Feed};
pub use grant::Grant;
pub use host_capacity::{HostCapacity, HostMemory};
pub use image_upgrade::{ImageUpgrade, UPGRADE_PARALLEL_MAX, UpgradeProgress, UpgradeState, UpgradeWanted};
pub use inspection::ClockDeviation;
pub use installation::{KeyFingerprints, new_installation_id};
pub use instance::{DesiredState, Instance, InstanceMemory, InstanceState};
pub use instance_event::{EventAction, EventCause, InstanceEvent, NewInstanceEvent};
pub use instance_networks::{InstanceNetworks, ParseInstanceNetworksError};
pub use instance_statistics::{
    InstanceStatistics, SlabClass, StatisticsCounters, StatisticsGauges, StatisticsInterval,
    StatisticsResolution, StatisticsSample, hits_per_thousand, merge_intervals, tenths_per_second,
};
pub use isolation_check::{CheckResult, IsolationCheck, IsolationFailure, IsolationSummary};
pub use keys::{KeyError, KeyFingerprint, LaneKey, TokenKey};
pub use lane_credential::LaneCredential;
pub use latency_quantile::latency_quantile_us;
pub use leader::LeaderLock;
pub use leak::{Leak, LeakReport};
pub use mail::{ClaimedMail, MailKind, MailLimits, MailOutcome, NewMail};
pub use notification::{
    NOTIFICATIONS_PER_USER_MAX, Notification, NotificationKind, NotificationKinds,
    ParseNotificationKindsError,
};
pub use operation::{
    NewOperation, OpenOperation, Operation, OperationKind, OperationProgress, OperationState, RESIZE_MB_MAX,
    RESIZE_MB_MIN,
};
pub use operation_error::OperationError;
pub use plan::{CPU_WEIGHT_DEFAULT, CPU_WEIGHTS, DEFAULT_PLAN, Plan, WARM_MB_MIN};
pub use plan_change::{ExistingCaches, PlanUpdate};
pub use proxy::{Propagation, Proxy};
pub use ready_instance::ReadyInstance;
pub use reserved_memory::{MemoryChanges, MeteredMemory, ReservedMemory};
pub use route::{Observed, Route};
pub use second_factor::{CodeProof, PendingSignIn, SecondFactor};
pub use session::{NewSession, Session, SessionRow};
pub use time::{ParseDurationError, Timestamp, now, parse_duration};
pub use token::{
    Cidr, KeyPrefix, NetworkLimitError, ParseCidrError, ParseKeyPrefixError, ParseScopesError,
    ParseTokenError, Permissions, Scope, Scopes, ScramKeys, Token, TokenId, TokenSecret, Verifier,
};
pub use token_uses::TokenUse;
pub use tokens::{ListedTokens, NewToken, TokenChange, TokenRow};
pub use usage::{InstanceUsage, Usage, UsageBatch, UsageReport, UsageReporterId};
pub use usage_hours::{UsageHour, UsageSpan};
pub use user::{NewUser, SignUpRoom, User, UserFigures, UserFilter, UserState};
pub use webhook::{
    ClaimedDelivery, DeliveryOutcome, DisabledReason, Finished, WEBHOOKS_PER_USER_MAX, Webhook, WebhookFields,
};
pub use webhook_delivery::{DeliveryState, WebhookDelivery};
pub use write_counts::WriteCounts;
pub use write_health::{WriteFailure, WriteHealth};
