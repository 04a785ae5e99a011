//! What only the host asks for: let everything stand still for a picture of the machine, and go on.
//!
//! Our own node asks for none of it, since it freezes a container from the outside; the host of a
//! virtual machine cannot. Clients never come this far: the edge knows these paths.

mod collapse;
mod file_system;
mod freeze;
mod turn;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use http::header::HeaderValue;
use serde::{Deserialize, Serialize};

use self::file_system::FileSystem;
use self::turn::Turn;
use crate::agent::Agent;
use crate::{log, tasks};

/// Answer header of `/init` that ends a freeze of the whole hierarchy: how well it held.
pub(crate) const AUDIT_HEADER: &str = "x-envd-freeze-audit";

/// What these requests share.
#[derive(Default)]
pub(crate) struct Control {
    turn: Turn,
    file_system: Arc<FileSystem>,
}

/// What stands still, for the agent after this one.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct HandedFreeze {
    groups: Vec<PathBuf>,
    hierarchy: Option<usize>,
    file_system: bool,
}

pub(crate) fn hand_over(agent: &Agent) -> HandedFreeze {
    let (groups, hierarchy) = agent.cgroups.freezer.hand_over();
    HandedFreeze { groups, hierarchy, file_system: agent.control.file_system.is_frozen() }
}

pub(crate) fn take_over(agent: &Agent, handed: HandedFreeze) {
    agent.cgroups.freezer.take_over(handed.groups, handed.hierarchy);
    if handed.file_system {
        agent.control.file_system.take_over();
    }
}

pub(crate) fn routes() -> Router<Arc<Agent>> {
    Router::new()
        .route("/freeze", post(freeze::freeze))
        .route("/unfreeze", post(freeze::unfreeze))
        .route("/fsfreeze", post(file_system::freeze))
        .route("/fsthaw", post(file_system::thaw))
        .route("/collapse", post(collapse::collapse))
}

/// How well a freeze of the whole hierarchy has held so far, if there is one.
pub(crate) async fn audit(agent: &Agent) -> Option<HeaderValue> {
    if agent.cgroups.freezer.is_idle() {
        return None;
    }
    let freezer = Arc::clone(&agent.cgroups.freezer);
    let audit = tasks::blocking(move || freezer.audit()).await??;
    HeaderValue::try_from(serde_json::to_string(&audit).ok()?).ok()
}

/// Lets go on whatever a freeze holds. Does not wait for the turn: the host that says what the
/// sandbox is for wants it to run, whatever was asked before.
pub(crate) async fn thaw(agent: &Agent) {
    if agent.cgroups.freezer.is_idle() {
        return;
    }
    let freezer = Arc::clone(&agent.cgroups.freezer);
    if let Some(Err(error)) = tasks::blocking(move || freezer.thaw()).await {
        log::odd(format_args!("{}", with_cause(&error)));
    }
}

/// The kernel's reason belongs to the answer: nobody else can tell it.
fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
