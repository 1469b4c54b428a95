//! Reservations: of what is there, of what is read late, and their sum.

use super::*;

fn capacity() -> Capacity {
    Capacity::new(&Config { memory_mb: Some(300), ..Config::default() }, CapacityGauges::default())
}

#[test]
fn reservations_stay_within_the_budget() {
    let capacity = capacity();
    for (instance, mb, fits) in [
        ("a", 140, true),
        ("b", 140, true),
        ("c", 140, false),
        ("c", 20, true),
        ("a", 141, false),
        ("a", 140, true),
        ("a", 100, true),
        ("d", 40, true),
        ("d", 41, false),
    ] {
        let reserved = capacity.reserve(instance, mb * MIB);
        assert_eq!(reserved.is_ok(), fits, "{instance} {mb}");
    }
    assert_eq!(capacity.gauges.reserved.get(), 300 * MIB);
    assert_eq!(capacity.gauges.waiting.get(), 1);
    capacity.release("d");
    assert_eq!((capacity.gauges.reserved.get(), capacity.gauges.waiting.get()), (260 * MIB, 0));
}

#[tokio::test]
async fn those_that_wait_are_told_of_room() {
    let capacity = capacity();
    capacity.reserve("a", 300 * MIB).unwrap();
    assert!(capacity.reserve("b", MIB).is_err() && capacity.reserve("c", MIB).is_err());
    capacity.retain(&HashSet::from(["b".to_owned()]), Instant::now());
    assert_eq!(capacity.room().await, ["b"]);
}

/// As if that much time had passed.
fn pass(capacity: &Capacity, time: std::time::Duration) {
    let Reservations { by_instance, waiting, .. } = &mut *capacity.lock();
    let since = by_instance.values_mut().map(|it| &mut it.begun_at);
    since.chain(waiting.values_mut()).for_each(|since| *since -= time);
}

#[tokio::test]
async fn a_pass_forgets_no_instance_that_is_newer_than_its_read() {
    let capacity = capacity();
    capacity.reserve("gone", 100 * MIB).unwrap();
    capacity.reserve("known", 100 * MIB).unwrap();
    assert!(capacity.reserve("gone and waiting", 200 * MIB).is_err());
    pass(&capacity, std::time::Duration::from_secs(1));
    let read_at = Instant::now();
    capacity.reserve("new", 50 * MIB).unwrap();
    assert!(capacity.reserve("new and waiting", 200 * MIB).is_err());
    // That it has another size doesn't make it a new one.
    capacity.settle("gone", Some(90 * MIB));
    capacity.retain(&HashSet::from(["known".to_owned()]), read_at);
    assert_eq!((capacity.gauges.reserved.get(), capacity.waiting()), (150 * MIB, 1));
    assert_eq!(capacity.reserved_bytes("new"), Some(50 * MIB));
    assert_eq!(capacity.room().await, ["new and waiting"]);
    pass(&capacity, std::time::Duration::from_secs(1));
    capacity.retain(&HashSet::from(["known".to_owned()]), Instant::now());
    assert_eq!((capacity.gauges.reserved.get(), capacity.waiting()), (100 * MIB, 0));
}

#[tokio::test]
async fn smaller_and_settled_instances_make_room() {
    let capacity = capacity();
    let waiting = || capacity.gauges.waiting.get();
    capacity.reserve("a", 200 * MIB).unwrap();
    capacity.reserve("b", 100 * MIB).unwrap();
    assert!(capacity.reserve("b", 150 * MIB).is_err() && capacity.reserve("c", MIB).is_err());
    assert_eq!(waiting(), 2);
    // What was to get more memory keeps what it has.
    capacity.settle("b", Some(100 * MIB));
    assert_eq!((waiting(), capacity.gauges.reserved.get()), (1, 300 * MIB));
    capacity.reserve("a", 199 * MIB).unwrap();
    assert_eq!(capacity.room().await, ["c"], "a became smaller");
    capacity.settle("b", Some(50 * MIB));
    assert_eq!(capacity.room().await, ["c"], "b is smaller than it was counted");
    capacity.settle("c", None);
    assert_eq!((waiting(), capacity.gauges.reserved.get()), (0, 249 * MIB));
    capacity.reset().await;
    assert_eq!(capacity.gauges.reserved.get(), 0);
    let existing = HashMap::from([("d".to_owned(), 5 * MIB)]);
    capacity.count_existing(async { Ok(existing) }).await.unwrap();
    assert_eq!(capacity.gauges.reserved.get(), 5 * MIB, "counted again");
}

#[tokio::test]
async fn existing_containers_count_even_beyond_the_budget() {
    let capacity = capacity();
    let failing = async { Err(Error::NoMemory) };
    assert!(capacity.count_existing(failing).await.is_err(), "tried again");
    let existing = HashMap::from([("a".to_owned(), 400 * MIB), ("b".to_owned(), 100 * MIB)]);
    capacity.count_existing(async { Ok(existing) }).await.unwrap();
    assert!(capacity.reserve("c", MIB).is_err());
    assert!(capacity.reserve("a", 400 * MIB).is_ok(), "what runs may be restarted");
}

#[test]
fn containers_count_with_their_own_size() {
    let container = |instance: &str, spec: &str| Container {
        id: String::new(),
        instance: instance.into(),
        generation: 1,
        address: String::new(),
        spec: spec.into(),
        state: crate::plan::ContainerState::Running,
        attached: true,
        image: String::new(),
        outdated: false,
        started_at: None,
        ended: None,
        limits: None,
        isolation: None,
        limits_differ: false,
        unrestricted: false,
        made_ahead: false,
        hung: false,
        idle: false,
        is_holder: false,
        created_at: store::Timestamp::EPOCH,
    };
    let small = "memory=64 connections=1024 item=1048576";
    let large = "memory=640 connections=1024 item=1048576";
    let resized = Container {
        limits: Some(crate::limits::Limits { memory: 500 * MIB, ..Default::default() }),
        ..container("d", small)
    };
    let containers = [
        container("a", small),
        container("b", large),
        container("b", small),
        container("c", "none"),
        Container { is_holder: true, ..container("e", large) },
        resized,
    ];
    let counted = memory_of(&containers);
    let expected = [("a", 140), ("b", 860), ("d", 500)];
    assert_eq!(counted, HashMap::from(expected.map(|(id, mb)| (id.to_owned(), mb * MIB))));
}

// rows without number must not make each reservation slow.
#[test]
fn many_reservations_are_counted_quickly() {
    let capacity = Capacity::new(&Config::default(), CapacityGauges::default());
    let (count, started) = (20_000, std::time::Instant::now());
    for number in 0..count {
        capacity.settle(&number.to_string(), Some(2));
        capacity.settle(&number.to_string(), Some(1));
    }
    assert_eq!(capacity.gauges.reserved.get(), count);
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(capacity.budget > 64 * MIB);
}
