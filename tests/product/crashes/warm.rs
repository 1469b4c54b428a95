//! What is done to warm caches while the provisioner crashes.

use std::path::PathBuf;

use serde_json::json;

use super::inventory::inspect;
use super::operations::Operation;
use super::relay::Request;
use super::{Fixture, ITEMS};
use crate::harness::{Credentials, Product, deadline_in, docker, wait_until};

fn state(product: &Product, of: &Credentials) -> String {
    product.json(&["cache", "show", &of.email])["state"].as_str().unwrap().to_owned()
}

/// A warm cache that is stopped and started.
pub(super) struct Restart {
    user: Credentials,
    container: String,
    started_at: String,
}

impl Restart {
    pub(super) fn of(user: &Credentials) -> Self {
        Self { user: user.clone(), container: String::new(), started_at: String::new() }
    }
}

fn started_at(container: &str) -> String {
    inspect(container)["State"]["StartedAt"].to_string()
}

/// How many times Docker has started this container.
fn starts(requests: &[Request], container: &str) -> usize {
    let line = format!("POST /containers/{container}/start");
    requests.iter().filter(|it| it.line.starts_with(&line) && it.status == Some(204)).count()
}

impl Operation for Restart {
    fn name(&self) -> &'static str {
        "warm restart"
    }

    fn prepare(&mut self, fixture: &Fixture) {
        self.container = fixture.product.container(&self.user.email);
        self.started_at = started_at(&self.container);
    }

    fn run(&mut self, fixture: &Fixture) {
        let done = fixture.product.json(&["cache", "restart", &self.user.email]);
        assert_eq!(done["state"], "done", "{done}");
        let said = format!("memcached was restarted; it kept {ITEMS} items");
        assert_eq!(done["message"], said);
    }

    fn missing(&self, _: &Fixture) -> Option<String> {
        None
    }

    fn check(&mut self, fixture: &Fixture) {
        assert_eq!(fixture.product.container(&self.user.email), self.container);
        assert_ne!(started_at(&self.container), self.started_at);
        let requests = fixture.relay.requests();
        assert_eq!(starts(&requests, &self.container), 1, "it is restarted once: {requests:#?}");
        assert_eq!(fixture.kept(&self.user), ITEMS);
    }

    fn is_slow(&self) -> bool {
        true
    }
}

/// Another image for all caches.
pub(super) struct Upgrade {
    user: Credentials,
    /// Programs that differ, and do the same.
    programs: [PathBuf; 2],
    count: usize,
    image: String,
}

impl Upgrade {
    pub(super) fn of(user: &Credentials, fixture: &Fixture) -> Self {
        let container = fixture.product.container(&user.email);
        let programs = [1, 2].map(|number| {
            let program = fixture.product.dir().join(format!("memcached-{number}"));
            docker(&["cp", &format!("{container}:/usr/bin/memcached"), program.to_str().unwrap()]);
            let mut bytes = std::fs::read(&program).unwrap();
            bytes.push(number);
            std::fs::write(&program, bytes).unwrap();
            program
        });
        Self { user: user.clone(), programs, count: 0, image: String::new() }
    }
}

impl Operation for Upgrade {
    fn name(&self) -> &'static str {
        "warm upgrade"
    }

    fn prepare(&mut self, fixture: &Fixture) {
        self.count += 1;
        let program = &self.programs[self.count % 2];
        fixture.product.json(&["image", "build", "--binary", program.to_str().unwrap()]);
        let shown = fixture.product.json(&["image", "show"]);
        assert_eq!(shown["outdated"], 2, "{shown}");
        self.image = shown["id"].as_str().unwrap().to_owned();
    }

    fn run(&mut self, fixture: &Fixture) {
        let done = fixture.product.json(&["image", "upgrade"]);
        assert_eq!(json!([done["state"], done["done"], done["failed"]]), json!(["done", 2, 0]), "{done}");
    }

    fn missing(&self, fixture: &Fixture) -> Option<String> {
        let image = &inspect(&fixture.product.container(&self.user.email))["Image"];
        (*image != self.image).then(|| format!("the container has {image}"))
    }

    fn check(&mut self, fixture: &Fixture) {
        assert_eq!(fixture.kept(&self.user), ITEMS);
        assert_eq!(fixture.product.json(&["image", "show"])["outdated"], 0);
    }

    fn is_for_all(&self) -> bool {
        true
    }

    fn is_slow(&self) -> bool {
        true
    }

    /// The steps of the first of two caches; those of the other are the same.
    fn swept(&self, requests: usize) -> usize {
        requests / 2
    }
}

/// A cache that nobody uses.
pub(super) struct Sleep {
    user: Credentials,
}

impl Sleep {
    pub(super) fn of(user: &Credentials) -> Self {
        Self { user: user.clone() }
    }
}

impl Operation for Sleep {
    fn name(&self) -> &'static str {
        "sleep"
    }

    fn prepare(&mut self, fixture: &Fixture) {
        assert_eq!(fixture.kept(&self.user), ITEMS);
    }

    fn run(&mut self, fixture: &Fixture) {
        wait_until(deadline_in(60), "it sleeps", || state(&fixture.product, &self.user) == "asleep");
    }

    fn missing(&self, fixture: &Fixture) -> Option<String> {
        let state = state(&fixture.product, &self.user);
        (state != "asleep").then(|| format!("the cache is {state}"))
    }

    /// That it has its contents is found when it wakes.
    fn check(&mut self, _: &Fixture) {}

    fn is_slow(&self) -> bool {
        true
    }
}

/// The next command.
pub(super) struct Wake {
    user: Credentials,
}

impl Wake {
    pub(super) fn of(user: &Credentials) -> Self {
        Self { user: user.clone() }
    }
}

impl Operation for Wake {
    fn name(&self) -> &'static str {
        "wake"
    }

    fn prepare(&mut self, fixture: &Fixture) {
        wait_until(deadline_in(60), "it sleeps", || {
            inspect(&fixture.product.container(&self.user.email))["State"]["Running"] == false
        });
    }

    fn run(&mut self, fixture: &Fixture) {
        assert_eq!(fixture.kept(&self.user), ITEMS);
    }

    fn missing(&self, fixture: &Fixture) -> Option<String> {
        let state = state(&fixture.product, &self.user);
        (state != "running").then(|| format!("the cache is {state}"))
    }

    fn check(&mut self, fixture: &Fixture) {
        assert_eq!(fixture.kept(&self.user), ITEMS);
    }

    fn is_slow(&self) -> bool {
        true
    }
}
