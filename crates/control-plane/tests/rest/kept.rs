//! A sandbox whose files are being kept, and whose node has not released yet what ran of it. It is on
//! no list of paused ones then, and the end of its run is no end of it: whatever its record says, no
//! comparison closes that.

use lifecycle::TaskGroup;
use model::{NodePhase, SandboxId, SandboxPhase};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::fake_node::FakeNode;
use crate::service::{Service, wait_for};

/// What the record says of it when its control plane ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Starting,
    Running,
    Pausing,
    Paused,
    Resuming,
}

impl Written {
    const ALL: [Self; 5] =
        [Self::Starting, Self::Running, Self::Pausing, Self::Paused, Self::Resuming];

    /// A control plane that is in the middle of it.
    async fn reach(self) -> (Service, Runtime, SandboxId) {
        let (service, runtime) = Service::start_doomed().await;
        let node = service.node.clone();
        if self == Self::Starting {
            node.hold_answers(true);
            let client = service.client.clone();
            let asking = TaskGroup::default();
            asking.spawn(tracing::Span::none(), async move {
                client.try_post("/v2/sandboxes", &json!({"templateID": "base"}), "key").await;
            });
            wait_for(async || node.count() == 1).await;
            let id = node.only();
            return (service, runtime, id);
        }
        let id = service.create(json!({})).await;
        match self {
            Self::Starting | Self::Running => {}
            Self::Pausing => {
                node.hold_pauses(true);
                ask(&service, format!("/sandboxes/{id}/pause"));
                wait_for(async || *node.held_pauses.borrow() == 1).await;
            }
            Self::Paused => assert_eq!(service.pause(&id, json!({})).await, 204),
            Self::Resuming => {
                assert_eq!(service.pause(&id, json!({})).await, 204);
                node.hold_resumes(true);
                ask(&service, format!("/sandboxes/{id}/resume"));
                wait_for(async || *node.held_resumes.borrow() == 1).await;
            }
        }
        (service, runtime, id)
    }
}

/// Asks a service that dies before it answers.
fn ask(service: &Service, path: String) {
    let client = service.client.clone();
    let asking = TaskGroup::default();
    asking.spawn(tracing::Span::none(), async move {
        client.try_post(&path, &json!({}), "key").await;
    });
}

fn let_go(node: &FakeNode) {
    node.hold_answers(false);
    node.hold_pauses(false);
    node.hold_resumes(false);
}

/// Waits until two comparisons have begun and ended.
async fn compared(service: &Service) {
    let before = *service.node.listed.borrow();
    // One asks twice at most; the first may have been under way.
    wait_for(async || {
        service.compare();
        *service.node.listed.borrow() >= before + 6
    })
    .await;
    service.ready().await;
}

/// The node is another process in the place of the one that was to pause it, which has begun with that:
/// first it takes over what there is, then it is open, and the teardown is stuck for a while.
#[tokio::test]
async fn a_sandbox_whose_files_are_being_kept_is_closed_by_no_comparison() {
    for written in Written::ALL {
        for phase in [SandboxPhase::Stopping, SandboxPhase::TearingDown, SandboxPhase::Stuck] {
            let (service, runtime, id) = written.reach().await;
            let between = |node: &FakeNode| {
                node.seal_slowly(&id, phase);
                node.set_phase(NodePhase::Starting);
                node.set_instance("node-1-instance-2");
            };
            let service = service.crash(runtime, between).await;
            let_go(&service.node);
            compared(&service).await;
            service.node.set_phase(NodePhase::Healthy);
            compared(&service).await;
            let explained = service.explain(&id).await;
            assert_eq!(explained["ended"], json!(null), "{written:?}, {phase:?}: {explained}");
            assert_eq!(service.routes.addr(&id), None, "{written:?}, {phase:?}");
            service.node.seal(&id);
            service.compare();
            service.is(&id, "paused").await;
            let status = service.connect(&id).await;
            assert_eq!(status, 201, "{written:?}, {phase:?}");
            service.stop().await;
        }
    }
}

/// A node that is asked for both lists may start the only paused one in between: an order of a control
/// plane that has ended comes late.
#[tokio::test]
async fn a_sandbox_that_goes_on_between_two_answers_is_in_one_of_them() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    assert_eq!(service.pause(&id, json!({"memory": false})).await, 204);
    let node = service.node.clone();
    node.hold_lists(true);
    let before = *node.listed.borrow();
    service.compare();
    wait_for(async || *node.listed.borrow() > before).await;
    node.start_unheard(&id);
    node.hold_lists(false);
    service.is(&id, "running").await;
    assert_eq!(service.connect(&id).await, 200);
    service.stop().await;
}
