//! Addresses: each is leased to one instance at a time and cools down after its release.

use std::collections::HashSet;
use std::time::Duration;

use store::{Lease, Network, Store, StoreError};

use crate::test_db::{DEADLINE, TestDb};

const COOLDOWN: Duration = Duration::from_secs(600);

fn network(name: &str) -> Network {
    Network {
        name: name.into(),
        bridge: format!("br-{name}"),
        subnet: format!("subnet of {name}"),
        gateway: "10.1.0.1".into(),
    }
}

/// A store with one network of `count` addresses.
async fn store_with_addresses(db: &TestDb, count: usize) -> Store {
    let store = db.open().await;
    let addresses: Vec<String> = (0..count).map(|n| format!("10.1.{}.{}", n / 100, 100 + n % 100)).collect();
    store.add_network(&network("one"), &addresses).await.unwrap();
    store
}

/// Moves the release of an address back by this many seconds.
async fn age(db: &TestDb, address: &str, seconds: u32) {
    let sql = format!(
        "UPDATE addresses SET released_at = released_at - {seconds} * 1000 WHERE address = '{address}'"
    );
    db.execute(&sql).await.unwrap();
}

async fn lease(store: &Store, instance: &str) -> Option<Lease> {
    store.lease_address(instance, COOLDOWN).await.unwrap()
}

async fn network_is_added_whole_or_not_at_all(db: TestDb) {
    let store = store_with_addresses(&db, 2).await;
    let two = network("two");
    for clash in [
        network("one"),
        Network { bridge: "br-one".into(), ..two.clone() },
        Network { subnet: "subnet of one".into(), ..two.clone() },
    ] {
        let error = store.add_network(&clash, &["10.2.0.2".into()]).await.unwrap_err();
        assert!(matches!(error, StoreError::AlreadyExists("network")), "{error:?}");
    }
    let error = store.add_network(&two, &["10.2.0.2".into(), "10.1.0.100".into()]).await.unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists("network address")), "{error:?}");
    assert_eq!(store.networks().await.unwrap(), [network("one")]);
    store.add_network(&two, &["10.2.0.2".into()]).await.unwrap();
    assert_eq!(store.networks().await.unwrap(), [network("one"), two]);
    assert_eq!(db.number("SELECT COUNT(*) FROM addresses").await, 3);
}

async fn instance_keeps_its_address(db: TestDb) {
    let store = store_with_addresses(&db, 2).await;
    let before = store.revision().await.unwrap();
    let a = lease(&store, "a").await.unwrap();
    assert_eq!(a.network, "one");
    assert_eq!(lease(&store, "a").await, Some(a.clone()));
    let b = lease(&store, "b").await.unwrap();
    assert_ne!(a.address, b.address);
    assert_eq!(lease(&store, "c").await, None, "all are leased");
    assert_eq!(lease(&store, "b").await, Some(b), "an existing lease is still returned");
    store.release_address("unknown").await.unwrap();
    assert_eq!(store.revision().await.unwrap(), before, "leases don't touch the revision");
}

//
async fn released_address_cools_down_and_the_oldest_is_leased_first(db: TestDb) {
    let store = store_with_addresses(&db, 3).await;
    let mut leased = Vec::new();
    for instance in ["a", "b", "c"] {
        leased.push(lease(&store, instance).await.unwrap().address);
    }
    for instance in ["a", "b", "c"] {
        store.release_address(instance).await.unwrap();
    }
    assert_eq!(lease(&store, "d").await, None, "all cool down");
    age(&db, &leased[0], 590).await;
    assert_eq!(lease(&store, "d").await, None, "ten seconds too early");
    age(&db, &leased[0], 11).await;
    age(&db, &leased[1], 700).await;
    age(&db, &leased[2], 650).await;
    for (instance, expected) in [("d", &leased[1]), ("e", &leased[2]), ("f", &leased[0])] {
        assert_eq!(&lease(&store, instance).await.unwrap().address, expected);
    }
    // The old lease of the address is forgotten.
    assert_eq!(lease(&store, "a").await, None);
}

async fn unused_address_is_leased_before_a_released_one(db: TestDb) {
    let store = store_with_addresses(&db, 2).await;
    let endless = Duration::MAX;
    let first = store.lease_address("a", endless).await.unwrap().unwrap();
    store.release_address("a").await.unwrap();
    age(&db, &first.address, 7000).await;
    let second = lease(&store, "a").await.unwrap();
    assert_ne!(first.address, second.address);
    assert_eq!(store.lease_address("b", endless).await.unwrap(), None);
    assert_eq!(store.lease_address("b", Duration::ZERO).await.unwrap(), Some(first));
}

async fn no_address_is_leased_to_two_instances(db: TestDb) {
    const INSTANCES: usize = 16;
    store_with_addresses(&db, INSTANCES).await;
    // Two stores stand for two processes; two tasks ask for each instance's address at the same time.
    let stores = [db.open().await, db.open().await];
    for round in 0..5 {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..2 * INSTANCES {
            let store = stores[n % 2].clone();
            let instance = format!("{round}-{}", n / 2);
            tasks.spawn(async move { (lease(&store, &instance).await, instance) });
        }
        let leases = tokio::time::timeout(DEADLINE, tasks.join_all()).await.unwrap();
        let pairs: HashSet<(String, String)> = leases
            .into_iter()
            .map(|(lease, instance)| (instance, lease.expect("an address for each instance").address))
            .collect();
        let addresses: HashSet<&String> = pairs.iter().map(|(_, address)| address).collect();
        assert_eq!((pairs.len(), addresses.len()), (INSTANCES, INSTANCES), "{pairs:?}");
        assert_eq!(lease(&stores[0], "one too many").await, None);
        for (instance, _) in &pairs {
            stores[1].release_address(instance).await.unwrap();
        }
        db.execute("UPDATE addresses SET released_at = 1").await.unwrap();
    }
}

on_both! {
    network_is_added_whole_or_not_at_all,
    instance_keeps_its_address,
    released_address_cools_down_and_the_oldest_is_leased_first,
    unused_address_is_leased_before_a_released_one,
    no_address_is_leased_to_two_instances,
}
