//! The gate as its users see it. `model` has the interleavings.

use std::time::Duration;

use lifecycle::{Budget, Gate};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn nobody_enters_after_shut_and_wait_ends_when_the_last_leaves() {
    let gate = Gate::default();
    let pass = gate.enter().unwrap();
    gate.shut();
    gate.enter().unwrap_err();
    gate.wait_empty(Budget::within(LIMIT)).await.unwrap_err();
    drop(pass);
    gate.wait_empty(Budget::within(LIMIT)).await.unwrap();
}

#[tokio::test]
async fn a_gate_that_nobody_ever_entered_is_empty_before_and_after_shut() {
    let gate = Gate::default();
    gate.wait_empty(Budget::within(LIMIT)).await.unwrap();
    gate.shut();
    gate.shut();
    gate.wait_empty(Budget::within(LIMIT)).await.unwrap();
}

#[tokio::test]
async fn a_pass_is_given_back_however_its_holder_ends() {
    let gate = Gate::default();
    let pass = gate.enter().unwrap();
    let panics = tokio::task::spawn_blocking(move || {
        let _pass = pass;
        panic!("the holder broke");
    });
    panics.await.unwrap_err();
    let pass = gate.enter().unwrap();
    let cancelled = async move {
        let _pass = pass;
        std::future::pending::<()>().await;
    };
    Budget::within(Duration::ZERO).run("hold a pass", cancelled).await.unwrap_err();
    assert_eq!(gate.inside(), 0);
}
