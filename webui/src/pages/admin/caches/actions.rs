//! What an administrator asks of a cache, as an operator does with `memgate cache`: its owner can't resume what was
//! suspended here.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use store::{DesiredState, Instance, NewOperation, StoreError};

use super::OneCache;
use crate::http::client_ip::ClientIp;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::pages::admin::change::{self, Answer, ChangeRejection, Field, Question};
use crate::pages::admin::{Tab, cache_path};
use crate::state::AppState;
use crate::view::operation::Cost;

/// Something that is asked of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CacheAction {
    Restart,
    Flush,
    Suspend,
    Resume,
}

const OF_OTHER_ADMIN: &str = "This cache is another administrator’s. Let an operator do it (memgate cache).";

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    password: String,
    #[serde(default)]
    code: String,
}

impl CacheAction {
    const ALL: [Self; 4] = [Self::Restart, Self::Flush, Self::Suspend, Self::Resume];

    fn operation(self) -> NewOperation {
        match self {
            Self::Restart => NewOperation::Restart,
            Self::Flush => NewOperation::Flush,
            Self::Suspend => NewOperation::Suspend,
            Self::Resume => NewOperation::Resume,
        }
    }

    /// The last part of its address.
    pub(super) fn name(self) -> &'static str {
        self.operation().kind().as_str()
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// As a button.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Restart => "Restart",
            Self::Flush => "Flush",
            Self::Suspend => "Suspend",
            Self::Resume => "Resume",
        }
    }

    /// What the cache's page says afterwards.
    pub(super) fn requested(self) -> &'static str {
        match self {
            Self::Restart => "Restart requested.",
            Self::Flush => "Flush requested.",
            Self::Suspend => "Suspension requested: the owner can’t resume the cache.",
            Self::Resume => "Resumption requested.",
        }
    }

    /// Those that are offered for an instance.
    pub(super) fn of(instance: &Instance) -> Vec<Self> {
        match instance.desired {
            DesiredState::Running => vec![Self::Restart, Self::Flush, Self::Suspend],
            // One that its owner has suspended is suspended by an operator afterwards.
            DesiredState::Suspended => vec![Self::Suspend, Self::Resume],
            DesiredState::Deleting => Vec::new(),
        }
    }
}

pub(crate) async fn ask(State(app): State<Arc<AppState>>, one: OneCache) -> Result<Response, PageError> {
    let action = one.action.as_deref().and_then(CacheAction::parse).ok_or(PageError::NotFound)?;
    change::page(&app, &one.admin, Tab::Caches, &question(action, &one), None)
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    CsrfForm { sender: one, fields: Fields { password, code } }: CsrfForm<OneCache, Fields>,
) -> Result<Response, PageError> {
    let action = one.action.as_deref().and_then(CacheAction::parse).ok_or(PageError::NotFound)?;
    let is_of_other_admin = one.owner.is_admin && one.owner.id != one.admin.me.user.id;
    let allowed = if is_of_other_admin {
        Err(ChangeRejection::new(StatusCode::CONFLICT, Field::Form, OF_OTHER_ADMIN))
    } else {
        change::allow(&app, &one.admin, client_ip, (&password, &code), false).await?
    };
    let refusal = match allowed {
        Err(refusal) => refusal,
        Ok(()) => {
            match one.admin.store(&app).request_operation(&one.cache.id, action.operation()).await {
                Ok(_) => {
                    let path = format!("{}?requested={}", cache_path(&one.cache.id), action.name());
                    return Ok(Redirect::to(&path).into_response());
                }
                Err(StoreError::Operation(error)) => {
                    ChangeRejection::new(StatusCode::CONFLICT, Field::Form, format!("Not done: {error}."))
                }
                // The cache was deleted meanwhile.
                Err(StoreError::NotFound(_)) => return Err(PageError::NotFound),
                Err(error) => return Err(error.into()),
            }
        }
    };
    let sent = Some((&Answer::default(), &refusal));
    change::page(&app, &one.admin, Tab::Caches, &question(action, &one), sent)
}

fn question(action: CacheAction, one: &OneCache) -> Question {
    let cost = Cost::of(action.operation(), &one.instance);
    let mut details = vec![cost.text.to_owned()];
    if action == CacheAction::Suspend {
        details.push("The owner can’t resume it: only an administrator or an operator can.".to_owned());
    }
    Question {
        title: format!("{} this cache?", action.title()),
        subject: format!("{} of {}", one.cache.name, one.owner.email),
        details,
        lost: cost.contents.to_owned(),
        button: action.title().to_owned(),
        is_destructive: cost.is_destructive,
        path: format!("{}/{}", cache_path(&one.cache.id), action.name()),
        back: cache_path(&one.cache.id),
        ..Question::default()
    }
}
