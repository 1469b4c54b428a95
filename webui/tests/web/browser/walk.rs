//! A walk through every page of a user, in every state of a cache that looks different.

use store::{InstanceState, NewCache, UserState};

use super::flow::{Flow, RevealedToken};
use super::{EMAIL, PASSWORD, Site, api_keys, settings, webhooks};
use crate::denials::denial;
use crate::overview;
use crate::second_factor::Device;

/// A web UI whose user may enter the password as often as the walk does.
pub(super) async fn site() -> Site {
    Site::start_with(|config| config.limits.sign_ins_per_minute = 100).await
}

/// Opens every page, and calls `visit` with a name for each.
pub(super) async fn every_page(flow: &Flow<'_>, site: &Site, visit: &impl AsyncFn(&str)) {
    signed_out(flow, visit).await;
    let first = flow.sign_up(EMAIL, PASSWORD).await;
    visit("new").await;
    site.set_state(EMAIL, InstanceState::Running).await;
    tokens(flow, site, &first, visit).await;
    settings::every_page(flow, site, visit).await;
    overview(flow, site, visit).await;
    states(flow, site, visit).await;
    account(flow, site, visit).await;
}

async fn signed_out(flow: &Flow<'_>, visit: &impl AsyncFn(&str)) {
    flow.open("/").await;
    visit("home").await;
    flow.open("/sign-up").await;
    visit("sign-up").await;
    flow.find("[name=email]").await.send_keys("ada@example").await.unwrap();
    flow.find("[name=password]").await.send_keys("short").await.unwrap();
    flow.click("#sign-up-form button").await;
    flow.find("#email-error").await;
    visit("sign-up-error").await;
    flow.open("/sign-in").await;
    flow.find("[name=email]").await.send_keys(EMAIL).await.unwrap();
    flow.find("[name=password]").await.send_keys("nobody knows it").await.unwrap();
    flow.click("#sign-in-form button").await;
    flow.find("#form-error").await;
    visit("sign-in-error").await;
    flow.click("[href='/forgot-password']").await;
    flow.find("h1").await;
    visit("forgot-password").await;
    flow.open("/nothing").await;
    visit("not-found").await;
}

async fn tokens(flow: &Flow<'_>, site: &Site, first: &RevealedToken, visit: &impl AsyncFn(&str)) {
    flow.create_token("web shop").await;
    visit("token").await;
    let staging = flow.create_token("staging \u{202e}txt.exe").await;
    flow.revoke(&first.username).await;
    flow.open_tokens().await;
    flow.click(".inactive summary").await;
    visit("tokens").await;
    let id = staging.username.strip_prefix("mg_").unwrap();
    let denials = [denial(id, store::DenialCause::Mistyped, 12)];
    site.store.add_denials(&denials).await.unwrap();
    for (path, element) in [
        ("", "#token-title"),
        ("/edit", "#edit-form"),
        ("/rotate", "#rotate-form"),
        ("/revoke", "#revoke-form"),
        ("/certificates", "#certificate-form"),
    ] {
        flow.open(&format!("/tokens/{id}{path}")).await;
        flow.find(element).await;
        visit(&format!("token{}", path.replace('/', "-"))).await;
    }
    flow.click("#certificate-form button").await;
    flow.find("#certificate").await;
    visit("certificate").await;
    for tab in ["connect", "connections", "denials", "activity", "usage", "settings"] {
        flow.open("/caches").await;
        flow.click(&format!(".cache-tabs [href$={tab}]")).await;
        flow.find(&format!("[aria-current=page][href$={tab}]")).await;
        visit(tab).await;
    }
}

async fn overview(flow: &Flow<'_>, site: &Site, visit: &impl AsyncFn(&str)) {
    flow.open("/caches").await;
    flow.find("#unused").await;
    visit("overview-empty").await;
    overview::Recorder::new(site, EMAIL).await.record_busy_hour().await;
    flow.open("/caches").await;
    flow.find("#charts").await;
    visit("overview").await;
    flow.click("#chart-operations summary").await;
    flow.open_usage().await;
    visit("usage-filled").await;
}

async fn states(flow: &Flow<'_>, site: &Site, visit: &impl AsyncFn(&str)) {
    site.set_state(EMAIL, InstanceState::Asleep).await;
    flow.open("/caches").await;
    flow.find("[data-notice=asleep]").await;
    visit("asleep").await;
    site.set_state(EMAIL, InstanceState::Failed).await;
    flow.open("/caches").await;
    flow.find("#state[data-state=failed]").await;
    visit("failed").await;
    let user = site.store.user_by_email(EMAIL).await.unwrap().unwrap();
    site.store.set_user_state(&user.id, UserState::Suspended).await.unwrap();
    site.set_state(EMAIL, InstanceState::Suspended).await;
    for (path, name) in [("/caches", "suspended"), ("/caches?all", "suspended-caches")] {
        flow.open(path).await;
        flow.find("h1").await;
        visit(name).await;
    }
    site.store.set_user_state(&user.id, UserState::Active).await.unwrap();
    let name = "staging".parse().unwrap();
    site.store.create_cache(&NewCache { user_id: &user.id, name: &name, plan: None }, 9).await.unwrap();
    flow.open("/caches").await;
    flow.find("#caches-count").await;
    visit("caches-of-two").await;
    for cache in site.store.caches_of(&user.id).await.unwrap() {
        site.store.delete_cache(&cache.id).await.unwrap();
    }
    flow.open("/caches").await;
    flow.find("#caches-title").await;
    visit("no-cache").await;
}

async fn account(flow: &Flow<'_>, site: &Site, visit: &impl AsyncFn(&str)) {
    site.visitor().sign_in(EMAIL, PASSWORD).await;
    flow.open("/account").await;
    flow.find("#end-sessions-form").await;
    visit("account").await;
    flow.find("[name=new_password]").await.send_keys("short").await.unwrap();
    flow.click("#password-form button").await;
    flow.find("#new-password-error").await;
    visit("account-error").await;
    api_keys::create(flow, "terraform").await;
    visit("api-keys").await;
    flow.click("#api-key-form .button").await;
    flow.find("#api-key-name-error").await;
    visit("api-keys-error").await;
    webhooks(flow, site, visit).await;
    flow.open("/account/second-factor").await;
    flow.find("#password").await.send_keys(PASSWORD).await.unwrap();
    visit("second-factor").await;
    flow.click("#begin-form button").await;
    let mut device = Device::new(&flow.text("#secret").await);
    visit("second-factor-secret").await;
    flow.find("#code").await.send_keys(&device.next_code()).await.unwrap();
    flow.click("#confirm-form button").await;
    flow.find("#recovery-codes").await;
    visit("recovery-codes").await;
    flow.open("/account/second-factor").await;
    flow.find("#factor-on").await;
    visit("second-factor-on").await;
    flow.open("/api").await;
    flow.click("#createToken summary").await;
    visit("api").await;
    flow.sign_out().await;
    visit("sign-in").await;
    flow.find("#email").await.send_keys(EMAIL).await.unwrap();
    flow.find("#password").await.send_keys(PASSWORD).await.unwrap();
    flow.click("#sign-in-form button").await;
    flow.find("#code-form").await;
    visit("sign-in-code").await;
}

/// Notifications and webhooks: without any, with some, with errors, with a delivery that fails.
async fn webhooks(flow: &Flow<'_>, site: &Site, visit: &impl AsyncFn(&str)) {
    flow.open("/account/notifications").await;
    flow.find("#mail-kinds-form").await;
    visit("notifications").await;
    flow.open("/account/webhooks").await;
    flow.click("#webhook-form .button").await;
    flow.find("#webhook-url-error").await;
    visit("webhooks-error").await;
    webhooks::create(flow, "https://memgate.invalid/hooks/of/a-program-with-a-long-path").await;
    visit("webhook-secret").await;
    flow.open("/account/webhooks").await;
    visit("webhooks").await;
    flow.click("#webhook-list a").await;
    flow.find("#test-form").await;
    visit("webhook").await;
    flow.click("#test-form button").await;
    flow.find("[data-delivery]").await;
    webhooks::wait_for_failure(site).await;
    flow.click("#rotate summary").await;
    flow.find("#rotate-password").await.send_keys(PASSWORD).await.unwrap();
    flow.click("#rotate-form button").await;
    flow.find("#new-secret").await;
    visit("webhook-rotated").await;
    flow.click("#disable-form button").await;
    flow.find("#enable-form").await;
    visit("webhook-disabled").await;
    flow.click("#delete summary").await;
    flow.click("#delete-form button").await;
    flow.find("#deleted").await;
    flow.open("/account/notifications").await;
    flow.find("[data-notification]").await;
    visit("notifications-list").await;
}
