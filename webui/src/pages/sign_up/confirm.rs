//! Sign-up with a link that was sent by mail: the visitor's own, or an operator's invitation, which counts also where sign-up is
//! closed.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use identity::{Email, Password};
use serde::Deserialize;
use store::LinkKind;

use super::create::{NewAccount, SignUpRejection, create, show_first_token};
use crate::http::client_ip::ClientIp;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::{self, FollowedLink, SessionSource, Visitor};
use crate::layout::{Layout, render, set_cookie, set_retry_after};
use crate::pages::links;
use crate::state::AppState;

#[derive(Template)]
#[template(path = "sign_up/confirm.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    email: &'a str,
    password_error: Option<String>,
    form_error: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    password: String,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    visitor: Visitor,
    link: FollowedLink,
) -> Result<Response, PageError> {
    match links::followed(&app, &link, LinkKind::SignUp).await? {
        Some(link) => page(StatusCode::OK, visitor, &link.email, Errors::default()),
        None => links::ended(&visitor),
    }
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    from: SessionSource,
    link: FollowedLink,
    CsrfForm { sender: visitor, fields }: CsrfForm<Visitor, Fields>,
) -> Result<Response, PageError> {
    let Some(link) = links::followed(&app, &link, LinkKind::SignUp).await? else {
        return links::ended(&visitor);
    };
    let Ok(email) = Email::parse(&link.email) else { return links::ended(&visitor) };
    let password = match Password::parse(fields.password) {
        Ok(password) => password,
        Err(error) => {
            let errors = Errors { password: Some(error.to_string()), ..Errors::default() };
            return page(StatusCode::UNPROCESSABLE_ENTITY, visitor, &link.email, errors);
        }
    };
    let new = NewAccount { email: &email, password, link_id: Some(&link.id), client_ip };
    match create(&app, new).await? {
        Ok(created) => {
            let mut response = show_first_token(&app, created, &from, &visitor).await?;
            set_cookie(response.headers_mut(), Some(session::expired_link_cookie(&app)));
            Ok(response)
        }
        Err(SignUpRejection::Denied(denial)) => {
            let (status, message, wait) = denial.tell(&app);
            let errors = Errors { form: Some(message), ..Errors::default() };
            let mut response = page(status, visitor, &link.email, errors)?;
            set_retry_after(response.headers_mut(), wait);
            Ok(response)
        }
        Err(SignUpRejection::Taken | SignUpRejection::LinkEnded) => links::ended(&visitor),
    }
}

/// Error messages.
#[derive(Default)]
struct Errors {
    password: Option<String>,
    form: Option<String>,
}

fn page(status: StatusCode, visitor: Visitor, email: &str, errors: Errors) -> Result<Response, PageError> {
    let page = Page {
        layout: Layout::for_visitor(&visitor),
        csrf_token: &visitor.csrf_token,
        email,
        password_error: errors.password,
        form_error: errors.form,
    };
    let mut response = render(status, &page)?;
    set_cookie(response.headers_mut(), visitor.new_cookie);
    Ok(response)
}
