//! Placeholders in the files of `snippets/`: `@HOST@` and others.
//!
//! They stand in quotes where a language needs them. None of the values has a character that any language would have to
//! quote: [`Endpoint`] accepts none, and [`Credentials`] are generated.

use crate::view::endpoint::{Credentials, Endpoint};

/// Names of the files that users save beside their code.
const CA_FILE: &str = "memgate-ca.pem";
const CERTIFICATE_FILE: &str = "client.pem";
const KEY_FILE: &str = "client.key";

/// Replaces every placeholder. What is put in isn't searched again.
pub(super) fn fill(text: &str, endpoint: &Endpoint, credentials: &Credentials) -> String {
    let mut filled = String::with_capacity(text.len() + 256);
    let mut rest = text.trim_end();
    while let Some((before, after)) = rest.split_once('@') {
        filled.push_str(before);
        let name = after.split_once('@').map(|(name, _)| name);
        match name.and_then(|name| Some((name, value(name, endpoint, credentials)?))) {
            Some((name, value)) => {
                filled.push_str(&value);
                rest = &after[name.len() + 1..];
            }
            None => {
                filled.push('@');
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    filled
}

fn value(name: &str, endpoint: &Endpoint, credentials: &Credentials) -> Option<String> {
    Some(match name {
        "ENDPOINT" => endpoint.to_string(),
        "HOST" => endpoint.host().to_owned(),
        "PORT" => endpoint.port().to_string(),
        "USERNAME" => credentials.username().to_owned(),
        "PASSWORD" => credentials.password().to_owned(),
        "CA_FILE" => CA_FILE.to_owned(),
        "CERTIFICATE_FILE" => CERTIFICATE_FILE.to_owned(),
        "KEY_FILE" => KEY_FILE.to_owned(),
        // Without this option openssl reports a bad certificate, but goes on.
        "OPENSSL_CHECK" => if endpoint.is_address() { "-verify_ip" } else { "-verify_hostname" }.to_owned(),
        "STUNNEL_CHECK" => if endpoint.is_address() { "checkIP" } else { "checkHost" }.to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_placeholders_are_replaced() {
        let (endpoint, credentials) = (Endpoint::local(7), Credentials::placeholders());
        for (text, expected) in [
            ("a@b.example @HOST@\n", "a@b.example 127.0.0.1"),
            ("x://@USERNAME@:@PASSWORD@@@ENDPOINT@/", "x://YOUR_USERNAME:YOUR_PASSWORD@127.0.0.1:7/"),
            ("@@PORT@@", "@7@"),
            ("@OTHER@ @HOST", "@OTHER@ @HOST"),
        ] {
            assert_eq!(fill(text, &endpoint, &credentials), expected);
        }
    }
}
