//! Webhooks: where notifications may be sent, and how they are signed and sent. `webhook_sender.rs` has the task.
//!
//! Users name the addresses, so everything here distrusts them: what they lead to is checked when it is connected to, and nothing
//! that a receiver says is kept or shown but its status.

mod address;
mod client;
mod signature;
mod url;

pub(crate) use self::address::Destinations;
pub(crate) use self::client::{Client, SendError};
pub(crate) use self::signature::{Signed, secret_text};
pub(crate) use self::url::WebhookUrl;
