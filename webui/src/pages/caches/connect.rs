//! How to connect: code for each library, with the endpoint filled in. The address says which, and the browser remembers it.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::{Header, OwnCache, Tab};
use crate::http::reject::PageError;
use crate::http::session::{LastSnippet, snippet_cookie};
use crate::layout::{Layout, render, set_cookie};
use crate::state::AppState;
use crate::view::endpoint::Credentials;
use crate::view::snippets::catalogue::{self, Kind};
use crate::view::snippets::{Snippet, Way};

#[derive(Template)]
#[template(path = "caches/connect.html")]
struct Page {
    layout: Layout,
    header: Header,
    endpoint: String,
    has_tls: bool,
    snippet: Snippet,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    /// Id of a snippet.
    with: Option<String>,
}

/// A link to another snippet.
struct Choice {
    title: &'static str,
    path: String,
    is_current: bool,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    own: OwnCache,
    LastSnippet(last): LastSnippet,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let asked = params.map(|Query(params)| params.with).unwrap_or_default();
    let has_tls = app.config.ca_certificate.is_some();
    let credentials = Credentials::placeholders();
    let snippet = |id: &String| Snippet::new(catalogue::find(id)?, &app.endpoint, &credentials, has_tls);
    let chosen = asked.as_ref().and_then(snippet);
    let cookie =
        chosen.as_ref().filter(|it| last.as_deref() != Some(it.id)).map(|it| snippet_cookie(&app, it.id));
    let first = || Snippet::of_each_group(&app.endpoint, &credentials, has_tls).into_iter().next();
    let snippet = chosen.or_else(|| last.as_ref().and_then(snippet)).or_else(first);
    let page = Page {
        layout: Layout::signed_in(&own.me),
        header: Header::new(&app, &own, Tab::Connect).await?,
        endpoint: app.endpoint.to_string(),
        has_tls,
        snippet: snippet.ok_or(PageError::Internal)?,
    };
    let mut response = render(StatusCode::OK, &page)?;
    set_cookie(response.headers_mut(), cookie);
    Ok(response)
}

impl Page {
    /// The languages or frameworks, each with its first library.
    fn groups(&self, kind: &Kind) -> Vec<Choice> {
        let groups = catalogue::groups().iter().filter(|group| group.kind == *kind);
        let choice = |group: &'static catalogue::Group| {
            let is_current = std::ptr::eq(group, self.snippet.group);
            Some(self.choice(&group.title, &group.available(self.has_tls).next()?.id, is_current))
        };
        groups.filter_map(choice).collect()
    }

    /// The libraries of the chosen language or framework.
    fn libraries(&self) -> Vec<Choice> {
        let libraries = self.snippet.group.available(self.has_tls);
        libraries.map(|it| self.choice(&it.about.library, &it.id, it.id == self.snippet.id)).collect()
    }

    fn choice(&self, title: &'static str, id: &str, is_current: bool) -> Choice {
        Choice { title, path: self.path(id), is_current }
    }

    /// The address of a snippet.
    fn path(&self, id: &str) -> String {
        format!("{}?with={id}", self.header.path())
    }
}
