//! Creates a plan and changes one.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use store::{ExistingCaches, OperationError, Plan, StoreError};

use super::OnePlan;
use super::form::{FieldError, PlanFields, TextField};
use crate::http::admin::Admin;
use crate::http::client_ip::ClientIp;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::pages::admin::Tab;
use crate::pages::admin::change::{self, ChangeRejection, Field};
use crate::state::AppState;

#[derive(Template)]
#[template(path = "admin/plans/edit.html")]
struct Page<'a> {
    layout: Layout,
    tab: Tab,
    csrf_token: &'a str,
    /// The plan that is changed; `None` for a new one.
    changed: Option<&'a str>,
    fields: &'a PlanFields,
    texts: Vec<TextField>,
    errors: Vec<FieldError>,
    asks_password: bool,
    refusal: Option<&'a ChangeRejection>,
}

impl Page<'_> {
    /// The message beside a text field.
    fn text_error(&self, name: &str) -> Option<&str> {
        self.errors.iter().find(|(field, _)| *field == name).map(|(_, text)| text.as_str())
    }

    fn error(&self, field: Field) -> Option<&str> {
        self.refusal.filter(|it| it.field == field).map(|it| it.text.as_str())
    }

    fn password_error(&self) -> Option<&str> {
        self.error(Field::Password)
    }

    fn code_error(&self) -> Option<&str> {
        self.error(Field::Code)
    }

    fn form_error(&self) -> Option<&str> {
        self.error(Field::Form)
    }

    fn tick_error(&self) -> Option<&str> {
        self.error(Field::Tick)
    }
}

/// Why a form is shown again.
#[derive(Default)]
struct Sent {
    errors: Vec<FieldError>,
    refusal: Option<ChangeRejection>,
}

impl From<ChangeRejection> for Sent {
    fn from(refusal: ChangeRejection) -> Self {
        Self { refusal: Some(refusal), ..Self::default() }
    }
}

/// The form of a new plan, with the limits of the default plan.
pub(crate) async fn ask_new(State(app): State<Arc<AppState>>, admin: Admin) -> Result<Response, PageError> {
    let default = app.store.plan(store::DEFAULT_PLAN).await?;
    let fields = default.as_ref().map_or_else(PlanFields::default, PlanFields::of).named(String::new());
    page(&app, &admin, None, &fields, Sent::default())
}

pub(crate) async fn ask(
    State(app): State<Arc<AppState>>,
    OnePlan { admin, plan }: OnePlan,
) -> Result<Response, PageError> {
    page(&app, &admin, Some(&plan.name), &PlanFields::of(&plan), Sent::default())
}

pub(crate) async fn create(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    CsrfForm { sender: admin, fields }: CsrfForm<Admin, PlanFields>,
) -> Result<Response, PageError> {
    let plan = match fields.plan() {
        Ok(plan) => plan,
        Err(errors) => return page(&app, &admin, None, &fields, Sent { errors, refusal: None }),
    };
    if let Err(refusal) =
        change::allow(&app, &admin, client_ip, (&fields.password, &fields.code), false).await?
    {
        return page(&app, &admin, None, &fields, refusal.into());
    }
    let errors = match admin.store(&app).create_plan(&plan).await {
        Ok(()) => return Ok(Redirect::to("/admin/plans?done=created").into_response()),
        Err(StoreError::AlreadyExists(_)) => {
            vec![("name", "There is a plan of this name. Choose another.".into())]
        }
        Err(StoreError::Operation(error)) => vec![too_small(&error)],
        Err(error) => return Err(error.into()),
    };
    page(&app, &admin, None, &fields, Sent { errors, refusal: None })
}

pub(crate) async fn update(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    CsrfForm { sender: one, fields }: CsrfForm<OnePlan, PlanFields>,
) -> Result<Response, PageError> {
    let OnePlan { admin, plan } = one;
    let fields = fields.named(plan.name);
    let changed = match fields.plan() {
        Ok(changed) => changed,
        Err(errors) => {
            return page(&app, &admin, Some(&fields.name), &fields, Sent { errors, refusal: None });
        }
    };
    if let Err(refusal) =
        change::allow(&app, &admin, client_ip, (&fields.password, &fields.code), false).await?
    {
        return page(&app, &admin, Some(&fields.name), &fields, refusal.into());
    }
    let existing = match (&fields.new_caches_only, &fields.tick) {
        (Some(_), _) => ExistingCaches::Keep,
        (None, Some(_)) => ExistingCaches::ResizeAndEvict,
        (None, None) => ExistingCaches::Resize,
    };
    match perform(&app, &admin, existing, changed).await? {
        Ok(()) => Ok(Redirect::to("/admin/plans?done=updated").into_response()),
        Err(sent) => page(&app, &admin, Some(&fields.name), &fields, sent),
    }
}

async fn perform(
    app: &AppState,
    admin: &Admin,
    existing: ExistingCaches,
    changed: Plan,
) -> Result<Result<(), Sent>, PageError> {
    let name = changed.name.clone();
    let conflict = |text: String| ChangeRejection::new(StatusCode::CONFLICT, Field::Tick, text).into();
    match admin.store(app).update_plan_and(&name, existing, move |plan| *plan = changed).await {
        Ok(_) => Ok(Ok(())),
        Err(StoreError::PlanHolds { caches, memory_mb, most_mb }) => Ok(Err(conflict(format!(
            "Caches that hold more than {memory_mb} MB now: {caches}. Give the plan {most_mb} MB or more, let their \
             oldest items go, or leave existing caches as they are."
        )))),
        Err(StoreError::PlanEmpties { caches }) => Ok(Err(conflict(format!(
            "Warm caches that this would empty: {caches}. Let their items go, or leave existing caches as they are."
        )))),
        Err(StoreError::Operation(error)) => Ok(Err(Sent { errors: vec![too_small(&error)], refusal: None })),
        // It was deleted meanwhile.
        Err(StoreError::NotFound(_)) => Err(PageError::NotFound),
        Err(error) => Err(error.into()),
    }
}

/// Why the memory of a plan is refused.
fn too_small(error: &OperationError) -> FieldError {
    let text = match error {
        OperationError::TooSmall { min, item_size_max } => {
            format!("Items of {item_size_max} bytes need at least {min} MB. Give it that or more.")
        }
        other => format!("Not changed: {other}."),
    };
    ("memory_mb", text)
}

/// The form, with what was sent and why that was refused.
fn page(
    app: &AppState,
    admin: &Admin,
    changed: Option<&str>,
    fields: &PlanFields,
    Sent { errors, refusal }: Sent,
) -> Result<Response, PageError> {
    let status = match &refusal {
        Some(refusal) => refusal.status,
        None if errors.is_empty() => StatusCode::OK,
        None => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let page = Page {
        layout: Layout::signed_in(&admin.me),
        tab: Tab::Plans,
        csrf_token: &admin.me.session.form_token,
        changed,
        fields,
        texts: fields.texts(),
        errors,
        asks_password: change::asks_password(app, admin, false),
        refusal: refusal.as_ref(),
    };
    let response = render(status, &page)?;
    Ok(match &refusal {
        Some(refusal) => refusal.add_headers(response),
        None => response,
    })
}
