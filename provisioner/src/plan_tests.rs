//! Tables for the planner: each row is one situation and what is to be done about it.

use store::Route;

use super::*;

const SPEC: &str = "memory=64 connections=1024 item=1048576";

fn wanted(wanted: DesiredState, route: Option<Route>) -> Instance {
    Instance {
        id: "one".into(),
        user_id: "user".into(),
        email: "a@example.org".into(),
        memory_mb: 64,
        connections: 20_000,
        item_size_max: 1 << 20,
        wanted,
        created_at: 0,
        route,
    }
}

fn route(state: InstanceState, generation: i64) -> Option<Route> {
    Some(Route {
        state,
        generation,
        address: Some("10.0.0.2".into()),
        container: Some("c1".into()),
        version: None,
        message: None,
        changed_at: 0,
    })
}

fn gone(state: InstanceState) -> Option<Route> {
    route(state, 3).map(|r| Route { address: None, container: None, ..r })
}

fn container(activity: Activity) -> Container {
    Container {
        id: "c1".into(),
        instance: "one".into(),
        generation: 1,
        address: "10.0.0.2".into(),
        spec: SPEC.into(),
        activity,
        attached: activity == Activity::Running,
        created_at: 0,
    }
}

/// A plan in short, as the tables have it.
fn brief(actions: &[Action]) -> String {
    let words: Vec<String> = actions
        .iter()
        .map(|action| match action {
            Action::Mark(state, _) => format!("mark {}", state.as_str()),
            Action::Probe(c) => format!("probe {}", c.id),
            Action::Start(c) => format!("start {}", c.id),
            Action::Unpause(c) => format!("unpause {}", c.id),
            Action::Remove(id) => format!("remove {id}"),
            Action::Create { generation } => format!("create {generation}"),
            Action::Retire(state) => format!("retire {}", state.as_str()),
        })
        .collect();
    words.join(", ")
}

struct Case {
    what: &'static str,
    wanted: DesiredState,
    route: Option<Route>,
    seen: Vec<Container>,
    strikes: u32,
    plan: &'static str,
}

fn check(cases: Vec<Case>) {
    for case in cases {
        let actions = plan(&wanted(case.wanted, case.route), &case.seen, case.strikes);
        assert_eq!(brief(&actions), case.plan, "{}", case.what);
    }
}

fn running(what: &'static str, route: Option<Route>, seen: Vec<Container>, plan: &'static str) -> Case {
    Case { what, wanted: DesiredState::Running, route, seen, strikes: 0, plan }
}

#[test]
fn wanted_running() {
    use Activity::{Created, Paused, Restarting, Running, Stopped};
    use InstanceState as S;
    let c = container;
    let ok = || route(S::Running, 1);
    check(vec![
        running("new", None, vec![], "create 1"),
        running("pending", route(S::Pending, 0), vec![], "create 1"),
        running("as it should be", ok(), vec![c(Running)], "probe c1"),
        running("made before a crash, not recorded", None, vec![c(Running)], "probe c1"),
        running("made before a crash, not started", None, vec![c(Created)], "remove c1, create 2"),
        running("removed by hand", ok(), vec![], "mark restarting, create 2"),
        running("stopped by hand", ok(), vec![c(Stopped)], "mark restarting, start c1, probe c1"),
        running("paused by hand", ok(), vec![c(Paused)], "mark restarting, unpause c1, probe c1"),
        running("crashed, Docker starts it", ok(), vec![c(Restarting)], "mark restarting, probe c1"),
        running("marked already", route(S::Restarting, 1), vec![c(Stopped)], "start c1, probe c1"),
        running(
            "cut off its network",
            ok(),
            vec![Container { attached: false, ..c(Running) }],
            "mark restarting, remove c1, create 2",
        ),
        running(
            "at another address than ours",
            ok(),
            vec![Container { address: "10.0.0.9".into(), ..c(Running) }],
            "mark restarting, remove c1, create 2",
        ),
        running(
            "resized",
            ok(),
            vec![Container { spec: "memory=32".into(), ..c(Running) }],
            "mark restarting, remove c1, create 2",
        ),
        running(
            "of an older generation",
            route(S::Running, 5),
            vec![c(Running)],
            "mark restarting, remove c1, create 6",
        ),
        running(
            "two of them",
            ok(),
            vec![c(Running), Container { id: "c2".into(), generation: 2, ..c(Running) }],
            "remove c1, probe c2",
        ),
        running("back from a rest", gone(S::Suspended), vec![], "mark pending, create 4"),
        running("failed, tried again", gone(S::Failed), vec![], "create 4"),
    ]);
}

#[test]
fn what_does_not_help_is_not_repeated() {
    use Activity::{Paused, Restarting, Running, Stopped};
    let case = |activity, strikes, plan| Case {
        what: "struck",
        strikes,
        ..running("", route(InstanceState::Restarting, 1), vec![container(activity)], plan)
    };
    check(vec![
        case(Running, 1, "probe c1"),
        case(Running, 2, "remove c1, create 2"),
        case(Restarting, 1, "probe c1"),
        case(Restarting, 2, "remove c1, create 2"),
        case(Stopped, 1, "remove c1, create 2"),
        case(Paused, 1, "remove c1, create 2"),
    ]);
}

#[test]
fn not_wanted() {
    use InstanceState as S;
    let case = |what, wanted, route, seen, plan| Case { what, wanted, route, seen, strikes: 0, plan };
    let one = || vec![container(Activity::Running)];
    check(vec![
        case(
            "suspend",
            DesiredState::Suspended,
            route(S::Running, 1),
            one(),
            "mark suspended, remove c1, retire suspended",
        ),
        case("suspended", DesiredState::Suspended, gone(S::Suspended), vec![], ""),
        case(
            "delete",
            DesiredState::Deleting,
            route(S::Running, 1),
            one(),
            "mark deleting, remove c1, retire deleting",
        ),
        case("crashed half-way", DesiredState::Deleting, route(S::Deleting, 1), vec![], "retire deleting"),
        case("deleted", DesiredState::Deleting, gone(S::Deleting), vec![], ""),
        case("never started", DesiredState::Deleting, None, vec![], "mark deleting, retire deleting"),
        case("come back", DesiredState::Deleting, gone(S::Deleting), one(), "remove c1, retire deleting"),
    ]);
}

#[test]
fn a_row_that_makes_no_sense_fails_alone() {
    let good = wanted(DesiredState::Running, None);
    let rows = [
        Instance { memory_mb: 0, ..good.clone() },
        Instance { memory_mb: i64::MAX, ..good.clone() },
        Instance { item_size_max: 1, ..good.clone() },
        Instance { item_size_max: 33 << 20, ..good.clone() },
        Instance { connections: -1, ..good.clone() },
    ];
    for row in rows {
        assert_eq!(brief(&plan(&row, &[container(Activity::Running)], 0)), "mark failed", "{row:?}");
    }
}

#[test]
fn orphans_are_old_ours_and_unknown() {
    let set = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<HashSet<_>>();
    let thing = |name: &str, instance: Option<&str>, created_at| Thing {
        name: name.into(),
        instance: instance.map(Into::into),
        created_at,
    };
    let lost = |id: &str, created_at| Container {
        id: id.into(),
        instance: id.into(),
        created_at,
        ..container(Activity::Running)
    };
    let (old, young, now) = (0, 39_999, 100_000);
    let seen = Seen {
        containers: vec![lost("lost", old), lost("young", young + 1), lost("known", old)],
        volumes: vec![
            thing("lost-too", Some("gone"), old),
            thing("in-use", Some("lost"), old),
            thing("young", Some("gone"), now),
            thing("known", Some("known"), old),
        ],
        networks: vec![thing("net-0", None, old), thing("net-1", None, old), thing("net-2", None, now)],
    };
    let found = orphans(&set(&["known"]), &set(&["net-0"]), &seen, now);
    let expected = [
        Orphan::Container { id: "lost".into(), instance: "lost".into() },
        Orphan::Volume("lost-too".into()),
        Orphan::Network("net-1".into()),
    ];
    assert_eq!(found, expected);
    assert_eq!(orphans(&set(&[]), &set(&[]), &seen, now), [], "an empty store deletes nothing");
    assert_eq!(orphans(&set(&["known"]), &set(&["net-0"]), &Seen::default(), now), []);
}
