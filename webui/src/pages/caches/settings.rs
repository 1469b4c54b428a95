//! Settings of a cache: what can be done with it, what each action costs, and whether the contents survive.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use store::{DesiredState, Instance, InstanceState, NewOperation, OperationKind};

use super::{Header, OwnCache, Tab};
use crate::actions::caches::memory_range;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::date::exactly;
use crate::view::operation::{Cost, is_suspended_by_user, is_warm, name};
use crate::view::sleep::SleepForm;

#[derive(Template)]
#[template(path = "caches/settings.html")]
struct Page<'a> {
    layout: Layout,
    header: Header,
    csrf_token: &'a str,
    instance: &'a Instance,
    plan: &'a str,
    min_mb: i64,
    max_mb: i64,
    form: SettingsForm,
    /// What was just asked for.
    requested: Option<&'static str>,
    requested_kind: Option<&'static str>,
    sleep: SleepForm,
    /// After a change of when it sleeps.
    is_saved: bool,
    suspended_by_user: bool,
}

/// What was sent, with an error beside the action that it belongs to.
#[derive(Default)]
pub(super) struct SettingsForm {
    /// Why the time of sleep that was sent can't be used.
    pub(super) sleep_error: Option<String>,
    /// The size as it was typed.
    pub(super) memory_mb: Option<String>,
    pub(super) error: Option<(OperationKind, String)>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    /// The kind of the operation that was just asked for.
    requested: Option<String>,
    /// After a change of when it sleeps.
    saved: Option<String>,
}

/// What the page shows of the request before it: what was done, or what was sent and isn't accepted.
#[derive(Default)]
pub(super) struct PageState<'a> {
    pub(super) requested: Option<&'a str>,
    pub(super) is_saved: bool,
    pub(super) form: SettingsForm,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    own: OwnCache,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(params) = params.unwrap_or_default();
    let view = PageState {
        requested: params.requested.as_deref(),
        is_saved: params.saved.is_some(),
        form: SettingsForm::default(),
    };
    page(&app, &own, StatusCode::OK, view).await
}

pub(super) async fn page(
    app: &AppState,
    own: &OwnCache,
    status: StatusCode,
    view: PageState<'_>,
) -> Result<Response, PageError> {
    let header = Header::new(app, own, Tab::Settings).await?;
    let (min_mb, max_mb) = memory_range(app, &own.cache, &own.instance).await?;
    let plan = app.store.plan(&own.cache.plan).await?;
    // Told until it has ended: then the header tells how.
    let open = header.state.operation.as_ref().map(|operation| operation.kind);
    let requested = view.requested;
    let requested = KINDS.into_iter().find(|kind| requested == Some(kind.as_str()) && open == requested);
    let page = Page {
        layout: Layout::signed_in(&own.me),
        suspended_by_user: is_suspended_by_user(&header.operations, &own.me.user.id),
        header,
        csrf_token: &own.me.session.form_token,
        instance: &own.instance,
        plan: &own.cache.plan,
        min_mb,
        max_mb,
        form: view.form,
        requested: requested.map(name),
        requested_kind: requested.map(OperationKind::as_str),
        sleep: SleepForm::new(own.cache.sleep_after_seconds, plan.and_then(|plan| plan.sleep_after_seconds)),
        is_saved: view.is_saved,
    };
    render(status, &page)
}

const KINDS: [OperationKind; 5] = [
    OperationKind::Restart,
    OperationKind::Flush,
    OperationKind::Resize,
    OperationKind::Suspend,
    OperationKind::Resume,
];

impl Page<'_> {
    /// Whether it is suspended, or is to be.
    fn is_suspended(&self) -> bool {
        self.instance.desired == DesiredState::Suspended
    }

    fn is_warm(&self) -> bool {
        is_warm(self.instance, self.instance.memory_mb)
    }

    fn restart(&self) -> Cost {
        Cost::of(NewOperation::Restart, self.instance)
    }

    fn flush(&self) -> Cost {
        Cost::of(NewOperation::Flush, self.instance)
    }

    fn suspend(&self) -> Cost {
        Cost::of(NewOperation::Suspend, self.instance)
    }

    fn resume(&self) -> Cost {
        Cost::of(NewOperation::Resume, self.instance)
    }

    /// What more and less memory costs, as far as they are allowed.
    fn resizes(&self) -> Vec<(&'static str, Cost)> {
        let (has, cost) = (self.instance.memory_mb, |memory_mb| {
            Cost::of(NewOperation::Resize { memory_mb }, self.instance)
        });
        let more = (self.max_mb > has).then(|| ("More memory", cost(self.max_mb)));
        let less = (self.min_mb < has).then(|| ("Less memory", cost(self.min_mb)));
        more.into_iter().chain(less).collect()
    }

    /// Why it can't be restarted now.
    fn no_restart(&self) -> Option<&'static str> {
        match self.instance.state() {
            _ if self.is_suspended() => Some("Not while it is suspended."),
            InstanceState::Pending => Some("Not before it has started."),
            _ => None,
        }
    }

    /// Why its user can't resume it now.
    fn no_resume(&self) -> Option<&'static str> {
        match (self.header.user_suspended, self.suspended_by_user) {
            (true, _) => Some("Not while your account is suspended."),
            (false, false) => Some("The operator has suspended it: ask the operator."),
            (false, true) => None,
        }
    }

    /// Why it can't be flushed now.
    fn no_flush(&self) -> Option<&'static str> {
        match self.instance.state() {
            _ if self.is_suspended() => Some("Not while it is suspended."),
            InstanceState::Running | InstanceState::Asleep => None,
            _ => Some("Not before it runs."),
        }
    }

    fn sleep_after(&self) -> Option<String> {
        self.instance.effective_sleep_after_seconds.map(exactly)
    }

    fn memory_typed(&self) -> String {
        self.form.memory_mb.clone().unwrap_or_else(|| self.instance.memory_mb.to_string())
    }

    fn error(&self, kind: &str) -> Option<&str> {
        let (of, error) = self.form.error.as_ref()?;
        (of.as_str() == kind).then_some(error.as_str())
    }
}
