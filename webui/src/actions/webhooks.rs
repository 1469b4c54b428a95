//! A user's webhooks: found, created, changed, rotated, tried out.

use identity::{CertificateName, InputError};
use store::{
    MailKind, NOTIFICATIONS_PER_USER_MAX, NewMail, NotificationKinds, StoreError, User, UserState,
    WEBHOOKS_PER_USER_MAX, Webhook, WebhookDelivery, WebhookFields,
};

use super::{ActionError, Cause, Refusal, acting};
use crate::http::reject::PageError;
use crate::state::AppState;
use crate::view::date::retry_in;
use crate::webhook::{Destinations, WebhookUrl, secret_text};

/// Deliveries of a webhook that are listed: one for each notification of its user.
pub(crate) const DELIVERIES_MAX: i64 = NOTIFICATIONS_PER_USER_MAX;

/// What a user says of a webhook.
#[derive(Debug, Clone)]
pub(crate) struct WebhookInput {
    url: WebhookUrl,
    description: String,
    kinds: NotificationKinds,
}

/// Why it can't be used, by field.
#[derive(Debug, Default)]
pub(crate) struct WebhookInputErrors {
    pub(crate) url: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) kinds: Option<String>,
}

impl WebhookInput {
    /// Checks what a user says of a webhook.
    ///
    /// # Errors
    ///
    /// All that is wrong.
    pub(crate) fn parse(
        app: &AppState,
        url: &str,
        description: &str,
        kinds: NotificationKinds,
    ) -> Result<Self, WebhookInputErrors> {
        let destinations = Destinations::of(&app.config.webhooks);
        let url = WebhookUrl::parse(url, &destinations);
        // By the rules of a certificate's name, which may be empty too.
        let description = CertificateName::parse(description);
        match (url, description, kinds == NotificationKinds::NONE) {
            (Ok(url), Ok(description), false) => {
                Ok(Self { url, description: description.as_str().to_owned(), kinds })
            }
            (url, description, no_kind) => Err(WebhookInputErrors {
                url: url.err().map(|error| error.to_string()),
                description: description.err().as_ref().map(InputError::to_string),
                kinds: no_kind
                    .then(|| "A webhook needs at least one kind of notification. Choose one.".to_owned()),
            }),
        }
    }

    fn fields(&self) -> WebhookFields<'_> {
        let Self { url, description, kinds } = self;
        WebhookFields { url: url.as_str(), host: url.host(), description, kinds: *kinds }
    }
}

/// The user's webhook with this id.
///
/// # Errors
///
/// [`PageError::NotFound`] if there is none, or another user has it.
pub(crate) async fn find(app: &AppState, user: &User, id: &str) -> Result<Webhook, PageError> {
    let webhooks = app.store.webhooks_of(&user.id).await?;
    webhooks.into_iter().find(|webhook| webhook.id == id).ok_or(PageError::NotFound)
}

/// A delivery of a webhook.
///
/// # Errors
///
/// [`PageError::NotFound`] if there is none.
pub(crate) async fn find_delivery(
    app: &AppState,
    webhook: &Webhook,
    id: &str,
) -> Result<WebhookDelivery, PageError> {
    let deliveries = app.store.webhook_deliveries(&webhook.id, None, DELIVERIES_MAX).await?;
    deliveries.into_iter().find(|delivery| delivery.id == id).ok_or(PageError::NotFound)
}

/// Creates a webhook. Returns its id, and its secret, which may be shown only after this has returned.
///
/// # Errors
///
/// Why it isn't created.
pub(crate) async fn create(
    app: &AppState,
    user: &User,
    input: &WebhookInput,
) -> Result<(String, String), ActionError> {
    check_change(app, user)?;
    match acting(app, user).create_webhook(&user.id, &input.fields()).await {
        Ok(id) => {
            tell_of_address(app, user).await;
            let secret = secret_text(&app.token_key, &id, 1);
            Ok((id, secret))
        }
        Err(StoreError::LimitReached(_)) => {
            let error = format!(
                "You have reached the limit of {WEBHOOKS_PER_USER_MAX} webhooks. Delete one that isn’t in use."
            );
            Err(Refusal::new(Cause::LimitReached, error).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Changes what a user says of a webhook, and whether it is enabled, at once. A user can always disable one.
///
/// # Errors
///
/// Why nothing is changed.
pub(crate) async fn change(
    app: &AppState,
    user: &User,
    webhook: &Webhook,
    input: Option<&WebhookInput>,
    enabled: Option<bool>,
) -> Result<(), ActionError> {
    if input.is_some() || enabled == Some(true) {
        check_change(app, user)?;
    }
    let fields = input.map(WebhookInput::fields);
    found(acting(app, user).change_webhook(&webhook.id, fields.as_ref(), enabled).await)?;
    if fields.is_some_and(|fields| fields.url != webhook.url) {
        tell_of_address(app, user).await;
    }
    Ok(())
}

/// Tells the owner by mail: a webhook that somebody else has made outlives their session and their API key.
async fn tell_of_address(app: &AppState, user: &User) {
    let Some(mail) = &app.mail else { return };
    let (kind, user_id) = (MailKind::WebhookAddress, Some(user.id.as_str()));
    mail.tell(&app.store, &NewMail { kind, user_id, recipient: &user.email, link_id: None }).await;
}

/// Replaces the secret of a webhook. Returns the new one, which may be shown only after this has returned.
///
/// # Errors
///
/// Why it isn't replaced.
pub(crate) async fn rotate(app: &AppState, user: &User, webhook: &Webhook) -> Result<String, ActionError> {
    check_change(app, user)?;
    let generation = found(acting(app, user).rotate_webhook(&webhook.id).await)?;
    Ok(secret_text(&app.token_key, &webhook.id, generation))
}

/// Deletes a webhook with its deliveries. Not rate-limited: a user can stop deliveries at any time.
///
/// # Errors
///
/// [`PageError`] if the store fails.
pub(crate) async fn delete(app: &AppState, user: &User, webhook: &Webhook) -> Result<(), PageError> {
    match acting(app, user).delete_webhook(&webhook.id).await {
        Ok(()) | Err(StoreError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sends a test to a webhook. Returns the delivery's id.
///
/// # Errors
///
/// Why it isn't sent.
pub(crate) async fn send_test(app: &AppState, user: &User, webhook: &Webhook) -> Result<String, ActionError> {
    check_send(app, user, webhook)?;
    let sent = app.store.send_test(&webhook.id).await.map_err(not_enabled)?;
    app.deliver_soon.notify_one();
    Ok(sent)
}

/// Sends a delivery again.
///
/// # Errors
///
/// Why it isn't sent.
pub(crate) async fn send_again(
    app: &AppState,
    user: &User,
    webhook: &Webhook,
    delivery: &WebhookDelivery,
) -> Result<(), ActionError> {
    check_send(app, user, webhook)?;
    app.store.send_again(&webhook.id, &delivery.id).await.map_err(not_enabled)?;
    app.deliver_soon.notify_one();
    Ok(())
}

/// Checks whether a user may change webhooks, and counts it against the user's rate limit.
fn check_change(app: &AppState, user: &User) -> Result<(), Refusal> {
    check_user(app, user)?;
    app.rate_limits.webhook_changes.acquire(&user.id).map_err(|wait| {
        app.metrics.count_limited("webhook_changes");
        let message = format!("You changed webhooks too often. Try again {}.", retry_in(wait));
        Refusal::new(Cause::RateLimited(wait), message)
    })
}

fn check_send(app: &AppState, user: &User, webhook: &Webhook) -> Result<(), Refusal> {
    check_user(app, user)?;
    if webhook.disabled.is_some() {
        return Err(is_disabled());
    }
    app.rate_limits.webhook_sends.acquire(&user.id).map_err(|wait| {
        app.metrics.count_limited("webhook_sends");
        let message = format!("You sent too much to webhooks by hand. Try again {}.", retry_in(wait));
        Refusal::new(Cause::RateLimited(wait), message)
    })
}

fn check_user(app: &AppState, user: &User) -> Result<(), Refusal> {
    if user.state == UserState::Suspended {
        return Err(Refusal::suspended());
    }
    if app.webhooks.is_none() {
        let error = "The operator of this service doesn’t allow webhooks.";
        return Err(Refusal::new(Cause::WrongState, error));
    }
    Ok(())
}

fn is_disabled() -> Refusal {
    Refusal::new(Cause::WrongState, "The webhook is disabled. Enable it first.")
}

fn not_enabled(error: StoreError) -> ActionError {
    match error {
        StoreError::NotFound(_) => is_disabled().into(),
        error => error.into(),
    }
}

/// Another request may have deleted it meanwhile.
fn found<T>(result: Result<T, StoreError>) -> Result<T, ActionError> {
    result.map_err(|error| match error {
        StoreError::NotFound(_) => PageError::NotFound.into(),
        error => error.into(),
    })
}
