//! What an administrator does to an account: `/admin/users/{user}/{action}` asks first, and does it by POST. Administrators
//! are left to operators' commands: by the web UI none of them is suspended or deleted, or gets another password.

mod password;

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use store::{StoreError, User, UserChange, UserState};

use super::OneUser;
use crate::http::admin::Admin;
use crate::http::client_ip::ClientIp;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::pages::admin::change::{self, Answer, ChangeRejection, Field, Question};
use crate::pages::admin::{Tab, plans, search_text, user_path};
use crate::state::AppState;

const NO_PLAN: &str = "There is no such plan any more. Choose another.";

/// Something that is done to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UserAction {
    Plan,
    Suspend,
    Resume,
    EndSessions,
    ResetPassword,
    Delete,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    password: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    typed: String,
    #[serde(default)]
    plan: String,
    tick: Option<String>,
}

impl UserAction {
    const ALL: [Self; 6] =
        [Self::Plan, Self::Suspend, Self::Resume, Self::EndSessions, Self::ResetPassword, Self::Delete];

    /// The last part of its address.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::EndSessions => "end-sessions",
            Self::ResetPassword => "reset-password",
            Self::Delete => "delete",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// As a button.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Plan => "Change plan",
            Self::Suspend => "Suspend",
            Self::Resume => "Resume",
            Self::EndSessions => "End all sessions",
            Self::ResetPassword => "Reset password",
            Self::Delete => "Delete account",
        }
    }

    /// What the user's page says afterwards.
    pub(super) fn done(self) -> &'static str {
        match self {
            Self::Plan => "The plan is changed.",
            Self::Suspend => "The user is suspended, and all connections close within a second.",
            Self::Resume => "The user is resumed, and the caches start.",
            Self::EndSessions => "The user is signed out everywhere.",
            Self::ResetPassword => "The user has another password.",
            Self::Delete => "The account is deleted.",
        }
    }

    pub(super) fn is_destructive(self) -> bool {
        matches!(self, Self::Suspend | Self::Delete)
    }

    /// Asks for the administrator's password each time: it gives somebody else's account away, or ends it.
    fn always_asks(self) -> bool {
        matches!(self, Self::ResetPassword | Self::Delete)
    }

    /// Those that are offered for a user.
    pub(super) fn of(admin: &Admin, user: &User) -> Vec<Self> {
        Self::ALL.into_iter().filter(|it| it.refusal(admin, user).is_none()).collect()
    }

    /// Why it can't be done to a user.
    fn refusal(self, admin: &Admin, user: &User) -> Option<&'static str> {
        let is_suspended = user.state == UserState::Suspended;
        match self {
            Self::Plan if user.id == admin.me.user.id => None,
            _ if user.is_admin && user.id != admin.me.user.id => Some(
                "This user is an administrator. Let an operator take that away first (memgate user update --admin no).",
            ),
            Self::Plan => None,
            Self::Suspend if is_suspended => Some("This user is suspended already."),
            Self::Resume if !is_suspended => Some("This user isn’t suspended."),
            Self::Resume => None,
            _ if user.id == admin.me.user.id => {
                Some("This is your own account. Change it on the page Account, or let an operator do it.")
            }
            _ => None,
        }
    }
}

pub(crate) async fn ask(State(app): State<Arc<AppState>>, one: OneUser) -> Result<Response, PageError> {
    let action = one.action.as_deref().and_then(UserAction::parse).ok_or(PageError::NotFound)?;
    let question = question(&app, action, &one.user).await?;
    if let Some(why) = action.refusal(&one.admin, &one.user) {
        let refusal = ChangeRejection::new(StatusCode::CONFLICT, Field::Form, why);
        return change::page(&app, &one.admin, Tab::Users, &question, Some((&Answer::default(), &refusal)));
    }
    change::page(&app, &one.admin, Tab::Users, &question, None)
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    CsrfForm { sender: one, fields }: CsrfForm<OneUser, Fields>,
) -> Result<Response, PageError> {
    let action = one.action.as_deref().and_then(UserAction::parse).ok_or(PageError::NotFound)?;
    let Fields { password, code, typed, plan, tick } = fields;
    let answer = Answer { password, code, typed, plan, is_ticked: tick.is_some() };
    let OneUser { admin, user, .. } = &one;
    let refusal = match check(action, admin, user, &answer) {
        Some(refusal) => Some(refusal),
        None => change::allow(&app, admin, client_ip, (&answer.password, &answer.code), action.always_asks())
            .await?
            .err(),
    };
    let refusal = match refusal {
        Some(refusal) => refusal,
        None if action == UserAction::ResetPassword => {
            return password::reset(&app, &one, client_ip, answer.is_ticked).await;
        }
        None => match perform(&app, action, &one, &answer).await? {
            Ok(path) => return Ok(Redirect::to(&path).into_response()),
            Err(refusal) => refusal,
        },
    };
    let question = question(&app, action, user).await?;
    change::page(&app, admin, Tab::Users, &question, Some((&answer, &refusal)))
}

/// Why a form is refused before the password is looked at.
fn check(action: UserAction, admin: &Admin, user: &User, answer: &Answer) -> Option<ChangeRejection> {
    if let Some(why) = action.refusal(admin, user) {
        return Some(ChangeRejection::new(StatusCode::CONFLICT, Field::Form, why));
    }
    if action == UserAction::Plan && search_text(&answer.plan).is_err() {
        return Some(ChangeRejection::new(StatusCode::UNPROCESSABLE_ENTITY, Field::Plan, NO_PLAN));
    }
    let is_other = action == UserAction::Delete && answer.typed.trim() != user.email;
    is_other.then(|| {
        let text = "This isn’t the account’s e-mail address. Type it as it is shown.";
        ChangeRejection::new(StatusCode::UNPROCESSABLE_ENTITY, Field::Typed, text)
    })
}

/// Does it. Returns where that leads, or why it wasn't done.
async fn perform(
    app: &AppState,
    action: UserAction,
    OneUser { admin, user, .. }: &OneUser,
    answer: &Answer,
) -> Result<Result<String, ChangeRejection>, PageError> {
    let (store, id) = (admin.store(app), user.id.as_str());
    let done = match action {
        UserAction::Plan => {
            let change = UserChange { plan: Some(&answer.plan), is_admin: None, may_empty: answer.is_ticked };
            store.update_user(id, &change).await
        }
        UserAction::Suspend => store.set_user_state(id, UserState::Suspended).await,
        UserAction::Resume => store.set_user_state(id, UserState::Active).await,
        UserAction::EndSessions => store.end_sessions_of(id).await.map(drop),
        UserAction::Delete => store.delete_user(id).await,
        UserAction::ResetPassword => Ok(()),
    };
    match done {
        Ok(()) if action == UserAction::Delete => Ok(Ok(format!("{}?deleted", Tab::Users.path()))),
        Ok(()) => Ok(Ok(format!("{}?done={}", user_path(id), action.name()))),
        Err(error) => refused(error).map(Err),
    }
}

/// Why the store has refused a change.
///
/// # Errors
///
/// If it isn't for anything that was sent.
fn refused(error: StoreError) -> Result<ChangeRejection, PageError> {
    match error {
        StoreError::NotFound("plan") => {
            Ok(ChangeRejection::new(StatusCode::UNPROCESSABLE_ENTITY, Field::Plan, NO_PLAN))
        }
        StoreError::PlanEmpties { caches } => {
            let text = format!(
                "This plan empties warm caches of the user: {caches} of them. Tick this to let their items go, or \
                 choose a warm plan with more memory."
            );
            Ok(ChangeRejection::new(StatusCode::CONFLICT, Field::Tick, text))
        }
        StoreError::Operation(error) => {
            Ok(ChangeRejection::new(StatusCode::CONFLICT, Field::Plan, format!("Not changed: {error}.")))
        }
        // The account was deleted meanwhile.
        StoreError::NotFound(_) => Err(PageError::NotFound),
        error => Err(error.into()),
    }
}

async fn question(app: &AppState, action: UserAction, user: &User) -> Result<Question, PageError> {
    let (details, lost, button): (&[&str], &str, &str) = match action {
        UserAction::Plan => (
            &[
                "Caches with the user’s plan get the new one, and so do caches that are created later. New rates apply \
                 within a second, new memory without a restart; warm caches restart.",
                "Connections and item size of a cache stay until it is created again.",
            ],
            "",
            "Change plan",
        ),
        UserAction::Suspend => (
            &["Tokens and API keys are refused, connections close within a second, and all caches stop."],
            "All contents are lost.",
            "Suspend user",
        ),
        UserAction::Resume => (
            &["The user’s caches start, empty. Those that were suspended themselves stay so."],
            "",
            "Resume user",
        ),
        UserAction::EndSessions => (
            &["The user is signed out of the web UI in all browsers. Applications stay connected."],
            "",
            "End all sessions",
        ),
        UserAction::ResetPassword => (
            &[
                "The user gets a random password, which is shown once: pass it on over a way that you trust. The old \
                 one stops working, and the user is signed out everywhere.",
                "Make sure that it is the user who asks you for this.",
            ],
            "",
            "Reset password",
        ),
        UserAction::Delete => (
            &["The account, all caches and all tokens are deleted. The address is free at once."],
            "All contents are lost. This can’t be undone.",
            "Delete account",
        ),
    };
    Ok(Question {
        title: format!("{}?", action.title()),
        subject: user.email.clone(),
        details: details.iter().map(|&detail| detail.to_owned()).collect(),
        lost: lost.to_owned(),
        button: button.to_owned(),
        is_destructive: action.is_destructive(),
        path: format!("{}/{}", user_path(&user.id), action.name()),
        back: user_path(&user.id),
        to_type: (action == UserAction::Delete).then(|| user.email.clone()),
        plans: if action == UserAction::Plan { plans::names(app).await? } else { Vec::new() },
        plan: user.plan.clone(),
        tick: match action {
            UserAction::Plan => Some("Empty warm caches that can’t keep their items"),
            UserAction::ResetPassword => Some("Also revoke all tokens and API keys of the user"),
            _ => None,
        },
        always_asks: action.always_asks(),
    })
}
