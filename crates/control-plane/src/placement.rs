use e2b_wire::error_code;
use http::StatusCode;
use node_wire::{CreateError, NodeError};

use crate::http::ApiError;

/// What a client is told when the node did not start its sandbox.
pub(crate) fn create_failed(error: &CreateError) -> ApiError {
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
            let what = format!("its start failed in step {step}; the log of the node says why");
            answer(StatusCode::INTERNAL_SERVER_ERROR, CREATE_FAILED, &what)
        }
        CreateError::Expired { .. } => {
            answer(StatusCode::GATEWAY_TIMEOUT, PLACEMENT_TIMEOUT, error)
        }
        CreateError::Cancelled => ApiError::new(
            StatusCode::CONFLICT,
            "Failed to place sandbox: it was killed while it started",
        ),
        CreateError::AlreadyExists(_) => {
            let what = "its new id is taken; try again";
            answer(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL, &what)
        }
    }
}

/// What a client is told when a call about a sandbox that exists failed on its node.
pub(crate) fn call_failed(error: &NodeError, id: &model::SandboxId) -> ApiError {
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
            let wait = std::time::Duration::from_secs(5);
            ApiError::unavailable(format!("the node of sandbox {id} cannot be reached"), wait)
        }
    }
}

#[cfg(test)]
mod tests {
    use model::SandboxId;
    use node_wire::{CreateError, NodeError};

    use super::{call_failed, create_failed};

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
            (CreateError::AlreadyExists("i".into()), 500, Some("internal_server_error"), None),
        ];
        for (error, status, code, wait) in rows {
            let answer = create_failed(&error);
            let (got_status, message, got_code, got_wait) = answer.parts();
            assert_eq!((got_status, got_code, got_wait), (status, code, wait), "{error:?}");
            assert!(!message.contains("/secret"), "{message}");
            let placed = message.starts_with("Failed to place sandbox");
            assert_eq!(placed, !matches!(error, CreateError::Invalid(_)), "{message}");
        }
    }

    #[test]
    fn a_failed_start_names_its_step() {
        let error = CreateError::Failed { step: "slot", message: String::new() };
        assert!(create_failed(&error).parts().1.contains("step slot"));
        let error = CreateError::Expired { step: "boot", limit_ms: 5 };
        assert!(create_failed(&error).parts().1.contains("boot"));
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
