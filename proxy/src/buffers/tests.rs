//! Shares of caches, and which connections end.

use super::*;

const MB: usize = 1024 * 1024;
const NOW: StartedAt = StartedAt::ZERO;

fn tenants(budget: usize) -> (BufferBudget, impl Fn() -> HeldBytes) {
    let budget = BufferBudget::new(Gauge::default(), budget);
    let worker = WorkerBuffers::new(budget.clone());
    (budget, move || HeldBytes::new(TenantBuffers::new(worker.clone()), 0))
}

//
#[test]
fn cache_holds_a_quarter_of_the_budget_and_never_more_than_is_left() {
    let (budget, new) = tenants(100 * MB);
    let mut held = Vec::new();
    for _ in 0..20 {
        let tenant = new();
        while tenant.tenant.pressure() != Pressure::Over {
            tenant.set_input(tenant.input.get() + MB, true, NOW);
        }
        assert!(tenant.is_tight());
        assert!(tenant.tenant.must_shed());
        tenant.set_input(tenant.input.get() - MB, true, NOW);
        held.push(tenant.input.get() / MB);
        tenant.tenant.worker.report();
        // It stays.
        std::mem::forget(tenant);
    }
    assert_eq!(held[..4], [25, 25, 25, 12]);
    assert!(held.iter().sum::<usize>() <= 100, "{held:?}");
    assert_eq!(usize::try_from(budget.held.get()).unwrap(), held.iter().sum::<usize>() * MB);
}

//
#[test]
fn full_caches_make_room_for_a_newcomer() {
    let (_, new) = tenants(1024 * MB);
    let fill = |cache: &HeldBytes| {
        while cache.tenant.pressure() != Pressure::Over {
            cache.set_input(cache.input.get() + MB, true, NOW);
        }
    };
    let make_room = |cache: &HeldBytes| {
        cache.tenant.worker.report();
        cache.tenant.refresh();
        while cache.tenant.pressure() == Pressure::Over && cache.tenant.must_shed() {
            cache.set_input(cache.input.get() - MB, true, NOW);
            cache.tenant.worker.report();
        }
    };
    let mut full = Vec::new();
    for _ in 0..20 {
        full.push(new());
        // The last one sends as much as it may; the others' clients send nothing that would change their sums.
        for _ in 0..10 {
            fill(&full[full.len() - 1]);
            full.iter().for_each(make_room);
        }
    }
    let newcomer = new();
    fill(&newcomer);
    assert!(newcomer.input.get() > 20 * MB, "{} MB at once", newcomer.input.get() / MB);
    for _ in 0..10 {
        full.iter().chain([&newcomer]).for_each(make_room);
        fill(&newcomer);
    }
    full.iter().chain([&newcomer]).for_each(make_room);
    let held: Vec<usize> = full.iter().chain([&newcomer]).map(|cache| cache.input.get() / MB).collect();
    // Nearly equal parts: ending requests until an eighth is free, cache after cache, leaves the first ones a little less.
    let part = 1024 / (full.len() + 2);
    assert!(held.iter().all(|held| (part / 2..=part * 3 / 2).contains(held)), "{held:?}");
}

#[test]
fn however_little_is_left_a_cache_may_hold_some_requests() {
    let (_, new) = tenants(MB);
    let (full, newcomer) = (new(), new());
    full.set_input(2 * MB, true, NOW);
    newcomer.set_input(CACHE_MIN / 2, true, NOW);
    assert!(!newcomer.is_tight());
    newcomer.set_input(CACHE_MIN, true, NOW);
    assert_eq!(newcomer.tenant.pressure(), Pressure::High);
    newcomer.set_input(CACHE_MIN + 1, true, NOW);
    assert_eq!(newcomer.tenant.pressure(), Pressure::Over);
}

//
#[test]
fn who_is_too_slow_is_ended_while_memory_is_scarce() {
    let (_, new) = tenants(4 * MB);
    let at = StartedAt::from_micros;
    let sweep = |connection: &HeldBytes, now| connection.overdue(80, at(now), at(now));
    let slow = new();
    slow.set_input(1000, true, at(10));
    let other = HeldBytes::new(slow.tenant.clone(), 1);
    other.set_input(10, true, at(10));
    other.set_output(900, 0, at(10));
    let reader = HeldBytes::new(slow.tenant.clone(), 2);
    reader.set_output(100, 0, at(10));
    // A byte now and then.
    for now in (20..200).step_by(20) {
        slow.set_input(1000, true, at(now));
        assert_eq!(sweep(&slow, now), None, "memory isn't scarce");
    }
    slow.set_input(MB * 3 / 4, true, at(200));
    assert!(slow.is_tight());
    assert_eq!(sweep(&slow, 201), Some(Ending::OverBudget));
    // The next request.
    slow.advance_input(at(100));
    assert_eq!(sweep(&slow, 201), None);
    // It waits for memcached.
    slow.set_input(MB * 3 / 4, false, at(300));
    assert_eq!(sweep(&slow, 301), None);
    // Who reads all of what it left unread is fast enough.
    reader.set_output(100, 60, at(190));
    other.set_output(900, 10, at(190));
    assert_eq!(
        (sweep(&reader, 191), sweep(&other, 191)),
        (Some(Ending::OverBudget), Some(Ending::OverBudget))
    );
    reader.set_output(100, 40, at(192));
    assert_eq!(sweep(&reader, 193), None);
}

#[test]
fn age_does_not_wrap() {
    let (_, new) = tenants(4 * MB);
    let connection = new();
    connection.set_input(10, false, NOW);
    let (mut now, mut most) = (NOW, 0);
    for _ in 0..100 {
        // Five minutes later.
        now = now.before(u32::MAX - 300_000_000);
        connection.overdue(1, now, now);
        let age = connection.age(now).unwrap();
        assert!(age >= most);
        most = age;
    }
    assert_eq!(most, AGE_MAX);
}

#[test]
fn sum_is_exact_after_everything_was_released() {
    let (budget, new) = tenants(100 * MB);
    let (one, other) = (new(), new());
    one.set_input(30 * MB, true, NOW);
    one.set_output(1000, 1, NOW);
    other.set_deferred(7, NOW);
    other.end(Ending::OverBudget);
    other.set_input(MB, true, NOW);
    assert_eq!(other.age(NOW), None);
    one.clear_output();
    drop(one);
    other.tenant.worker.report();
    assert_eq!(budget.held.get(), 0);
    assert!(other.tenant.is_empty());
}

#[test]
fn only_who_owes_something_stalls() {
    let (_, new) = tenants(100 * MB);
    let connection = new();
    let sweep = |sent_at| {
        connection.stalled_for(sent_at, StartedAt::from_micros(10));
        connection.stalled_for(sent_at, StartedAt::from_micros(90))
    };
    assert_eq!(sweep(NOW), 0);
    // It waits for memcached, not for its client.
    connection.set_input(10, false, NOW);
    assert_eq!(sweep(NOW), 0);
    connection.set_input(10, true, NOW);
    assert_eq!(sweep(NOW), 80);
    assert_eq!(sweep(StartedAt::from_micros(50)), 40);
    // It has only just begun to wait for its client.
    connection.set_input(10, true, NOW);
    assert_eq!(connection.stalled_for(NOW, StartedAt::from_micros(90)), 0);
    connection.set_input(0, true, NOW);
    connection.set_output(10, 0, StartedAt::from_micros(20));
    connection.set_output(20, 0, StartedAt::from_micros(50));
    assert_eq!(sweep(NOW), 70);
    connection.set_output(5, 1, StartedAt::from_micros(80));
    assert_eq!(connection.stalled_for(NOW, StartedAt::from_micros(90)), 10);
}

//
#[test]
fn sessions_that_hold_something_are_known() {
    let (_, new) = tenants(100 * MB);
    let first = new();
    let second = HeldBytes::new(first.tenant.clone(), 1);
    let holders = || {
        let mut holders = first.tenant.holders();
        holders.sort_unstable();
        holders
    };
    first.set_input(1, true, NOW);
    second.set_output(1, 0, NOW);
    second.set_deferred(5, NOW);
    second.clear_output();
    assert_eq!(holders(), [0, 1]);
    first.set_input(0, false, NOW);
    assert_eq!(holders(), [1]);
    second.end(Ending::OverBudget);
    assert!(holders().is_empty());
    first.set_deferred(1, NOW);
    assert_eq!(holders(), [0]);
    let tenant = first.tenant.clone();
    drop(first);
    assert!(tenant.holders().is_empty());
}
