//! What an administrator does for others: a page that asks first, the password, and a limit.

use std::time::Duration;

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use super::Tab;
use crate::http::admin::Admin;
use crate::http::client_ip::ClientIp;
use crate::http::reject::PageError;
use crate::layout::{Layout, render, set_retry_after};
use crate::pages::account::{self, PasswordRejection};
use crate::state::AppState;
use crate::view::date::retry_in;

/// What the page asks.
#[derive(Debug, Default)]
pub(super) struct Question {
    pub(super) title: String,
    /// What it is about: an e-mail address, or a cache and one.
    pub(super) subject: String,
    pub(super) details: Vec<String>,
    /// What is lost; empty if nothing is.
    pub(super) lost: String,
    pub(super) button: String,
    pub(super) is_destructive: bool,
    /// Where the form goes, and where Cancel leads.
    pub(super) path: String,
    pub(super) back: String,
    /// What has to be typed.
    pub(super) to_type: Option<String>,
    /// Plans to choose from, and the one that is chosen now.
    pub(super) plans: Vec<String>,
    pub(super) plan: String,
    /// The label of a box to tick.
    pub(super) tick: Option<&'static str>,
    /// Asks for the password, however short a time ago it was entered.
    pub(super) always_asks: bool,
}

/// The form as it was sent.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) password: String,
    pub(super) code: String,
    pub(super) typed: String,
    pub(super) plan: String,
    pub(super) is_ticked: bool,
}

/// A field of the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Password,
    Code,
    Typed,
    Plan,
    Tick,
    /// The whole form.
    Form,
}

/// Why nothing was done.
#[derive(Debug)]
pub(super) struct ChangeRejection {
    pub(super) status: StatusCode,
    pub(super) field: Field,
    pub(super) text: String,
    pub(super) wait: Option<Duration>,
}

impl ChangeRejection {
    pub(super) fn new(status: StatusCode, field: Field, text: impl Into<String>) -> Self {
        Self { status, field, text: text.into(), wait: None }
    }

    /// Sets the headers of a response with this refusal.
    pub(super) fn add_headers(&self, mut response: Response) -> Response {
        if let Some(wait) = self.wait {
            set_retry_after(response.headers_mut(), wait);
        }
        response
    }
}

#[derive(Template)]
#[template(path = "admin/question.html")]
struct Page<'a> {
    layout: Layout,
    tab: Tab,
    csrf_token: &'a str,
    question: &'a Question,
    answer: &'a Answer,
    asks_password: bool,
    refusal: Option<&'a ChangeRejection>,
}

impl Page<'_> {
    /// The message beside a field.
    fn error(&self, field: Field) -> Option<&str> {
        self.refusal.filter(|it| it.field == field).map(|it| it.text.as_str())
    }

    fn chosen_plan(&self) -> &str {
        if self.refusal.is_some() { &self.answer.plan } else { &self.question.plan }
    }

    fn password_error(&self) -> Option<&str> {
        self.error(Field::Password)
    }

    fn code_error(&self) -> Option<&str> {
        self.error(Field::Code)
    }
}

/// The page that asks, with what was sent and why that was refused.
pub(super) fn page(
    app: &AppState,
    admin: &Admin,
    tab: Tab,
    question: &Question,
    sent: Option<(&Answer, &ChangeRejection)>,
) -> Result<Response, PageError> {
    let nothing = Answer::default();
    let refusal = sent.map(|(_, refusal)| refusal);
    let page = Page {
        layout: Layout::signed_in(&admin.me),
        tab,
        csrf_token: &admin.me.session.form_token,
        question,
        answer: sent.map_or(&nothing, |(answer, _)| answer),
        asks_password: asks_password(app, admin, question.always_asks),
        refusal,
    };
    let response = render(refusal.map_or(StatusCode::OK, |it| it.status), &page)?;
    Ok(match refusal {
        Some(refusal) => refusal.add_headers(response),
        None => response,
    })
}

/// Whether a form asks for the password.
pub(super) fn asks_password(app: &AppState, admin: &Admin, always: bool) -> bool {
    always || !admin.has_entered_password(app)
}

/// Lets a change through, or says why not: the password and a code of the second factor, if they have to be entered, and the
/// limit of changes.
pub(super) async fn allow(
    app: &AppState,
    admin: &Admin,
    client_ip: ClientIp,
    (password, code): (&str, &str),
    always_asks: bool,
) -> Result<Result<(), ChangeRejection>, PageError> {
    if asks_password(app, admin, always_asks) {
        if password.is_empty() {
            let text = "Enter your own password to confirm this.";
            return Ok(Err(ChangeRejection::new(StatusCode::UNPROCESSABLE_ENTITY, Field::Password, text)));
        }
        let checked = account::verify_current(app, &admin.me, client_ip, password.to_owned(), code).await?;
        if let Err(rejection) = checked {
            let field = match rejection {
                PasswordRejection::WrongCode => Field::Code,
                PasswordRejection::Wrong | PasswordRejection::RateLimited(_) => Field::Password,
            };
            let mut refusal = ChangeRejection::new(rejection.status(), field, rejection.message());
            refusal.wait = rejection.wait();
            return Ok(Err(refusal));
        }
        admin.me.store(app).confirm_session(&admin.me.session).await?;
    }
    let acquired = app.rate_limits.admin_changes.acquire(&admin.me.user.id);
    Ok(acquired.map_err(|wait| {
        app.metrics.count_limited("admin_changes");
        let text = format!("You changed too much in a short time. Try again {}.", retry_in(wait));
        ChangeRejection {
            wait: Some(wait),
            ..ChangeRejection::new(StatusCode::TOO_MANY_REQUESTS, Field::Form, text)
        }
    }))
}
