//! Tables for sleeping and warm caches: each row is one situation, also one that a crash has left, and its plan.

use store::{DesiredState, InstanceState, Operation, OperationKind, OperationState};

use super::super::operations::tests::operation;
use super::super::tests::{container, instance, route, summary};
use super::super::{Container, ContainerState, plan};

const WARM: &str = "memory=64 connections=1024 item=1048576 warm";

fn restart(state: OperationState) -> Operation {
    operation(OperationKind::Restart, state, Some("monday"))
}

fn idle(state: ContainerState) -> Container {
    Container { idle: true, ..container(state) }
}

// F-37.
#[test]
fn a_cache_sleeps_while_nobody_uses_it() {
    use ContainerState::{Paused, Running, Stopped};
    use InstanceState as S;
    let c = container;
    for (name, state, wakes, containers, expected) in [
        ("used", S::Running, false, vec![c(Running)], "probe c1"),
        ("idle", S::Running, false, vec![idle(Running)], "set asleep, sleep c1"),
        ("not idle long enough to be stopped twice", S::Restarting, false, vec![idle(Running)], "probe c1"),
        ("recorded, not stopped before a crash", S::Asleep, false, vec![c(Running)], "stop c1"),
        ("paused meanwhile", S::Asleep, false, vec![c(Paused)], "unpause c1, stop c1"),
        ("asleep", S::Asleep, false, vec![c(Stopped)], ""),
        ("removed while it sleeps", S::Asleep, false, vec![], ""),
        ("woken", S::Asleep, true, vec![c(Stopped)], "start c1, set restarting, probe c1"),
        ("woken before it was stopped", S::Asleep, true, vec![c(Running)], "probe c1"),
        ("removed, and woken", S::Asleep, true, vec![], "set restarting, create 2"),
        (
            "of another image, and woken",
            S::Asleep,
            true,
            vec![Container { outdated: true, ..c(Stopped) }],
            "set restarting, remove c1, create 2",
        ),
    ] {
        let mut instance = instance(DesiredState::Running, route(state, 1));
        (instance.sleep_after_seconds, instance.wake_requested) = (Some(60), wakes);
        assert_eq!(summary(&plan(&instance, &[], &containers, 0)), expected, "{name}");
    }
    let never = instance(DesiredState::Running, route(S::Running, 1));
    assert_eq!(summary(&plan(&never, &[], &[idle(Running)], 0)), "probe c1");
    let asleep = instance(DesiredState::Running, route(S::Asleep, 1));
    let asked = [restart(OperationState::Pending)];
    assert_eq!(
        summary(&plan(&asleep, &asked, &[c(Stopped)], 0)),
        "begin restart from monday, set restarting, restart c1, probe c1, finish restart",
        "an operation wakes it"
    );
}

// F-36.
#[test]
fn contents_of_a_warm_cache_are_saved_before_its_container_is_replaced() {
    use ContainerState::{Running, Stopped};
    let warm = |state| Container { spec: WARM.into(), ..container(state) };
    let holder = || Container { id: "k1".into(), is_holder: true, spec: String::new(), ..container(Running) };
    let outdated = |container| Container { outdated: true, ..container };
    let mut instance = instance(DesiredState::Running, route(InstanceState::Running, 1));
    instance.warm = true;
    let asked = vec![restart(OperationState::Running)];
    let no_operation = vec![];
    for (name, asked, containers, expected) in [
        (
            "restarted",
            &asked,
            vec![warm(Running)],
            "keep c1, set restarting, restart c1, probe c1, finish restart",
        ),
        (
            "of another image",
            &asked,
            vec![outdated(warm(Running))],
            "keep c1, set restarting, stop c1, remove c1, create 2, finish restart",
        ),
        (
            "stopped before a crash",
            &asked,
            vec![outdated(warm(Stopped)), holder()],
            "set restarting, remove c1, create 2, finish restart, remove k1",
        ),
        (
            "it becomes warm",
            &asked,
            vec![container(Running)],
            "set restarting, stop c1, remove c1, create 2, finish restart",
        ),
        ("its plan has become warm", &no_operation, vec![container(Running)], "probe c1, resize c1"),
        ("started before a crash", &no_operation, vec![warm(Running), holder()], "probe c1, remove k1"),
        ("killed", &no_operation, vec![warm(Stopped)], "start c1, set restarting, probe c1"),
        (
            "hangs",
            &asked,
            vec![Container { hung: true, ..warm(Running) }],
            "set restarting, remove c1, create 2, finish restart",
        ),
    ] {
        assert_eq!(summary(&plan(&instance, asked, &containers, 0)), expected, "{name}");
    }
    instance.memory_mb = 128;
    assert_eq!(
        summary(&plan(&instance, &[], &[warm(Running)], 0)),
        "set restarting, remove c1, create 2",
        "memcached keeps a memory of one size"
    );
    let suspended = store::Instance { desired: DesiredState::Suspended, ..instance };
    assert_eq!(
        summary(&plan(&suspended, &[], &[warm(Stopped), holder()], 0)),
        "set suspended, remove c1, remove k1, tear down suspended"
    );
}
