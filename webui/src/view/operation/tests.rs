//! Tests of what pages say of operations.

use store::{DesiredState, Timestamp};

use super::*;

fn instance(warm: bool, memory_mb: i64) -> Instance {
    Instance {
        id: "i".into(),
        cache_id: "c".into(),
        cache: "default".into(),
        user_id: "u".into(),
        memory_mb,
        connections: 100,
        item_size_max: 1 << 20,
        warm,
        effective_sleep_after_seconds: None,
        wake_requested: false,
        cpu_weight: 100,
        desired: DesiredState::Running,
        created_at: Timestamp::EPOCH,
        route: None,
    }
}

fn operation(kind: OperationKind, state: OperationState, finished_at: Option<Timestamp>) -> Operation {
    Operation {
        id: kind.as_str().into(),
        cache_id: "c".into(),
        kind,
        memory_mb: (kind == OperationKind::Resize).then_some(128),
        requested_by: "user u".into(),
        state,
        progress: 40,
        message: Some("9 MB are left".into()),
        checkpoint: None,
        created_at: Timestamp::EPOCH,
        started_at: None,
        finished_at,
    }
}

#[test]
fn what_loses_contents_says_so_and_is_confirmed() {
    let resize = |memory_mb| NewOperation::Resize { memory_mb };
    for (warm, new, lost) in [
        (true, NewOperation::Restart, false),
        (false, NewOperation::Restart, true),
        (true, NewOperation::Flush, true),
        (true, NewOperation::Suspend, true),
        (false, NewOperation::Resume, false),
        (true, resize(256), false),
        (true, resize(64), true),
        (true, resize(32), true),
        (false, resize(256), false),
        (false, resize(32), false),
    ] {
        let cost = Cost::of(new, &instance(warm, 128));
        assert_eq!(cost.is_destructive, lost, "{warm} {new:?}");
        assert_eq!(cost.contents.contains("lost"), lost, "{warm} {new:?}: {}", cost.contents);
    }
    // A warm plan's cache of less than 64 MB isn't warm.
    assert!(Cost::of(NewOperation::Restart, &instance(true, 32)).is_destructive);
    assert!(Cost::of(resize(64), &instance(true, 32)).is_destructive);
    assert!(!Cost::of(resize(63), &instance(true, 32)).is_destructive);
}

#[test]
fn the_operation_that_is_carried_out_is_shown_first() {
    use OperationKind::{Flush, Resize, Restart};
    use OperationState::{Done, Pending, Running};
    assert_eq!(OperationProgress::of(&[operation(Restart, Done, Some(store::now()))]), None);
    let open = [
        operation(Flush, Pending, None),
        operation(Resize, Running, None),
        operation(Restart, Pending, None),
    ];
    let shown = OperationProgress::of(&open).unwrap();
    assert_eq!((shown.kind, shown.title.as_str(), shown.progress), ("resize", "Resizing to 128 MB", 40));
    let shown = OperationProgress::of(&[operation(Flush, Pending, None), operation(Restart, Pending, None)]);
    assert_eq!(shown.unwrap().kind, "restart", "the older one");
}

#[test]
fn failures_are_shown_for_longer_than_successes() {
    let ago = |seconds| Some(store::now().saturating_sub(Duration::from_secs(seconds)));
    let shown =
        |state, seconds| OperationResult::of(&[operation(OperationKind::Resize, state, ago(seconds))]);
    let text = |result: Option<OperationResult>| result.map(|result| result.text);
    let done = Some("Resize to 128 MB done: 9 MB are left.".to_owned());
    assert_eq!(text(shown(OperationState::Done, 1)), done);
    assert_eq!(text(shown(OperationState::Done, 90)), None);
    let failed = Some("Resize to 128 MB failed: 9 MB are left.".to_owned());
    assert_eq!(text(shown(OperationState::Failed, 90)), failed);
    assert_eq!(text(shown(OperationState::Failed, 700)), None);
}
