//! What clients are told when a node did not do what they asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use e2b_wire::error_code;
use http::StatusCode;
use model::{NodeId, NodePhase, SandboxId};
use node_wire::{CreateError, NodeError, PauseError, StatusError};

use crate::http::ApiError;
use crate::placement::Standing;

/// A node that is away may be back any moment.
const RETRY_UNREACHABLE: Duration = Duration::from_secs(5);
/// A pause or a snapshot is over soon.
const RETRY_BUSY: Duration = Duration::from_secs(1);

/// What a client is told when no node takes sandboxes.
pub(crate) fn no_node(standings: &[Standing]) -> ApiError {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let mut soonest = CreateError::Draining.retry_after();
    for standing in standings {
        let (what, like) = match standing {
            Standing::Phase(phase) => match phase {
                NodePhase::Starting => ("starting", CreateError::Starting),
                // Healthy by the time the counts are made: the next request finds it.
                NodePhase::Healthy => ("ready again", CreateError::Starting),
                NodePhase::Standby => ("on standby", CreateError::Draining),
                NodePhase::Unhealthy => ("unhealthy", CreateError::Draining),
                NodePhase::Draining | NodePhase::Forcing | NodePhase::ForceFailed => {
                    ("draining", CreateError::Draining)
                }
                NodePhase::Stopped => ("stopped", CreateError::Draining),
            },
            Standing::Full => ("full", CreateError::Full { limit: 0 }),
            Standing::Unreachable => ("out of reach", CreateError::Unreachable(String::new())),
        };
        *counts.entry(what).or_default() += 1;
        soonest = soonest.min(like.retry_after());
    }
    let nodes: Vec<String> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
    let nodes = if nodes.is_empty() { "there is none".to_owned() } else { nodes.join(", ") };
    let message = format!("Failed to place sandbox: no node takes new sandboxes ({nodes})");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
        .code(error_code::CAPACITY_UNAVAILABLE)
        .retry_after(soonest)
}

/// What a client is told when the node did not start its sandbox, which is gone then or, if it was
/// paused, paused as before.
pub(crate) fn create_failed(error: &CreateError, id: &SandboxId) -> ApiError {
    use error_code::{
        CAPACITY_UNAVAILABLE, CREATE_FAILED, INTERNAL, NO_COMPATIBLE_NODE, PLACEMENT_TIMEOUT,
    };
    let answer = |status, code, what: &dyn std::fmt::Display| {
        ApiError::new(status, format!("Failed to place sandbox: {what}"))
            .code(code)
            .retry_after(error.retry_after())
    };
    match error {
        CreateError::Draining
        | CreateError::Starting
        | CreateError::Full { .. }
        | CreateError::TooManyStarting { .. }
        | CreateError::DiskFull { .. } => {
            answer(StatusCode::SERVICE_UNAVAILABLE, CAPACITY_UNAVAILABLE, error)
        }
        CreateError::Unreachable(_) => {
            let what = "no node can be reached";
            answer(StatusCode::SERVICE_UNAVAILABLE, CAPACITY_UNAVAILABLE, &what)
        }
        CreateError::UnknownTemplate(_) => {
            answer(StatusCode::SERVICE_UNAVAILABLE, NO_COMPATIBLE_NODE, error)
        }
        CreateError::Invalid(_) => ApiError::bad_request(error.to_string()),
        // The message may name paths of the host: the step is enough for a client.
        CreateError::Failed { step, .. } => {
            let what = format!(
                "the start of {id} failed in step {step}; `cofferdam sandbox explain {id}` and the \
                 log of the node say why"
            );
            answer(StatusCode::INTERNAL_SERVER_ERROR, CREATE_FAILED, &what)
        }
        CreateError::Expired { .. } => {
            answer(StatusCode::GATEWAY_TIMEOUT, PLACEMENT_TIMEOUT, error)
        }
        CreateError::Cancelled => ApiError::new(
            StatusCode::CONFLICT,
            "Failed to place sandbox: it was killed while it started",
        ),
        CreateError::NotPaused(_) => ApiError::no_sandbox(id),
        CreateError::AlreadyExists(_) => {
            let what = "its new id is taken; try again";
            answer(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL, &what)
        }
    }
}

/// What a client is told when its sandbox was not paused, or no snapshot was taken of it.
pub(crate) fn pause_failed(error: &PauseError, id: &SandboxId) -> ApiError {
    let answer = |status, what: &dyn std::fmt::Display| {
        ApiError::new(status, format!("sandbox {id} was not paused or copied: {what}"))
    };
    match error {
        PauseError::NotFound(_) => ApiError::no_sandbox(id),
        PauseError::Paused(_) => answer(StatusCode::CONFLICT, &"it is paused"),
        // Not 409: of a pause that says that it is paused.
        PauseError::Busy(_) => {
            let what = "it is being paused or copied already; try again in a moment";
            answer(StatusCode::SERVICE_UNAVAILABLE, &what).retry_after(Some(RETRY_BUSY))
        }
        PauseError::AgentSilent(_) => {
            let what = "its guest agent does not answer; it runs on. Try again, or pause it with its \
                        memory and without requireHealthyGuest";
            answer(StatusCode::SERVICE_UNAVAILABLE, &what).retry_after(Some(RETRY_BUSY))
        }
        PauseError::DiskFull { .. } => answer(StatusCode::SERVICE_UNAVAILABLE, error)
            .code(error_code::CAPACITY_UNAVAILABLE)
            .retry_after(CreateError::Draining.retry_after()),
        // It is of the sandbox itself: no waiting and no other node helps. Not 409, as above.
        PauseError::Limit(_) => answer(StatusCode::BAD_REQUEST, error),
        // The reason may name paths of the host.
        PauseError::Failed(_) => {
            let what = "it runs on; the log of the node says why";
            answer(StatusCode::INTERNAL_SERVER_ERROR, &what).code(error_code::INTERNAL)
        }
        PauseError::Lost(_) => {
            let what = format!("it has ended; `cofferdam sandbox explain {id}` says how");
            answer(StatusCode::INTERNAL_SERVER_ERROR, &what).code(error_code::INTERNAL)
        }
        PauseError::Unreachable(_) => {
            let message = format!("the node of sandbox {id} cannot be reached");
            ApiError::unavailable(message, RETRY_UNREACHABLE)
        }
    }
}

/// What a client is told who wants a sandbox to go on with a memory whose guest agent was silent.
pub(crate) fn agent_silent(id: &SandboxId) -> ApiError {
    let message = format!(
        "sandbox {id} was paused while its guest agent did not answer; its memory would bring that \
         back. Start it from its files with memory: false"
    );
    ApiError::new(StatusCode::CONFLICT, message).code(error_code::AGENT_SILENT)
}

/// What a client is told when a call about a sandbox that exists failed on its node.
pub(crate) fn call_failed(error: &NodeError, id: &SandboxId) -> ApiError {
    match error {
        NodeError::NotFound(_) => ApiError::no_sandbox(id),
        NodeError::Stuck { .. } => ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!(
                "sandbox {id} does not run any more, but the node has not released all it held; \
                 the node keeps trying, and so does a repeated DELETE"
            ),
        )
        .code(error_code::INTERNAL),
        NodeError::Internal(_) => ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the node of sandbox {id} failed; its log says why"),
        )
        .code(error_code::INTERNAL),
        NodeError::Unreachable(_) => {
            let message = format!("the node of sandbox {id} cannot be reached");
            ApiError::unavailable(message, RETRY_UNREACHABLE)
        }
    }
}

/// What an operator is told when a node did not end a sandbox. Operators see what is left.
pub(crate) fn kill_failed(error: &NodeError, node: &NodeId, sandbox: &SandboxId) -> ApiError {
    match error {
        NodeError::NotFound(_) => {
            ApiError::not_found(format!("node {node} has no sandbox {sandbox}"))
        }
        NodeError::Stuck { left, .. } => {
            let message = format!("sandbox {sandbox} does not run any more; left are: {left}");
            ApiError::new(StatusCode::CONFLICT, message)
        }
        NodeError::Unreachable(_) | NodeError::Internal(_) => question_failed(error, node),
    }
}

/// What an operator is told when a node did not change its status. Operators see the reason.
pub(crate) fn status_failed(error: &StatusError, id: &NodeId) -> ApiError {
    match error {
        StatusError::DrainIsFinal(reason) => {
            ApiError::new(StatusCode::CONFLICT, format!("{reason}; restart node {id} to use it"))
        }
        StatusError::Stale(difference) => {
            ApiError::new(StatusCode::CONFLICT, format!("node {id} {difference}; read it again"))
        }
        StatusError::Unreachable(reason) => unreachable(id, reason),
        StatusError::Internal(_) => {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("node {id}: {error}"))
                .code(error_code::INTERNAL)
        }
    }
}

/// What an operator is told when a node did not answer a question about itself.
pub(crate) fn question_failed(error: &NodeError, id: &NodeId) -> ApiError {
    match error {
        NodeError::Unreachable(reason) => unreachable(id, reason),
        NodeError::NotFound(_) | NodeError::Stuck { .. } | NodeError::Internal(_) => {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("node {id}: {error}"))
                .code(error_code::INTERNAL)
        }
    }
}

/// Not the same as a node that answers with an error: trying again is of use.
fn unreachable(id: &NodeId, reason: &str) -> ApiError {
    let message = format!("node {id} cannot be reached: {reason}");
    ApiError::new(StatusCode::BAD_GATEWAY, message).retry_after(Some(RETRY_UNREACHABLE))
}

#[cfg(test)]
mod tests {
    use model::{NodeId, NodePhase, SandboxId};
    use node_wire::{CreateError, NodeError, StatusError};

    use super::{call_failed, create_failed, no_node, question_failed, status_failed};
    use crate::placement::Standing;

    #[test]
    fn without_a_node_a_client_learns_why_and_when_to_return() {
        let draining = Standing::Phase(NodePhase::Draining);
        let rows: [(&[Standing], &str, u64); 4] = [
            (&[], "(there is none)", 30),
            (&[draining], "(1 draining)", 30),
            (&[draining, Standing::Unreachable, draining], "(2 draining, 1 out of reach)", 5),
            (&[Standing::Phase(NodePhase::Starting), draining], "(1 draining, 1 starting)", 1),
        ];
        for (standings, part, wait) in rows {
            let answer = no_node(standings);
            let (status, message, code, waits) = answer.parts();
            assert_eq!((status, waits), (503, Some(wait)), "{message}");
            assert_eq!(code, Some("sandbox_capacity_unavailable"));
            assert!(message.starts_with("Failed to place sandbox") && message.ends_with(part));
        }
    }

    #[test]
    fn an_operator_can_tell_a_node_that_is_away_from_one_that_failed() {
        let id = NodeId::parse("n1").unwrap();
        let away = status_failed(&StatusError::Unreachable("no route".into()), &id);
        let (status, message, _, wait) = away.parts();
        assert_eq!((status, wait), (502, Some(5)));
        assert!(message.contains("n1") && message.contains("no route"), "{message}");
        assert_eq!(status_failed(&StatusError::Internal("x".into()), &id).parts().0, 500);
        assert_eq!(question_failed(&NodeError::Unreachable("x".into()), &id).parts().0, 502);
        assert_eq!(question_failed(&NodeError::Internal("x".into()), &id).parts().0, 500);
    }

    #[test]
    fn every_refusal_of_a_node_has_its_status_code_and_waiting_time() {
        let capacity = Some("sandbox_capacity_unavailable");
        let rows = [
            (CreateError::Draining, 503, capacity, Some(30)),
            (CreateError::Starting, 503, capacity, Some(1)),
            (CreateError::Full { limit: 3 }, 503, capacity, Some(5)),
            (CreateError::TooManyStarting { limit: 3 }, 503, capacity, Some(1)),
            (CreateError::DiskFull { free_mib: 1, reserve_mib: 2 }, 503, capacity, Some(30)),
            (CreateError::Unreachable("eof".into()), 503, capacity, Some(5)),
            (
                CreateError::UnknownTemplate("t".into()),
                503,
                Some("sandbox_no_compatible_node"),
                None,
            ),
            (CreateError::Invalid("no".into()), 400, None, None),
            (
                CreateError::Failed { step: "slot", message: "/secret/path".into() },
                500,
                Some("sandbox_create_failed"),
                None,
            ),
            (
                CreateError::Expired { step: "boot", limit_ms: 5 },
                504,
                Some("sandbox_placement_timeout"),
                None,
            ),
            (CreateError::Cancelled, 409, None, None),
            (CreateError::NotPaused("i".into()), 404, None, None),
            (CreateError::AlreadyExists("i".into()), 500, Some("internal_server_error"), None),
        ];
        for (error, status, code, wait) in rows {
            let id = SandboxId::parse("iabc").unwrap();
            let answer = create_failed(&error, &id);
            let (got_status, message, got_code, got_wait) = answer.parts();
            assert_eq!((got_status, got_code, got_wait), (status, code, wait), "{error:?}");
            assert!(!message.contains("/secret"), "{message}");
            let placed = message.starts_with("Failed to place sandbox");
            let other = matches!(error, CreateError::Invalid(_) | CreateError::NotPaused(_));
            assert_eq!(placed, !other, "{message}");
        }
    }

    #[test]
    fn a_failed_start_names_its_step_and_the_sandbox() {
        let id = SandboxId::parse("iabc").unwrap();
        let error = CreateError::Failed { step: "slot", message: String::new() };
        let answer = create_failed(&error, &id);
        assert!(answer.parts().1.contains("step slot") && answer.parts().1.contains("iabc"));
        let error = CreateError::Expired { step: "boot", limit_ms: 5 };
        assert!(create_failed(&error, &id).parts().1.contains("boot"));
    }

    #[test]
    fn a_stuck_sandbox_is_an_error_that_invites_another_try() {
        let id = SandboxId::parse("iabc").unwrap();
        let stuck = NodeError::Stuck { id: "iabc".into(), left: "/mnt".into() };
        let answer = call_failed(&stuck, &id);
        let (status, message, ..) = answer.parts();
        assert_eq!(status, 500);
        assert!(message.contains("repeated DELETE") && !message.contains("/mnt"), "{message}");
        assert_eq!(call_failed(&NodeError::NotFound("iabc".into()), &id).parts().0, 404);
        assert_eq!(call_failed(&NodeError::Unreachable("x".into()), &id).parts().3, Some(5));
    }
}
