//! What is done while the provisioner crashes.

use std::collections::HashMap;

use super::inventory::{inspect, recorded};
use super::{Fixture, ITEMS, PLAN};
use crate::database::execute_sql;
use crate::harness::{Credentials, deadline_in, wait_until};
use crate::text_client::TextClient;

const ADA: &str = "ada@example.org";
/// Until their cooldown is over, no instance gets one of these addresses.
/// In a form that both databases understand: 2100 is later than now.
const USE_UP_ADDRESSES: &str = "UPDATE addresses SET released_at = 4102444800000 WHERE instance_id IS NULL";

/// Something that is asked of the product.
pub(super) trait Operation {
    fn name(&self) -> &'static str;

    /// Brings the cache into the state in which that is asked for.
    fn prepare(&mut self, fixture: &Fixture);

    /// Asks for it, with a command that ends well in spite of a crash.
    fn run(&mut self, fixture: &Fixture);

    /// What isn't there yet of what was asked for.
    fn missing(&self, fixture: &Fixture) -> Option<String>;

    /// Checks what clients find once it is done.
    fn check(&mut self, fixture: &Fixture);

    /// Whether the other caches change, too.
    fn is_for_all(&self) -> bool {
        false
    }

    /// Whether it takes many seconds.
    fn is_slow(&self) -> bool {
        false
    }

    /// At how many of its requests the provisioner crashes.
    fn swept(&self, requests: usize) -> usize {
        requests
    }
}

/// A new cache.
#[derive(Default)]
pub(super) struct Create {
    is_on_new_network: bool,
    users: Vec<Credentials>,
}

impl Create {
    /// One for which the networks have no address left.
    pub(super) fn on_new_network() -> Self {
        Self { is_on_new_network: true, ..Self::default() }
    }
}

impl Operation for Create {
    fn name(&self) -> &'static str {
        if self.is_on_new_network { "create, network" } else { "create" }
    }

    fn prepare(&mut self, fixture: &Fixture) {
        if self.is_on_new_network {
            execute_sql(&fixture.product, USE_UP_ADDRESSES);
        }
    }

    fn run(&mut self, fixture: &Fixture) {
        let email = format!("user-{}-{}@example.org", self.is_on_new_network, self.users.len());
        self.users.push(fixture.product.credentials(&["user", "add", &email, "--plan", PLAN]));
    }

    fn missing(&self, _: &Fixture) -> Option<String> {
        None
    }

    fn check(&mut self, fixture: &Fixture) {
        let (last, earlier) = self.users.split_last().unwrap();
        assert_eq!(fixture.kept(last), 0, "it is new");
        fixture.fill(last);
        assert!(earlier.iter().all(|user| fixture.kept(user) == ITEMS));
    }
}

/// A cache and its contents that go.
#[derive(Default)]
pub(super) struct Delete {
    user: Option<Credentials>,
    count: usize,
}

impl Operation for Delete {
    fn name(&self) -> &'static str {
        "delete"
    }

    fn prepare(&mut self, fixture: &Fixture) {
        self.count += 1;
        let email = format!("deleted-{}@example.org", self.count);
        self.user = Some(fixture.add_user(&email));
    }

    fn run(&mut self, fixture: &Fixture) {
        // Both go the same way.
        let what = if self.count.is_multiple_of(2) { "user" } else { "cache" };
        let email = &self.user.as_ref().unwrap().email;
        assert_eq!(fixture.product.json(&[what, "delete", email, "--yes"])["deleted"], true);
    }

    fn missing(&self, _: &Fixture) -> Option<String> {
        None
    }

    fn check(&mut self, fixture: &Fixture) {
        let user = self.user.as_ref().unwrap();
        assert!(TextClient::try_log_in(fixture.product.endpoint(), user).is_none());
    }
}

/// Another size, while memcached runs.
pub(super) struct Resize {
    user: Credentials,
    from_mb: i64,
    to_mb: i64,
    /// The limit of the container for each size, as it is without a crash.
    limits: HashMap<i64, i64>,
}

impl Resize {
    /// A cache that grows.
    pub(super) fn new(fixture: &Fixture) -> Self {
        Self { user: fixture.add_user(ADA), from_mb: 64, to_mb: 128, limits: HashMap::new() }
    }

    /// The same cache, which shrinks.
    pub(super) fn reverse(&self) -> Self {
        let Self { user, from_mb, to_mb, .. } = self;
        Self { user: user.clone(), from_mb: *to_mb, to_mb: *from_mb, limits: HashMap::new() }
    }

    fn resize(fixture: &Fixture, memory_mb: i64) {
        let done = fixture.product.json(&["cache", "resize", ADA, "--memory-mb", &memory_mb.to_string()]);
        let said = format!("memcached has {memory_mb} MB; nothing was evicted");
        assert_eq!((&done["state"], &done["message"]), (&"done".into(), &said.into()), "{done}");
    }
}

impl Operation for Resize {
    fn name(&self) -> &'static str {
        if self.from_mb < self.to_mb { "grow" } else { "shrink" }
    }

    fn prepare(&mut self, fixture: &Fixture) {
        Self::resize(fixture, self.from_mb);
    }

    fn run(&mut self, fixture: &Fixture) {
        Self::resize(fixture, self.to_mb);
    }

    fn missing(&self, fixture: &Fixture) -> Option<String> {
        let has = &fixture.product.json(&["instance", "show", ADA])["memcached"]["limit_maxbytes"];
        if *has != self.to_mb << 20 {
            return Some(format!("memcached has {has} bytes"));
        }
        let limit = &inspect(&fixture.product.container(ADA))["HostConfig"]["Memory"];
        let expected = self.limits.get(&self.to_mb);
        expected.filter(|expected| limit != *expected).map(|_| format!("the container has {limit} bytes"))
    }

    fn check(&mut self, fixture: &Fixture) {
        let limit = inspect(&fixture.product.container(ADA))["HostConfig"]["Memory"].as_i64().unwrap();
        self.limits.entry(self.to_mb).or_insert(limit);
        assert_eq!(fixture.kept(&self.user), ITEMS);
    }
}

/// An instance that was made ahead, in the place of one that has another size.
#[derive(Default)]
pub(super) struct Replace {
    count: usize,
}

impl Replace {
    fn memory_mb(&self) -> &'static str {
        if self.count.is_multiple_of(2) { "56" } else { "40" }
    }
}

impl Operation for Replace {
    fn name(&self) -> &'static str {
        "ready instance"
    }

    fn prepare(&mut self, fixture: &Fixture) {
        let is_ready = || recorded(&fixture.product).iter().any(|row| row.starts_with("ready "));
        wait_until(deadline_in(60), "a ready instance", is_ready);
        self.count += 1;
    }

    fn run(&mut self, fixture: &Fixture) {
        let limits = ["--memory-mb", self.memory_mb(), "--new-caches-only"];
        fixture.product.json(&[&["plan", "update", "default"], &limits[..]].concat());
    }

    fn missing(&self, fixture: &Fixture) -> Option<String> {
        let recorded = recorded(&fixture.product);
        let ready: Vec<&String> = recorded.iter().filter(|row| row.starts_with("ready ")).collect();
        let is_there = ready.len() == 1 && ready[0].ends_with(self.memory_mb());
        (!is_there).then(|| format!("ready instances: {recorded:?}"))
    }

    fn check(&mut self, _: &Fixture) {}
}
