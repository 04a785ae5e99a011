//! A request for another status that was made for the node as it was.

use std::sync::Barrier;

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

#[tokio::test]
async fn of_requests_that_race_for_one_epoch_one_changes_the_node() {
    const ASKERS: usize = 2;
    let images = Images::new();
    let bench = images.node().await;
    let inner = &bench.node.inner;
    let together = Barrier::new(ASKERS);
    for round in 0..40_000 {
        let before = inner.drain_document();
        // Of those that change something.
        let request = match before.phase {
            NodePhase::Healthy => NodeRequest::Standby,
            _ => NodeRequest::Healthy,
        };
        let instance = Some(before.service_instance);
        let expected = Expected { instance, epoch: Some(before.epoch) };
        let ask = || {
            together.wait();
            inner.change(request, &expected)
        };
        let told: Vec<_> = std::thread::scope(|scope| {
            let askers: Vec<_> = (0..ASKERS).map(|_| scope.spawn(ask)).collect();
            askers.into_iter().map(|asker| asker.join().unwrap()).collect()
        });
        assert_eq!(told.iter().filter(|told| told.is_ok()).count(), 1, "{round}: {told:?}");
        assert_eq!(inner.drain_document().epoch, before.epoch + 1, "{round}");
    }
    bench.stop_clean("one epoch").await;
}
