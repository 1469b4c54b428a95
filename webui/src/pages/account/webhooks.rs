//! Webhooks of the signed-in user: the list, and a form for a new one, whose secret is shown once.

mod change;
mod show;

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use identity::time_text;
use serde::Deserialize;
use store::{DisabledReason, NotificationKind, NotificationKinds, Webhook, now};

pub(crate) use self::change::{delete, disable, edit, enable, rotate, send_again, test};
pub(crate) use self::show::show as show_one;
use super::{PasswordRejection, has_second_factor, verify_current};
use crate::actions::webhooks::{WebhookInput, WebhookInputErrors};
use crate::actions::{self, ActionError, Refusal};
use crate::forms::kinds::{KindBox, KindBoxes, boxes};
use crate::http::client_ip::ClientIp;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::date::day;

const PATH: &str = "/account/webhooks";

#[derive(Template)]
#[template(path = "account/webhooks/list.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    has_webhooks: bool,
    webhooks: Vec<WebhookView>,
    url: &'a str,
    description: &'a str,
    boxes: Vec<KindBox>,
    errors: Errors,
    /// Whether the user has a second factor.
    asks_code: bool,
    /// Id and secret of the one that was just created.
    revealed: Option<(String, String)>,
    /// Whether one was deleted just now.
    deleted: bool,
}

/// A webhook in the list and on its page.
struct WebhookView {
    id: String,
    url: String,
    description: String,
    kinds: String,
    created: String,
    /// `enabled`, `has failed for ...`, or `disabled: ...`.
    state: String,
    is_enabled: bool,
}

/// The form for a webhook, as it was sent. No `Debug`: that would print the password.
#[derive(Default, Deserialize)]
pub(crate) struct Form {
    #[serde(default)]
    url: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    code: String,
    #[serde(flatten)]
    kinds: KindBoxes,
}

/// Error messages by field.
#[derive(Default)]
struct Errors {
    url: Option<String>,
    description: Option<String>,
    kinds: Option<String>,
    password: Option<String>,
    code: Option<String>,
}

/// Of the page that the user comes from.
#[derive(Default, Deserialize)]
pub(crate) struct Params {
    deleted: Option<String>,
}

pub(crate) async fn list(
    State(app): State<Arc<AppState>>,
    me: SignedIn,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(params) = params.unwrap_or_default();
    let view = PageState {
        deleted: params.deleted.is_some(),
        kinds: NotificationKinds::ALL,
        ..PageState::default()
    };
    page(&app, &me, StatusCode::OK, &Form::default(), view).await
}

/// Creates a webhook. It outlives the session and tells what happens to the account, so it takes the password.
pub(crate) async fn create(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    CsrfForm { sender: me, fields: form }: CsrfForm<SignedIn, Form>,
) -> Result<Response, PageError> {
    let kinds = form.kinds.kinds();
    let reject = async |status, errors| {
        page(&app, &me, status, &form, PageState { errors, kinds, ..PageState::default() }).await
    };
    let input = match WebhookInput::parse(&app, &form.url, &form.description, kinds) {
        Ok(input) => input,
        Err(errors) => return reject(StatusCode::UNPROCESSABLE_ENTITY, errors.into()).await,
    };
    let verified = verify_current(&app, &me, client_ip, form.password.clone(), &form.code).await?;
    if let Err(rejection) = verified {
        return Ok(rejection.add_headers(reject(rejection.status(), (&rejection).into()).await?));
    }
    match actions::webhooks::create(&app, &me.user, &input).await {
        Ok(revealed) => {
            let view =
                PageState { revealed: Some(revealed), kinds: NotificationKinds::ALL, ..PageState::default() };
            page(&app, &me, StatusCode::OK, &Form::default(), view).await
        }
        Err(ActionError::Refused(refusal)) => {
            let mut response = reject(refusal.status(), (&refusal).into()).await?;
            refusal.add_to(&mut response);
            Ok(response)
        }
        Err(ActionError::Failed(error)) => Err(error),
    }
}

/// What depends on the request before the page.
#[derive(Default)]
struct PageState {
    errors: Errors,
    kinds: NotificationKinds,
    revealed: Option<(String, String)>,
    deleted: bool,
}

async fn page(
    app: &AppState,
    me: &SignedIn,
    status: StatusCode,
    form: &Form,
    view: PageState,
) -> Result<Response, PageError> {
    let webhooks = app.store.webhooks_of(&me.user.id).await?;
    let page = Page {
        layout: Layout::signed_in(me),
        csrf_token: &me.session.form_token,
        has_webhooks: app.webhooks.is_some(),
        webhooks: webhooks.into_iter().map(WebhookView::new).collect(),
        url: &form.url,
        description: &form.description,
        boxes: boxes(view.kinds),
        errors: view.errors,
        asks_code: has_second_factor(app, &me.user.id).await?,
        revealed: view.revealed,
        deleted: view.deleted,
    };
    render(status, &page)
}

impl WebhookView {
    fn new(webhook: Webhook) -> Self {
        let state = match (webhook.disabled, webhook.failing_since) {
            (Some(DisabledReason::User), _) => "disabled".to_owned(),
            (Some(DisabledReason::Gone), _) => "disabled: its receiver answered 410 (gone)".to_owned(),
            (Some(DisabledReason::Failing), _) => {
                "disabled: every attempt had failed for three days".to_owned()
            }
            (None, Some(since)) => {
                let time = now().since(since).max(Duration::from_secs(1));
                format!("has failed for {}", time_text::duration(time))
            }
            (None, None) => "enabled".to_owned(),
        };
        let kinds = if webhook.kinds == NotificationKinds::ALL {
            "all kinds".to_owned()
        } else {
            let chosen = NotificationKind::CHOICES.into_iter().filter(|kind| webhook.kinds.contains(*kind));
            chosen.map(NotificationKind::label).collect::<Vec<_>>().join("; ")
        };
        Self {
            is_enabled: webhook.disabled.is_none(),
            state,
            kinds,
            created: day(webhook.created_at),
            id: webhook.id,
            url: webhook.url,
            description: webhook.description,
        }
    }
}

impl From<WebhookInputErrors> for Errors {
    fn from(WebhookInputErrors { url, description, kinds }: WebhookInputErrors) -> Self {
        Self { url, description, kinds, ..Self::default() }
    }
}

impl From<&PasswordRejection> for Errors {
    fn from(rejection: &PasswordRejection) -> Self {
        let (password, code) = rejection.messages();
        Self { password, code, ..Self::default() }
    }
}

impl From<&Refusal> for Errors {
    fn from(refusal: &Refusal) -> Self {
        Self { url: Some(refusal.message.clone()), ..Self::default() }
    }
}
