//! Adds the mail that visitors ask for: one look-up after the other, apart from the requests that asked.

use std::sync::Arc;

use store::StoreError;

use crate::mail::Request;
use crate::state::AppState;

/// Works requests off.
pub(super) async fn run(app: Arc<AppState>) {
    let Some(mail) = &app.mail else { return };
    loop {
        let request = mail.next_request().await;
        match add(&app, &request).await {
            Ok(true) => mail.send_soon(),
            // What isn't sent, and to whom, isn't logged: that would be a list of addresses that somebody tried.
            Ok(false) | Err(StoreError::LimitReached(_)) => app.metrics.count_mail("not_sent"),
            Err(error) => tracing::error!(%error, "failed to add a mail that a visitor asked for"),
        }
    }
}

/// Adds the mail to the store. Returns whether there is one.
async fn add(app: &AppState, request: &Request) -> Result<bool, StoreError> {
    let Some(mail) = &app.mail else { return Ok(false) };
    let store = app.store.acting_as("visitor");
    match request {
        Request::ResetPassword(email) => store.send_reset_link(email, mail.limits()).await,
        Request::SignUp(email) => store.send_sign_up_link(email, mail.limits()).await.map(|()| true),
    }
}
