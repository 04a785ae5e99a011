use model::SandboxId;

use crate::Team;
use crate::app::now;
use crate::store::sandboxes::tests::insert;
use crate::store::{End, RowState, Store};

/// Whether anything can be written.
async fn set_writable(store: &Store, writable: bool) {
    let pragma = format!("PRAGMA query_only = {}", u8::from(!writable));
    sqlx::raw_sql(sqlx::AssertSqlSafe(pragma)).execute(&store.writer).await.unwrap();
}

/// That nobody finds the sandbox any more, and who looks back finds its end.
async fn assert_ended(store: &Store, id: &SandboxId, end: &End) {
    let team = Team::default().id;
    assert!(store.sandbox(&team, id).await.unwrap().is_none());
    assert!(store.live_sandbox(id).await.unwrap().is_none());
    assert!(store.live_sandboxes().await.unwrap().is_empty());
    assert_eq!(store.record_state(id).await.unwrap(), Some(RowState::Ended));
    assert_eq!(store.history(&team, id).await.unwrap().unwrap().end.as_ref(), Some(end));
}

#[tokio::test]
async fn an_end_that_cannot_be_written_counts_and_is_written_when_it_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let store = Store::open(&path).await.unwrap();
    store.configure_team(&Team::default(), &e2b_wire::ApiKey::generate(), now()).await.unwrap();
    let id = insert(&store, "i1").await;
    store.catch_up().await.unwrap();

    set_writable(&store, false).await;
    let end = End::as_asked();
    assert!(store.close_sandbox(&id, RowState::Starting, &end).await.unwrap());
    assert!(store.is_behind());
    assert_ended(&store, &id, &end).await;
    store.catch_up().await.unwrap_err();
    assert_ended(&store, &id, &end).await;

    set_writable(&store, true).await;
    store.catch_up().await.unwrap();
    assert!(!store.is_behind());
    assert_ended(&store, &id, &end).await;
    store.close().await;
    assert_ended(&Store::open(&path).await.unwrap(), &id, &end).await;
}

#[tokio::test]
async fn what_was_not_written_when_the_program_ended_is_as_it_was_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let store = Store::open(&path).await.unwrap();
    let team = Team::default();
    store.configure_team(&team, &e2b_wire::ApiKey::generate(), now()).await.unwrap();
    let id = insert(&store, "i1").await;
    set_writable(&store, false).await;
    store.close_sandbox(&id, RowState::Starting, &End::as_asked()).await.unwrap();
    store.close().await;
    // Its node, which does not have it any more, says how it ended.
    let store = Store::open(&path).await.unwrap();
    assert_eq!(store.record_state(&id).await.unwrap(), Some(RowState::Starting));
}
