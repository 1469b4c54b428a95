//! The JSON API, `/api/v1`: what pages do, for programs. A request is its API key's user's; cookies count for nothing.
//!
//! A new route is a handler with its documentation (`#[utoipa::path]`) and one line in the table of routes: the document
//! and the reference page are made from both.

mod account;
mod auth;
mod body;
mod cache_figures;
mod caches;
mod certificates;
mod connections;
mod document;
mod idempotency;
mod metrics;
mod notifications;
mod operations;
mod paging;
mod permissions;
mod problem;
mod statistics;
mod tokens;
mod usage;
mod value;
mod webhook_deliveries;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, patch, post};

pub(crate) use self::document::value as document;
use self::problem::Problem;
pub(crate) use self::problem::codes as error_codes;
use crate::http::csrf::BODY_MAX;
use crate::state::AppState;

/// Defines `ROUTES`, the router and the document, so that none lacks a route of the others.
macro_rules! routes {
    ($($method:ident $path:literal $module:ident :: $handler:ident;)*) => {
        /// Method and path of every route that needs a key.
        #[cfg(test)]
        const ROUTES: &[(&str, &str)] = &[$((stringify!($method), $path)),*];

        fn table() -> Router<Arc<AppState>> {
            Router::new()$(.route($path, $method($module::$handler)))*
        }

        /// The operations of the document.
        #[derive(utoipa::OpenApi)]
        #[openapi(
            paths(document::show, $($module::$handler),*),
            components(schemas(
                problem::ProblemBody,
                problem::FieldError,
                statistics::Range,
                tokens::TokenState,
                webhooks::NotificationKindName,
            )),
        )]
        struct Operations;
    };
}

routes! {
    get "/account" account::show;
    get "/plan" account::plan;
    get "/activity" account::activity;
    get "/caches" caches::list;
    post "/caches" caches::create;
    get "/caches/{cache}" caches::show;
    patch "/caches/{cache}" caches::update;
    delete "/caches/{cache}" caches::delete;
    get "/caches/{cache}/statistics" statistics::show;
    get "/caches/{cache}/statistics/history" statistics::history;
    get "/caches/{cache}/metrics" metrics::show;
    get "/caches/{cache}/usage" usage::list;
    get "/caches/{cache}/operations" operations::list;
    post "/caches/{cache}/operations" operations::create;
    get "/caches/{cache}/operations/{operation}" operations::show;
    get "/caches/{cache}/tokens" tokens::list;
    post "/caches/{cache}/tokens" tokens::create;
    get "/caches/{cache}/connections" connections::list;
    delete "/caches/{cache}/connections/{connection}" connections::close;
    get "/caches/{cache}/denials" connections::denials;
    get "/tokens/{token}" tokens::show;
    patch "/tokens/{token}" tokens::update;
    delete "/tokens/{token}" tokens::revoke;
    post "/tokens/{token}/rotate" tokens::rotate;
    get "/tokens/{token}/certificates" certificates::list;
    post "/tokens/{token}/certificates" certificates::create;
    get "/tokens/{token}/certificates/{fingerprint}" certificates::show;
    delete "/tokens/{token}/certificates/{fingerprint}" certificates::revoke;
    get "/notifications" notifications::list;
    get "/webhooks" webhooks::list;
    post "/webhooks" webhooks::create;
    get "/webhooks/{webhook}" webhooks::show;
    patch "/webhooks/{webhook}" webhooks::update;
    delete "/webhooks/{webhook}" webhooks::delete;
    post "/webhooks/{webhook}/rotate-secret" webhooks::rotate;
    post "/webhooks/{webhook}/test" webhook_deliveries::test;
    get "/webhooks/{webhook}/deliveries" webhook_deliveries::list;
    post "/webhooks/{webhook}/deliveries/{delivery}/send-again" webhook_deliveries::send_again;
}

/// The answer to addresses below `/api` that lead nowhere.
pub(crate) async fn not_found() -> Response {
    Problem::not_found().into_response()
}

/// Every route, below `/api/v1`.
pub(crate) fn routes(app: &Arc<AppState>) -> Router<Arc<AppState>> {
    table()
        .fallback(not_found)
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(app.clone(), auth::require_key))
        .route("/openapi.json", get(document::show))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    // W-24.
    #[test]
    fn every_route_is_documented_and_every_documented_one_routed() {
        let document = document::value();
        let paths = document["paths"].as_object().unwrap();
        let documented: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(|method| (method.clone(), path.clone()))
            })
            .collect();
        let mut routed: BTreeSet<(String, String)> =
            ROUTES.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
        assert_eq!(routed.len(), ROUTES.len());
        routed.insert(("get".to_owned(), "/openapi.json".to_owned()));
        assert_eq!(documented, routed);
    }

    #[test]
    fn every_operation_documents_its_scope_and_its_errors() {
        let document = document::value();
        for (method, path) in ROUTES {
            let operation = &document["paths"][path][method];
            let scopes = operation["security"][0]["api_key"].as_array().unwrap();
            assert_eq!(scopes.len(), 1, "{method} {path}");
            let statuses: Vec<&str> =
                operation["responses"].as_object().unwrap().keys().map(String::as_str).collect();
            let mut expected = vec!["400", "401", "403", "404", "429", "500", "503"];
            if *method != "get" {
                expected.extend(["409", "412"]);
            }
            if matches!(*method, "post" | "patch") {
                expected.extend(["413", "415", "422"]);
            }
            for status in expected {
                assert!(statuses.contains(&status), "{method} {path}: {statuses:?}");
            }
            assert!(operation["summary"].as_str().is_some_and(|it| it.len() > 10), "{method} {path}");
        }
        let text = document.to_string();
        for (_, rest) in
            text.match_indices("#/components/schemas/").map(|(at, found)| text.split_at(at + found.len()))
        {
            let name = rest.split('"').next().unwrap();
            assert!(!document["components"]["schemas"][name].is_null(), "{name} isn't defined");
        }
    }
}
