//! What every form with a code of a second factor does: limits the attempts, and tells the owner of wrong ones.

use std::time::Duration;

use store::{MailKind, NewMail, User, now};

use crate::http::reject::PageError;
use crate::state::AppState;
use crate::totp;

/// Wrong codes in an hour of which the user is told by mail.
const WRONG_CODES_TOLD: usize = 5;

/// What became of a code.
pub(super) enum CodeCheck {
    /// It was right, and is used up.
    Right,
    /// It was wrong, or used up before.
    Wrong,
    /// Too many were tried; the time to wait.
    RateLimited(Duration),
}

/// Why a user is told of wrong codes.
#[derive(Debug, Clone, Copy, Hash)]
enum WrongCodes {
    Some,
    LimitReached,
}

/// Whether a user's second factor is on.
pub(super) async fn has_second_factor(app: &AppState, user_id: &str) -> Result<bool, PageError> {
    let factor = app.store.second_factor(user_id).await?;
    Ok(factor.is_some_and(|factor| factor.confirmed_at.is_some()))
}

/// Uses a code of a user's second factor up, within the user's limits.
///
/// # Errors
///
/// [`PageError`] if the store fails.
pub(super) async fn check(app: &AppState, user: &User, code: &str) -> Result<CodeCheck, PageError> {
    let limits = &app.rate_limits;
    // A recovery code is too long to guess: a right one counts although the codes of devices are used up.
    let limit = if totp::is_recovery_code(code) { &limits.recovery_codes } else { &limits.codes };
    if let Err(wait) = limit.acquire(&user.id) {
        tell_of_wrong_codes(app, user, WrongCodes::LimitReached).await;
        app.metrics.count_limited("codes");
        return Ok(CodeCheck::RateLimited(wait));
    }
    if totp::verify(app, &user.id, code, now()).await? {
        limit.release(&user.id);
        return Ok(CodeCheck::Right);
    }
    if limits.codes.count(&user.id) + limits.recovery_codes.count(&user.id) >= WRONG_CODES_TOLD {
        tell_of_wrong_codes(app, user, WrongCodes::Some).await;
    }
    if limit.left(&user.id).0 == 0 {
        tell_of_wrong_codes(app, user, WrongCodes::LimitReached).await;
    }
    Ok(CodeCheck::Wrong)
}

/// Tells the owner that somebody who knows the password doesn't have the second factor, once an hour for each reason.
async fn tell_of_wrong_codes(app: &AppState, user: &User, reason: WrongCodes) {
    let Some(mail) = &app.mail else { return };
    if app.rate_limits.wrong_code_notices.acquire((&user.id, reason)).is_err() {
        return;
    }
    let kind = MailKind::WrongCodes;
    let notice = NewMail { kind, user_id: Some(&user.id), recipient: &user.email, link_id: None };
    mail.tell(&app.store, &notice).await;
}
