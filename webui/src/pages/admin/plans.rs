//! Plans: the list of them, and what `memgate plan` does to them, with the same refusals.

pub(super) mod delete;
pub(super) mod edit;
mod form;
pub(super) mod list;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use identity::{plan_limits, time_text};
use store::Plan;

use crate::http::admin::Admin;
use crate::http::csrf::FormSender;
use crate::http::reject::PageError;
use crate::state::AppState;

/// Plans that pages list.
const LISTED_MAX: usize = 200;

/// Extractor: an administrator, and the plan that the path names.
#[derive(Debug)]
pub(crate) struct OnePlan {
    admin: Admin,
    plan: Plan,
}

impl FromRequestParts<Arc<AppState>> for OnePlan {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, PageError> {
        let admin = Admin::from_request_parts(parts, app).await?;
        let Path(name) =
            Path::<String>::from_request_parts(parts, app).await.map_err(|_| PageError::NotFound)?;
        let name = plan_limits::parse_name(&name).map_err(|_| PageError::NotFound)?;
        let plan = app.store.plan(&name).await?.ok_or(PageError::NotFound)?;
        Ok(Self { admin, plan })
    }
}

impl FormSender for OnePlan {
    fn csrf_token(&self) -> &str {
        self.admin.csrf_token()
    }
}

/// The names of the plans to choose from.
///
/// # Errors
///
/// If the store fails.
pub(super) async fn names(app: &AppState) -> Result<Vec<String>, PageError> {
    let plans = app.store.plans().await?;
    Ok(plans.into_iter().take(LISTED_MAX).map(|plan| plan.name).collect())
}

/// After which time a cache is put to sleep, as pages show it.
fn sleep_text(seconds: Option<i64>) -> String {
    let time = |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    seconds.map_or_else(|| "never".to_owned(), |seconds| time_text::duration(time(seconds)))
}
