//! Pages of a token. Tokens of other users are answered like tokens that don't exist.

pub(super) mod certificates;
pub(super) mod create;
pub(super) mod edit;
pub(super) mod revoke;
pub(super) mod rotate;
pub(super) mod show;

use store::{TokenId, TokenRow};

use crate::actions;
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::state::AppState;

/// The user's token with this id, active or not.
pub(super) async fn find(app: &AppState, me: &SignedIn, id: &str) -> Result<(TokenId, TokenRow), PageError> {
    actions::tokens::find(app, &me.user, id).await
}

/// The user's token with this id, unless it was revoked.
async fn find_unrevoked(app: &AppState, me: &SignedIn, id: &str) -> Result<(TokenId, TokenRow), PageError> {
    let (id, token) = find(app, me, id).await?;
    if token.revoked_at.is_none() { Ok((id, token)) } else { Err(PageError::NotFound) }
}
