//! A request for another status that was made for the node as it was.

use std::sync::Arc;

use model::{NodePhase, NodeRequest};
use node_wire::{Expected, NodeApi, StatusError};

use super::{Bench, Images};

const REQUESTS: [NodeRequest; 5] = [
    NodeRequest::Healthy,
    NodeRequest::Standby,
    NodeRequest::Unhealthy,
    NodeRequest::Drain,
    NodeRequest::DrainForced,
];

/// Every request that is made for another node, or for another epoch of this, is refused and has
/// no effect.
async fn refuses_what_is_stale(bench: &Bench, case: &str) {
    let now = bench.document().await;
    let instance = Some(now.service_instance.clone());
    let stale = [
        Expected { instance: Some("another".into()), epoch: None },
        Expected { instance: Some("another".into()), epoch: Some(now.epoch) },
        Expected { instance: instance.clone(), epoch: Some(now.epoch + 1) },
        Expected { instance, epoch: Some(now.epoch - 1) },
    ];
    for (request, expected) in REQUESTS.into_iter().flat_map(|r| stale.clone().map(|s| (r, s))) {
        let refused = bench.node.request_if(request, expected.clone()).await.unwrap_err();
        assert!(matches!(refused, StatusError::Stale(_)), "{case}: {expected:?}: {refused}");
        let then = bench.document().await;
        let told = |d: &node_wire::DrainStatus| (d.phase, d.epoch, d.changed_at, d.accepting);
        assert_eq!(told(&then), told(&now), "{case}: {request:?} {expected:?}");
        assert_eq!(then.attempt, now.attempt, "{case}: {request:?} {expected:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_for_another_instance_or_epoch_changes_nothing_in_any_phase() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    refuses_what_is_stale(&bench, "healthy").await;
    bench.create_all(["i2"]).await;
    bench.node.request(NodeRequest::Drain).await.unwrap();
    refuses_what_is_stale(&bench, "draining").await;
    assert_eq!(bench.list().await.len(), 2, "nothing was ended");
    bench.node.request(NodeRequest::DrainForced).await.unwrap();
    bench.attempt_ended().await;
    // Nothing would change, and who is mistaken hears of it all the same.
    refuses_what_is_stale(&bench, "all ended").await;
    bench.stop_clean("stale").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_requests_for_one_epoch_one_changes_the_node() {
    let images = Images::new();
    let bench = images.node().await;
    for _ in 0..20 {
        let before = bench.document().await;
        // Of those that change something.
        let request = match before.phase {
            NodePhase::Healthy => NodeRequest::Standby,
            _ => NodeRequest::Healthy,
        };
        let expected =
            Expected { instance: Some(before.service_instance), epoch: Some(before.epoch) };
        let asked = (0..16).map(|_| {
            let (node, expected) = (Arc::clone(&bench.node), expected.clone());
            async move { node.request_if(request, expected).await }
        });
        let mut asking = tokio::task::JoinSet::new();
        asked.for_each(|ask| drop(asking.spawn(ask)));
        let told = asking.join_all().await;
        assert_eq!(told.iter().filter(|told| told.is_ok()).count(), 1, "{told:?}");
        assert_eq!(bench.document().await.epoch, before.epoch + 1);
    }
    bench.stop_clean("one epoch").await;
}
