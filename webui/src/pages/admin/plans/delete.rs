//! Deletes a plan that no user and no cache has.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use store::StoreError;

use super::OnePlan;
use crate::http::client_ip::ClientIp;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::pages::admin::Tab;
use crate::pages::admin::change::{self, Answer, ChangeRejection, Field, Question};
use crate::state::AppState;

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    password: String,
    #[serde(default)]
    code: String,
}

pub(crate) async fn ask(State(app): State<Arc<AppState>>, one: OnePlan) -> Result<Response, PageError> {
    let refusal = refusal(&app, &one).await?;
    let nothing = Answer::default();
    let sent = refusal.as_ref().map(|refusal| (&nothing, refusal));
    change::page(&app, &one.admin, Tab::Plans, &question(&one), sent)
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    CsrfForm { sender: one, fields: Fields { password, code } }: CsrfForm<OnePlan, Fields>,
) -> Result<Response, PageError> {
    let refusal = match refusal(&app, &one).await? {
        Some(refusal) => refusal,
        None => match change::allow(&app, &one.admin, client_ip, (&password, &code), false).await? {
            Err(refusal) => refusal,
            Ok(()) => match one.admin.store(&app).delete_plan(&one.plan.name).await {
                Ok(()) => return Ok(Redirect::to("/admin/plans?done=deleted").into_response()),
                Err(StoreError::InUse(_)) => in_use(),
                // It was deleted meanwhile.
                Err(StoreError::NotFound(_)) => return Err(PageError::NotFound),
                Err(error) => return Err(error.into()),
            },
        },
    };
    change::page(&app, &one.admin, Tab::Plans, &question(&one), Some((&Answer::default(), &refusal)))
}

/// Why the plan can't be deleted.
async fn refusal(app: &AppState, one: &OnePlan) -> Result<Option<ChangeRejection>, PageError> {
    let name = &one.plan.name;
    let conflict = |text: &str| Some(ChangeRejection::new(StatusCode::CONFLICT, Field::Form, text));
    if name == store::DEFAULT_PLAN {
        return Ok(conflict(
            "The default plan can’t be deleted: new plans start from it. Change it instead.",
        ));
    }
    if *name == app.config.plan {
        return Ok(conflict("New users get this plan. Let an operator set webui.plan to another one first."));
    }
    Ok(if app.store.plan_uses(name).await? > 0 { Some(in_use()) } else { None })
}

fn in_use() -> ChangeRejection {
    let text = "Users or caches have this plan. Give the users another one first.";
    ChangeRejection::new(StatusCode::CONFLICT, Field::Form, text)
}

fn question(one: &OnePlan) -> Question {
    let name = &one.plan.name;
    Question {
        title: "Delete this plan?".to_owned(),
        subject: name.clone(),
        button: "Delete plan".to_owned(),
        is_destructive: true,
        path: format!("{}/{name}/delete", Tab::Plans.path()),
        back: Tab::Plans.path().to_owned(),
        ..Question::default()
    }
}
