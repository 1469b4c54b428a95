//! Tables for operations: each row is one situation, also one that a crash has left, and its plan.

use store::{DesiredState, InstanceState, Operation, OperationKind, OperationState, Timestamp};

use super::super::tests::{container, instance, route, summary, torn_down};
use crate::plan::{Container, ContainerState, plan};

pub(in crate::plan) fn operation(
    kind: OperationKind,
    state: OperationState,
    checkpoint: Option<&str>,
) -> Operation {
    Operation {
        id: kind.as_str().into(),
        cache_id: "cache".into(),
        kind,
        memory_mb: None,
        requested_by: "operator".into(),
        state,
        progress: 0,
        message: None,
        checkpoint: checkpoint.map(Into::into),
        created_at: Timestamp::EPOCH,
        started_at: None,
        finished_at: None,
    }
}

fn pending(kind: OperationKind) -> Operation {
    operation(kind, OperationState::Pending, None)
}

fn begun(kind: OperationKind, checkpoint: &str) -> Operation {
    operation(kind, OperationState::Running, Some(checkpoint))
}

fn planned(asked: &[Operation], state: InstanceState, containers: &[Container], failures: u32) -> String {
    let instance = instance(DesiredState::Running, route(state, 1));
    summary(&plan(&instance, asked, containers, failures))
}

//
#[test]
fn a_restart_is_done_once_wherever_a_crash_has_left_it() {
    use ContainerState::{Paused, Restarting, Running, Stopped};
    use InstanceState as S;
    let restart = OperationKind::Restart;
    let (asked, before) = ([pending(restart)], [begun(restart, "monday")]);
    let since = |state| Container { started_at: Some("tuesday".into()), ..container(state) };
    let c = container;
    for (name, asked, state, containers, failures, expected) in [
        (
            "asked",
            &asked,
            S::Running,
            vec![c(Running)],
            0,
            "begin restart from monday, set restarting, restart c1, probe c1, finish restart",
        ),
        (
            "begun",
            &before,
            S::Running,
            vec![c(Running)],
            0,
            "set restarting, restart c1, probe c1, finish restart",
        ),
        ("marked", &before, S::Restarting, vec![c(Running)], 0, "restart c1, probe c1, finish restart"),
        ("stopped", &before, S::Restarting, vec![c(Stopped)], 0, "restart c1, probe c1, finish restart"),
        ("stopping", &before, S::Restarting, vec![c(Restarting)], 0, "restart c1, probe c1, finish restart"),
        ("started again", &before, S::Restarting, vec![since(Running)], 0, "probe c1, finish restart"),
        ("recorded", &before, S::Running, vec![since(Running)], 0, "probe c1, finish restart"),
        (
            "stopped again",
            &before,
            S::Running,
            vec![since(Stopped)],
            0,
            "set restarting, restart c1, probe c1, finish restart",
        ),
        (
            "paused",
            &before,
            S::Running,
            vec![c(Paused)],
            0,
            "set restarting, unpause c1, restart c1, probe c1, finish restart",
        ),
        ("didn't help", &before, S::Restarting, vec![c(Stopped)], 1, "remove c1, create 2, finish restart"),
        ("removed", &before, S::Running, vec![], 0, "set restarting, create 2, finish restart"),
        (
            "with other limits",
            &before,
            S::Restarting,
            vec![Container { limits_differ: true, ..c(Running) }],
            0,
            "limits c1, restart c1, probe c1, finish restart",
        ),
    ] {
        assert_eq!(planned(asked, state, &containers, failures), expected, "{name}");
    }
    let new = [begun(restart, "")];
    let nothing_ran = Container { generation: 2, ..since(Running) };
    assert_eq!(planned(&new, S::Running, &[nothing_ran], 0), "probe c1, finish restart", "created meanwhile");
}

// R-47, F-35.
#[test]
fn a_container_that_a_restart_replaces_is_stopped_first() {
    use ContainerState::Running;
    use InstanceState as S;
    let restart = OperationKind::Restart;
    let (asked, before) = ([pending(restart)], [begun(restart, "monday")]);
    let c = container;
    for (name, asked, state, containers, failures, expected) in [
        (
            "of another image",
            &asked,
            S::Running,
            vec![Container { outdated: true, ..c(Running) }],
            0,
            "begin restart from monday, set restarting, stop c1, remove c1, create 2, finish restart",
        ),
        (
            "resized since it was created",
            &before,
            S::Running,
            vec![Container { spec: "memory=32 connections=1024 item=1048576".into(), ..c(Running) }],
            0,
            "set restarting, stop c1, remove c1, create 2, finish restart",
        ),
    ] {
        assert_eq!(planned(asked, state, &containers, failures), expected, "{name}");
    }
}

#[test]
fn memory_changes_in_place() {
    use ContainerState::{Running, Stopped};
    use InstanceState as S;
    let resize = OperationKind::Resize;
    let small =
        |state| Container { spec: "memory=32 connections=1024 item=1048576".into(), ..container(state) };
    let differs = |container| Container { limits_differ: true, ..container };
    let (none, asked, going_on) = (vec![], vec![pending(resize)], vec![begun(resize, "0 0")]);
    for (name, asked, containers, expected) in [
        ("asked", &asked, vec![differs(small(Running))], "begin resize, probe c1, resize c1, finish resize"),
        ("begun", &going_on, vec![differs(small(Running))], "probe c1, resize c1, finish resize"),
        (
            "back to the first size",
            &going_on,
            vec![differs(container(Running))],
            "probe c1, resize c1, finish resize",
        ),
        ("done and not recorded", &going_on, vec![small(Running)], "probe c1, resize c1, finish resize"),
        ("recorded: memcached may have started again", &none, vec![small(Running)], "probe c1, resize c1"),
        ("stopped", &none, vec![small(Stopped)], "start c1, set restarting, probe c1, resize c1"),
        (
            "stopped while it was resized",
            &going_on,
            vec![differs(small(Stopped))],
            "limits c1, start c1, set restarting, probe c1, resize c1, finish resize",
        ),
        ("removed", &going_on, vec![], "set restarting, create 2, finish resize"),
        (
            "too small for a memcached that runs",
            &none,
            vec![Container { spec: "memory=64 connections=1024 item=524288".into(), ..container(Running) }],
            "set restarting, stop c1, remove c1, create 2",
        ),
    ] {
        assert_eq!(planned(asked, S::Running, &containers, 0), expected, "{name}");
    }
}

#[test]
fn a_flush_waits_until_memcached_answers() {
    use ContainerState::{Running, Stopped};
    use InstanceState as S;
    let flush = [pending(OperationKind::Flush)];
    assert_eq!(
        planned(&flush, S::Running, &[container(Running)], 0),
        "begin flush, probe c1, flush c1, finish flush"
    );
    assert_eq!(
        planned(&flush, S::Running, &[container(Stopped)], 0),
        "begin flush, start c1, set restarting, probe c1, flush c1, finish flush"
    );
    let both = [pending(OperationKind::Flush), begun(OperationKind::Restart, "monday")];
    assert_eq!(
        planned(&both, S::Restarting, &[container(Running)], 0),
        "begin flush, restart c1, probe c1, finish flush, finish restart",
        "a restart leaves nothing to flush"
    );
}

#[test]
fn operations_of_a_cache_that_does_not_run_any_more_end() {
    let asked = [pending(OperationKind::Flush), begun(OperationKind::Restart, "monday")];
    let suspended = instance(DesiredState::Suspended, torn_down(InstanceState::Suspended));
    assert_eq!(summary(&plan(&suspended, &asked, &[], 0)), "abandon flush, abandon restart");
    let back = [pending(OperationKind::Suspend), pending(OperationKind::Resume)];
    assert_eq!(
        planned(&back, InstanceState::Running, &[container(ContainerState::Running)], 0),
        "abandon suspend, begin resume, probe c1, finish resume"
    );
    let invalid = store::Instance { memory_mb: 0, ..instance(DesiredState::Running, None) };
    assert_eq!(summary(&plan(&invalid, &asked, &[], 0)), "set failed, abandon flush, abandon restart");
}

//
#[test]
fn suspension_and_deletion_end_their_operations_wherever_a_crash_has_left_them() {
    use ContainerState::{Running, Stopped};
    use DesiredState::{Deleting, Suspended};
    use InstanceState as S;
    for (desired, kind, name) in
        [(Suspended, OperationKind::Suspend, "suspend"), (Deleting, OperationKind::Delete, "delete")]
    {
        let state = if desired == Suspended { S::Suspended } else { S::Deleting };
        let plan_of = |asked: &[Operation], route, containers: &[Container]| {
            let plan = summary(&plan(&instance(desired, route), asked, containers, 0));
            plan.replace(state.as_str(), "STATE").replace(name, "OPERATION")
        };
        let (asked, begun) = ([pending(kind)], [begun(kind, "")]);
        assert_eq!(
            plan_of(&asked, route(S::Running, 1), &[container(Running)]),
            "begin OPERATION, set STATE, remove c1, tear down STATE, finish OPERATION"
        );
        assert_eq!(
            plan_of(&begun, route(state, 1), &[container(Stopped)]),
            "remove c1, tear down STATE, finish OPERATION"
        );
        assert_eq!(plan_of(&begun, route(state, 1), &[]), "tear down STATE, finish OPERATION");
        assert_eq!(plan_of(&begun, torn_down(state), &[]), "finish OPERATION");
        assert_eq!(plan_of(&asked, torn_down(state), &[]), "begin OPERATION, finish OPERATION", "again");
        let others = [pending(kind), pending(OperationKind::Restart), pending(OperationKind::Resume)];
        assert_eq!(
            plan_of(&others, torn_down(state), &[]),
            "abandon restart, abandon resume, begin OPERATION, finish OPERATION"
        );
    }
}
