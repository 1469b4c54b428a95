//! Tables for sleeping and warm caches: each row is one situation, also one that a crash has left, and its plan.

use store::{DesiredState, EventAction, EventCause, InstanceState, Operation, OperationKind, OperationState};

use super::super::operations::tests::operation;
use super::super::tests::{container, instance, route, summary};
use super::super::{Container, ContainerState, Ended, diagnose, plan};

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
        (instance.effective_sleep_after_seconds, instance.wake_requested) = (Some(60), wakes);
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
    let suspended = store::Instance { desired: DesiredState::Suspended, ..instance };
    assert_eq!(
        summary(&plan(&suspended, &[], &[warm(Stopped), holder()], 0)),
        "set suspended, remove c1, remove k1, tear down suspended"
    );
}

/// The plan of a warm instance that is to have so many MB.
fn planned_with(
    (state, memory_mb): (InstanceState, i64),
    asked: &[Operation],
    containers: &[Container],
) -> String {
    let mut instance = instance(DesiredState::Running, route(state, 1));
    (instance.warm, instance.memory_mb) = (true, memory_mb);
    summary(&plan(&instance, asked, containers, 0)).replace("probe c1, resize c1", "probe c1")
}

// F-36, R-47.
#[test]
fn contents_of_a_warm_cache_are_saved_before_it_gets_more_memory() {
    use ContainerState::{Running, Stopped};
    use InstanceState as S;
    let warm = |state| Container { spec: WARM.into(), ..container(state) };
    let grown = |state| Container { spec: WARM.replace("=64", "=128"), generation: 2, ..warm(state) };
    let holder = |id: &str| {
        let spec = String::new();
        Container { id: id.into(), is_holder: true, spec, ..container(Running) }
    };
    let resize = |state| vec![operation(OperationKind::Resize, state, None)];
    let (none, asked, begun) = (vec![], resize(OperationState::Pending), resize(OperationState::Running));
    let saved = "keep c1, set restarting, stop c1, remove c1, create 2";
    for (name, asked, state, memory_mb, containers, expected) in [
        ("with its plan", &none, S::Running, 128, vec![warm(Running)], saved.to_owned()),
        (
            "asked",
            &asked,
            S::Running,
            128,
            vec![warm(Running)],
            format!("begin resize, {saved}, finish resize"),
        ),
        (
            "begun, and kept before a crash",
            &begun,
            S::Running,
            128,
            vec![warm(Running), holder("k1")],
            format!("{saved}, finish resize, remove k1"),
        ),
        (
            "being copied before a crash",
            &begun,
            S::Restarting,
            128,
            vec![holder("k1"), holder("k2")],
            "create 2, finish resize, remove k1, remove k2".to_owned(),
        ),
        (
            "started before a crash",
            &begun,
            S::Restarting,
            128,
            vec![grown(Running), holder("k2")],
            "probe c1, finish resize, remove k2".to_owned(),
        ),
        (
            "asleep",
            &asked,
            S::Asleep,
            128,
            vec![warm(Stopped), holder("k1")],
            "begin resize, set restarting, remove c1, create 2, finish resize, remove k1".to_owned(),
        ),
    ] {
        assert_eq!(planned_with((state, memory_mb), asked, &containers), expected, "{name}");
    }
}

// F-36.
#[test]
fn contents_that_can_not_be_kept_are_not_saved() {
    let warm = |mb: &str| Container { spec: WARM.replace("64", mb), ..container(ContainerState::Running) };
    let asked = [operation(OperationKind::Resize, OperationState::Pending, None)];
    for (name, asked, memory_mb, has, expected) in [
        (
            "hangs",
            &[][..],
            128,
            Container { hung: true, ..warm("64") },
            "set restarting, remove c1, create 2",
        ),
        (
            "less",
            &asked[..],
            64,
            warm("65"),
            "begin resize, set restarting, stop c1, remove c1, create 2, finish resize",
        ),
    ] {
        let planned = planned_with((InstanceState::Running, memory_mb), asked, &[has]);
        assert_eq!(planned, expected, "{name}");
    }
}

// F-36.
#[test]
fn contents_of_a_warm_cache_are_saved_before_it_gets_other_connections() {
    let warm = Container { spec: WARM.into(), ..container(ContainerState::Running) };
    let mut instance = instance(DesiredState::Running, route(InstanceState::Running, 1));
    (instance.warm, instance.connections) = (true, 500);
    let saved = "keep c1, set restarting, stop c1, remove c1, create 2";
    assert_eq!(summary(&plan(&instance, &[], &[warm], 0)), saved);
}

// F-33, F-36.
#[test]
fn event_says_whether_contents_are_kept() {
    use ContainerState::{Running, Stopped};
    let ended = |exit_code| Some(Ended { exit_code, out_of_memory: false, by_itself: false });
    let warm = |state| Container { spec: WARM.into(), ..container(state) };
    let stopped = |exit_code| Container { ended: ended(exit_code), ..warm(Stopped) };
    let cold = |state| Container { spec: "memory=64 connections=7 item=1048576".into(), ..container(state) };
    let holder = || {
        let (id, spec) = ("k1".into(), String::new());
        // A holder has other restrictions than a memcached for clients.
        Container { id, is_holder: true, spec, unrestricted: true, ..container(Running) }
    };
    let created = || Container { id: "c2".into(), generation: 2, ..warm(ContainerState::Created) };
    for (name, is_warm, containers, cause, is_lost) in [
        ("gets more memory", true, vec![warm(Running)], EventCause::Resized, false),
        ("was not warm", true, vec![cold(Running)], EventCause::Resized, true),
        ("hangs", true, vec![Container { hung: true, ..warm(Running) }], EventCause::Hung, true),
        ("stopped before a crash", true, vec![stopped(0), holder()], EventCause::Resized, false),
        ("killed", true, vec![stopped(137), holder()], EventCause::Resized, true),
        ("not kept", true, vec![stopped(0)], EventCause::Resized, true),
        ("removed before a crash", true, vec![holder()], EventCause::Removed, false),
        ("removed", true, vec![], EventCause::Removed, true),
        ("created before a crash", true, vec![created(), holder()], EventCause::Superseded, false),
        ("not warm any more", false, vec![stopped(0), holder()], EventCause::Resized, true),
        ("not warm any more, and runs", false, vec![warm(Running)], EventCause::Resized, true),
    ] {
        let mut instance = instance(DesiredState::Running, route(InstanceState::Running, 1));
        (instance.warm, instance.memory_mb) = (is_warm, 128);
        let repair = diagnose(&instance, &containers, &plan(&instance, &[], &containers, 0)).unwrap();
        assert_eq!((repair.cause, repair.contents_lost), (cause, is_lost), "{name}");
    }
}

// F-33, F-36.
#[test]
fn a_warm_memcached_that_stopped_starts_with_what_a_holder_keeps() {
    let stopped = |exit_code| {
        let ended = Some(Ended { exit_code, out_of_memory: false, by_itself: false });
        Container { spec: WARM.into(), ended, ..container(ContainerState::Stopped) }
    };
    let holder = || Container {
        id: "k1".into(),
        is_holder: true,
        spec: String::new(),
        unrestricted: true,
        ..container(ContainerState::Running)
    };
    for (name, containers, is_lost) in [
        ("held", vec![stopped(0), holder()], false),
        ("killed", vec![stopped(137), holder()], true),
        ("not held", vec![stopped(0)], true),
    ] {
        for state in [InstanceState::Running, InstanceState::Restarting, InstanceState::Asleep] {
            let mut instance = instance(DesiredState::Running, route(state, 1));
            (instance.warm, instance.wake_requested) = (true, true);
            let repair = diagnose(&instance, &containers, &plan(&instance, &[], &containers, 0));
            let expected = (state != InstanceState::Asleep).then_some((EventAction::Started, is_lost));
            assert_eq!(repair.map(|it| (it.action, it.contents_lost)), expected, "{name}, {state:?}");
        }
    }
}
