//! The first page.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::{Frame, Trouble, render};
use crate::session::Visitor;
use crate::web::Web;

#[derive(Template)]
#[template(path = "home.html")]
struct Page<'a> {
    frame: Frame,
    endpoint: &'a str,
}

pub(crate) async fn show(State(web): State<Arc<Web>>, visitor: Visitor) -> Result<Response, Trouble> {
    let endpoint = web.endpoint.to_string();
    render(StatusCode::OK, &Page { frame: Frame::around(&visitor), endpoint: &endpoint })
}
