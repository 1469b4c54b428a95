//! Tables for the planner: each row is one situation and its plan.

use store::Route;

use super::*;

const SPEC: &str = "memory=64 connections=1024 item=1048576";

pub(crate) fn instance(desired: DesiredState, route: Option<Route>) -> Instance {
    Instance {
        id: "one".into(),
        cache_id: "cache".into(),
        cache: "default".into(),
        user_id: "user".into(),
        memory_mb: 64,
        connections: 20_000,
        item_size_max: 1 << 20,
        warm: false,
        effective_sleep_after_seconds: None,
        wake_requested: false,
        cpu_weight: 100,
        desired,
        created_at: Timestamp::EPOCH,
        route,
    }
}

pub(crate) fn route(state: InstanceState, generation: i64) -> Option<Route> {
    Some(Route {
        state,
        generation,
        address: Some("10.0.0.2".into()),
        container: Some("c1".into()),
        version: None,
        message: None,
        changed_at: Timestamp::EPOCH,
    })
}

pub(super) fn torn_down(state: InstanceState) -> Option<Route> {
    route(state, 3).map(|r| Route { address: None, container: None, ..r })
}

pub(crate) fn container(state: ContainerState) -> Container {
    Container {
        id: "c1".into(),
        instance: "one".into(),
        generation: 1,
        address: "10.0.0.2".into(),
        spec: SPEC.into(),
        state,
        attached: matches!(state, ContainerState::Running | ContainerState::Paused),
        started_at: Some("monday".into()),
        ended: None,
        limits: None,
        isolation: None,
        image: "sha256:1".into(),
        outdated: false,
        hung: false,
        limits_differ: false,
        unrestricted: false,
        idle: false,
        is_holder: false,
        made_ahead: false,
        created_at: Timestamp::EPOCH,
    }
}

/// A plan in the short form of the tables.
pub(super) fn summary(actions: &[Action]) -> String {
    let words: Vec<String> = actions
        .iter()
        .map(|action| match action {
            Action::SetState(state, _) => format!("set {}", state.as_str()),
            Action::Probe(c) => format!("probe {}", c.id),
            Action::Start(c) => format!("start {}", c.id),
            Action::Unpause(c) => format!("unpause {}", c.id),
            Action::Attach(c) => format!("attach {}", c.id),
            Action::Detach(c) => format!("detach {}", c.id),
            Action::RestoreLimits(c) => format!("limits {}", c.id),
            Action::Begin(it, from) if from.is_empty() => format!("begin {}", it.id),
            Action::Begin(it, from) => format!("begin {} from {from}", it.id),
            Action::Restart(c) => format!("restart {}", c.id),
            Action::Keep(c) => format!("keep {}", c.id),
            Action::Stop(c) => format!("stop {}", c.id),
            Action::Sleep(c) => format!("sleep {}", c.id),
            Action::Flush(c) => format!("flush {}", c.id),
            Action::Resize(c) => format!("resize {}", c.id),
            Action::Finish(it) => format!("finish {}", it.id),
            Action::Abandon(it, _) => format!("abandon {}", it.id),
            Action::Remove(id) => format!("remove {id}"),
            Action::Create { generation } => format!("create {generation}"),
            Action::TearDown(state) => format!("tear down {}", state.as_str()),
        })
        .collect();
    words.join(", ")
}

struct Case {
    name: &'static str,
    desired: DesiredState,
    route: Option<Route>,
    containers: Vec<Container>,
    failures: u32,
    plan: &'static str,
}

fn check(cases: Vec<Case>) {
    for case in cases {
        let actions = plan(&instance(case.desired, case.route), &[], &case.containers, case.failures);
        assert_eq!(summary(&actions), case.plan, "{}", case.name);
    }
}

fn running(name: &'static str, route: Option<Route>, containers: Vec<Container>, plan: &'static str) -> Case {
    Case { name, desired: DesiredState::Running, route, containers, failures: 0, plan }
}

#[test]
fn a_desired_instance_is_brought_to_run() {
    use ContainerState::{Created, Paused, Removing, Restarting, Running, Stopped};
    use InstanceState as S;
    let c = container;
    let ok = || route(S::Running, 1);
    check(vec![
        running("new", None, vec![], "create 1"),
        running("pending", route(S::Pending, 0), vec![], "create 1"),
        running("running", ok(), vec![c(Running)], "probe c1"),
        running("created before a crash, not recorded", None, vec![c(Running)], "probe c1"),
        running("created before a crash, not started", None, vec![c(Created)], "remove c1, create 2"),
        running("removed by hand", ok(), vec![], "set restarting, create 2"),
        running("being removed by hand", ok(), vec![c(Removing)], "set restarting, remove c1, create 2"),
        running("stopped by hand", ok(), vec![c(Stopped)], "start c1, set restarting, probe c1"),
        running("paused by hand", ok(), vec![c(Paused)], "unpause c1, set restarting, probe c1"),
        running("crashed, Docker starts it", ok(), vec![c(Restarting)], "set restarting, probe c1"),
        running("state already set", route(S::Restarting, 1), vec![c(Stopped)], "start c1, probe c1"),
        running(
            "disconnected from its network",
            ok(),
            vec![Container { attached: false, ..c(Running) }],
            "attach c1, probe c1",
        ),
        running(
            "paused and disconnected",
            ok(),
            vec![Container { attached: false, ..c(Paused) }],
            "unpause c1, attach c1, set restarting, probe c1",
        ),
        running(
            "disconnected, and at another address than recorded",
            ok(),
            vec![Container { attached: false, address: "10.0.0.9".into(), ..c(Running) }],
            "set restarting, remove c1, create 2",
        ),
        running(
            "disconnected, and not recorded",
            None,
            vec![Container { attached: false, ..c(Running) }],
            "remove c1, create 2",
        ),
        running(
            "at another address than recorded",
            ok(),
            vec![Container { address: "10.0.0.9".into(), ..c(Running) }],
            "set restarting, remove c1, create 2",
        ),
        running(
            "with other connections",
            ok(),
            vec![Container { spec: "memory=64 connections=500 item=1048576".into(), ..c(Running) }],
            "set restarting, stop c1, remove c1, create 2",
        ),
        running(
            "of an older generation",
            route(S::Running, 5),
            vec![c(Running)],
            "set restarting, remove c1, create 6",
        ),
        running(
            "two containers",
            ok(),
            vec![c(Running), Container { id: "c2".into(), generation: 2, ..c(Running) }],
            "remove c1, probe c2",
        ),
        running("resumed", torn_down(S::Suspended), vec![], "set pending, create 4"),
        running("failed, tried again", torn_down(S::Failed), vec![], "create 4"),
    ]);
}

#[test]
fn a_step_that_did_not_help_is_not_repeated() {
    use ContainerState::{Paused, Restarting, Stopped};
    let case = |state, failures, plan| Case {
        name: "after failures",
        failures,
        ..running("", route(InstanceState::Restarting, 1), vec![container(state)], plan)
    };
    check(vec![
        case(Restarting, 1, "probe c1"),
        case(Restarting, 2, "remove c1, create 2"),
        case(Stopped, 1, "remove c1, create 2"),
        case(Paused, 1, "remove c1, create 2"),
    ]);
}

// F-22.
#[test]
fn limits_are_restored_without_replacing() {
    use ContainerState::{Paused, Running, Stopped};
    let case = |name, state, plan| {
        let changed = Container { limits_differ: true, ..container(state) };
        let case = running(name, route(InstanceState::Running, 1), vec![changed], plan);
        Case { route: route(InstanceState::Restarting, 1), ..case }
    };
    check(vec![
        case("running", Running, "limits c1, probe c1"),
        case("stopped: too little memory to start with", Stopped, "limits c1, start c1, probe c1"),
        case("paused", Paused, "unpause c1, limits c1, probe c1"),
    ]);
}

//
#[test]
fn contents_are_destroyed_on_proof_only() {
    let case = |failures, hung, plan| Case {
        name: "not answering",
        failures,
        ..running(
            "",
            route(InstanceState::Restarting, 1),
            vec![Container { hung, ..container(ContainerState::Running) }],
            plan,
        )
    };
    check(vec![
        case(1, false, "probe c1"),
        case(2, false, "probe c1"),
        case(1_000, false, "probe c1"),
        case(0, true, "remove c1, create 2"),
        case(3, true, "remove c1, create 2"),
    ]);
}

//
#[test]
fn another_image_is_used_once_the_contents_are_gone() {
    use ContainerState::{Paused, Restarting, Running, Stopped};
    let case = |state, plan| {
        let outdated = Container { outdated: true, ..container(state) };
        running("of another image", route(InstanceState::Restarting, 1), vec![outdated], plan)
    };
    check(vec![
        case(Running, "probe c1"),
        case(Paused, "unpause c1, probe c1"),
        case(Stopped, "remove c1, create 2"),
        case(Restarting, "remove c1, create 2"),
    ]);
}

#[test]
fn an_undesired_instance_is_removed() {
    use InstanceState as S;
    let case =
        |name, desired, route, containers, plan| Case { name, desired, route, containers, failures: 0, plan };
    let one = || vec![container(ContainerState::Running)];
    check(vec![
        case(
            "suspend",
            DesiredState::Suspended,
            route(S::Running, 1),
            one(),
            "set suspended, remove c1, tear down suspended",
        ),
        case("suspended", DesiredState::Suspended, torn_down(S::Suspended), vec![], ""),
        case(
            "delete",
            DesiredState::Deleting,
            route(S::Running, 1),
            one(),
            "set deleting, remove c1, tear down deleting",
        ),
        case("crashed half-way", DesiredState::Deleting, route(S::Deleting, 1), vec![], "tear down deleting"),
        case("deleted", DesiredState::Deleting, torn_down(S::Deleting), vec![], ""),
        case("never started", DesiredState::Deleting, None, vec![], "set deleting, tear down deleting"),
        case(
            "container reappeared",
            DesiredState::Deleting,
            torn_down(S::Deleting),
            one(),
            "remove c1, tear down deleting",
        ),
    ]);
}

#[test]
fn an_invalid_row_fails_alone() {
    let good = instance(DesiredState::Running, None);
    let rows = [
        Instance { memory_mb: 0, ..good.clone() },
        Instance { memory_mb: i64::MAX, ..good.clone() },
        Instance { item_size_max: 1, ..good.clone() },
        Instance { item_size_max: 33 << 20, ..good.clone() },
        Instance { connections: -1, ..good.clone() },
    ];
    for row in rows {
        assert_eq!(
            summary(&plan(&row, &[], &[container(ContainerState::Running)], 0)),
            "set failed",
            "{row:?}"
        );
    }
}

#[test]
fn orphans_are_old_and_have_no_row() {
    let set = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<HashSet<_>>();
    let resource = |name: &str, instance: Option<&str>, created_at| Resource {
        name: name.into(),
        instance: instance.map(Into::into),
        created_at: Timestamp::from_millis(created_at),
    };
    let orphan = |id: &str, created_at| Container {
        id: id.into(),
        instance: id.into(),
        created_at: Timestamp::from_millis(created_at),
        ..container(ContainerState::Running)
    };
    let (old, young, now) = (0, 39_999, 100_000);
    let snapshot = Snapshot {
        containers: vec![orphan("lost", old), orphan("young", young + 1), orphan("known", old)],
        volumes: vec![
            resource("volume-of-gone", Some("gone"), old),
            resource("in-use", Some("lost"), old),
            resource("young", Some("gone"), now),
            resource("known", Some("known"), old),
        ],
        networks: vec![
            resource("net-0", None, old),
            resource("net-1", None, old),
            resource("net-2", None, now),
        ],
    };
    let actual = orphans(&set(&["known"]), &set(&["net-0"]), &snapshot, Timestamp::from_millis(now));
    let expected = [
        Orphan::Container { id: "lost".into(), instance: "lost".into() },
        Orphan::Volume("volume-of-gone".into()),
        Orphan::Network("net-1".into()),
    ];
    let actual = actual.unwrap();
    assert_eq!(actual, expected);
    let words: Vec<_> = actual.iter().map(ToString::to_string).collect();
    assert_eq!(words, ["container lost of instance lost", "volume volume-of-gone", "network net-1"]);
    assert_eq!(
        orphans(&set(&[]), &set(&[]), &snapshot, Timestamp::from_millis(now)).unwrap(),
        [],
        "an empty store deletes nothing"
    );
    assert_eq!(
        orphans(&set(&["known"]), &set(&["net-0"]), &Snapshot::default(), Timestamp::from_millis(now))
            .unwrap(),
        []
    );
    // Another store was put in the place of the installation's, and somebody has signed up since. R-41
    let containers = ["a", "b", "c"].map(|id| orphan(id, old)).into();
    let snapshot = Snapshot { containers, ..snapshot };
    for known in [["known"].as_slice(), &["known", "other"], &[]] {
        let wrong = orphans(&set(known), &set(&["net-0"]), &snapshot, Timestamp::from_millis(now));
        assert_eq!(wrong, Err(WrongStore { unknown: 3, known: known.len() }));
    }
    let enough = set(&["known", "other", "third"]);
    assert_eq!(orphans(&enough, &set(&[]), &snapshot, Timestamp::from_millis(now)).unwrap().len(), 7);
}

/// A container that somebody has connected to another network.
fn elsewhere(state: ContainerState) -> Container {
    let isolation = Isolation { other_networks: vec!["bridge".into()], ..Isolation::default() };
    Container { isolation: Some(isolation), ..container(state) }
}

//
#[test]
fn a_container_that_is_not_isolated_is_repaired() {
    use ContainerState::{Paused, Running, Stopped};
    let ok = || route(InstanceState::Running, 1);
    let unrestricted = |state| Container { unrestricted: true, ..container(state) };
    check(vec![
        running("running elsewhere", ok(), vec![elsewhere(Running)], "detach c1, probe c1"),
        running("stopped", ok(), vec![elsewhere(Stopped)], "detach c1, start c1, set restarting, probe c1"),
        running("paused", ok(), vec![elsewhere(Paused)], "detach c1, unpause c1, set restarting, probe c1"),
        running("unrestricted", ok(), vec![unrestricted(Running)], "set restarting, remove c1, create 2"),
        running("stopped too", ok(), vec![unrestricted(Stopped)], "set restarting, remove c1, create 2"),
    ]);
}

/// The cause, the action, and what becomes of the contents.
fn diagnosed(route: Option<Route>, containers: Vec<Container>, failures: u32) -> Option<String> {
    let instance = instance(DesiredState::Running, route);
    let repair = diagnose(&instance, &containers, &plan(&instance, &[], &containers, failures))?;
    let contents = if repair.contents_lost { "lost" } else { "kept" };
    Some(format!("{} {} {contents}", repair.cause.as_str(), repair.action.as_str()))
}

// F-33.
#[test]
fn every_repair_has_a_cause() {
    use ContainerState::{Paused, Restarting, Running, Stopped};
    use InstanceState as S;
    let ok = || route(S::Running, 1);
    let c = container;
    let oom = Some(Ended { exit_code: 137, out_of_memory: true, by_itself: true });
    let crashed = Some(Ended { exit_code: 139, out_of_memory: false, by_itself: true });
    for (route, containers, failures, expected) in [
        (ok(), vec![], 0, Some("removed replaced lost")),
        (ok(), vec![c(ContainerState::Removing)], 0, Some("removed replaced lost")),
        (ok(), vec![c(Running)], 0, None),
        (ok(), vec![c(Stopped)], 0, Some("stopped started lost")),
        (ok(), vec![Container { ended: oom, ..c(Stopped) }], 0, Some("out_of_memory started lost")),
        (ok(), vec![Container { ended: crashed, ..c(Stopped) }], 0, Some("crashed started lost")),
        (ok(), vec![c(Stopped)], 1, Some("stopped replaced lost")),
        (ok(), vec![c(Restarting)], 0, Some("crashed restarted lost")),
        (ok(), vec![c(Paused)], 0, Some("paused unpaused kept")),
        (ok(), vec![Container { attached: false, ..c(Running) }], 0, Some("disconnected reattached kept")),
        (ok(), vec![Container { attached: false, ..c(Running) }], 4, Some("disconnected reattached kept")),
        (
            ok(),
            vec![Container { attached: false, ..c(Running) }],
            1_000,
            Some("disconnected reattached kept"),
        ),
        (ok(), vec![Container { hung: true, ..c(Running) }], 0, Some("hung replaced lost")),
        (ok(), vec![Container { unrestricted: true, ..c(Running) }], 0, Some("unrestricted replaced lost")),
        (ok(), vec![elsewhere(Running)], 0, Some("other_network detached kept")),
        (
            ok(),
            vec![Container { limits_differ: true, ..c(Running) }],
            0,
            Some("limits_changed limits_restored kept"),
        ),
        (ok(), vec![Container { spec: "memory=32".into(), ..c(Running) }], 0, Some("resized replaced lost")),
        (route(S::Running, 5), vec![c(Running)], 0, Some("superseded replaced lost")),
        (None, vec![], 0, None),
        (torn_down(S::Suspended), vec![], 0, None),
    ] {
        assert_eq!(diagnosed(route, containers.clone(), failures).as_deref(), expected, "{containers:?}");
    }
}
