//! Fairness between tenants.

use tokio::task::{LocalSet, spawn_local, yield_now};

use super::*;

const SESSIONS: usize = 1000;
/// Bytes of one turn.
const BYTES: usize = 64 * 1024;

/// Makes many sessions of one tenant ready, and then one of another tenant, which has been active before. Returns how many
/// turns the first had before the other had its own, and how many it had in the end.
async fn turns_before_the_other(is_contended: bool) -> (usize, usize) {
    let worker: Rc<WorkerTurns> = Rc::default();
    let passes = spawn_local(worker.clone().run());
    yield_now().await;
    let (greedy, other) = (Turns::new(worker.clone()), Turns::new(worker));
    let taken = Rc::new(Cell::new(0));
    if is_contended {
        other.begin().await;
    }
    let sessions: Vec<_> = (0..SESSIONS)
        .map(|_| {
            let (greedy, taken) = (greedy.clone(), taken.clone());
            spawn_local(async move {
                greedy.begin().await;
                greedy.charge(BYTES);
                taken.update(|taken| taken + 1);
            })
        })
        .collect();
    let before = spawn_local({
        let taken = taken.clone();
        async move {
            if is_contended {
                other.begin().await;
            }
            taken.get()
        }
    });
    let before = before.await.unwrap();
    for session in sessions {
        session.await.unwrap();
    }
    passes.abort();
    (before, taken.get())
}

/// however many sessions of one tenant are ready, another tenant waits for a part of them only.
#[tokio::test]
async fn a_tenant_beyond_its_budget_lets_others_run_first() {
    let (before, all) = LocalSet::new().run_until(turns_before_the_other(true)).await;
    assert!(before <= BUDGET / BYTES, "{before} turns were taken first");
    assert_eq!(all, SESSIONS, "all sessions have their turn in the end");
}

#[tokio::test]
async fn nothing_waits_while_one_tenant_is_alone() {
    let (before, _) = LocalSet::new().run_until(turns_before_the_other(false)).await;
    assert_eq!(before, SESSIONS);
}

/// A session that ends while it waits leaves its place to the next one.
#[tokio::test]
async fn a_session_that_ends_doesnt_keep_its_place() {
    let local = LocalSet::new();
    let served = local.run_until(async {
        let worker: Rc<WorkerTurns> = Rc::default();
        spawn_local(worker.clone().run());
        yield_now().await;
        let (greedy, other) = (Turns::new(worker.clone()), Turns::new(worker));
        other.begin().await;
        greedy.begin().await;
        greedy.charge(BUDGET);
        let first = spawn_local({
            let greedy = greedy.clone();
            async move { greedy.begin().await }
        });
        let second = spawn_local({
            let greedy = greedy.clone();
            async move { greedy.begin().await }
        });
        yield_now().await;
        first.abort();
        second.await.is_ok()
    });
    assert!(tokio::time::timeout(std::time::Duration::from_secs(5), served).await.unwrap());
}
