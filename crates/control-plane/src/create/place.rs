//! Finding a node for a sandbox: asking one after the other.

use std::sync::Arc;
use std::time::Duration;

use lifecycle::Budget;
use model::{NodeId, SandboxSpec, TemplateId};
use node_wire::{CreateError, Started};

use crate::app::App;
use crate::http::ApiError;
use crate::node_answers;
use crate::nodes::Session;
use crate::placement::Standing;
use crate::store::SandboxRow;

/// Nodes that may try a sandbox and fail. Those that turn it away do not count.
const MAX_ATTEMPTS: u32 = 3;

/// What a node may need beyond the time of a start, to undo one that failed.
const UNDO_MARGIN: Duration = Duration::from_secs(10);

/// A sandbox that runs, and where.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) session: Arc<Session>,
    pub(super) started: Started,
}

/// Why a sandbox has no node.
#[derive(Debug)]
pub(super) enum Unplaced {
    /// Nobody was asked: no node takes sandboxes.
    NoNode(ApiError),
    /// The most telling answer of those who were asked.
    Node(CreateError),
    /// The record could not be written.
    Store(ApiError),
}

/// What an answer of a node means for the sandbox it did not start.
#[derive(Debug)]
enum Next {
    /// Nothing was tried; whoever is next is asked, and this node again when it said how it is, or
    /// when nobody has room.
    PassedOver,
    /// Nothing was tried; the reason is in the sandbox.
    NotHere,
    /// It was tried and failed; another node may do better.
    Failed,
    /// No other node would do better.
    Over,
}

impl App {
    /// Asks nodes to start the sandbox of `row` until one does. The row names a node before that
    /// node is asked, so that whoever reads it after a crash knows where to look.
    pub(super) async fn place(
        &self,
        row: &mut SandboxRow,
        spec: SandboxSpec,
    ) -> Result<Placed, Unplaced> {
        let budget = Budget::within(self.config.limits.create);
        let (mut refusal, mut failure) = (None, None);
        let mut attempts = 0;
        for (id, session) in self.nodes.ranked(&row.template) {
            if attempts == MAX_ATTEMPTS || budget.remaining().is_zero() {
                break;
            }
            if row.node.as_ref() != Some(&id) {
                let written = self.store.move_to_node(&row.id, &id).await;
                if !written.map_err(|error| Unplaced::Store(error.into()))? {
                    return Err(Unplaced::Node(CreateError::Cancelled));
                }
                row.node = Some(id);
            }
            session.give();
            let error = match ask(&session, spec.clone(), budget.remaining()).await {
                Ok(started) => {
                    session.creates.count(true);
                    return Ok(Placed { session, started });
                }
                Err(CreateError::Cancelled) if self.is_draining(&session).await => {
                    CreateError::Draining
                }
                Err(error) => error,
            };
            match next(&error) {
                Next::PassedOver => {
                    session.refused(error.clone());
                    keep_sooner(&mut refusal, error);
                }
                Next::NotHere => keep_sooner(&mut refusal, error),
                Next::Failed => {
                    session.creates.count(false);
                    attempts += 1;
                    if matches!(error, CreateError::Unreachable(_)) {
                        session.refused(error.clone());
                    }
                    tracing::warn!(
                        node.id = row.node.as_ref().map(tracing::field::display),
                        error = %observe::chain(&error),
                        "a node did not start a sandbox"
                    );
                    failure = Some(error);
                }
                Next::Over => return Err(Unplaced::Node(error)),
            }
        }
        match failure.or(refusal) {
            Some(error) => Err(Unplaced::Node(error)),
            None => Err(Unplaced::NoNode(self.no_node())),
        }
    }

    /// Whether a start was cancelled by its node, which ends everything it has, and not by someone
    /// who wanted this sandbox gone: another node may have it then.
    async fn is_draining(&self, session: &Session) -> bool {
        self.nodes.refresh(session).await;
        session.report().is_some_and(|report| report.drain.phase.is_draining())
    }

    /// The node that would be asked first.
    pub(super) fn first_choice(&self, template: &TemplateId) -> Option<NodeId> {
        self.nodes.ranked(template).into_iter().next().map(|(id, _)| id)
    }

    /// What a client is told when no node takes sandboxes.
    fn no_node(&self) -> ApiError {
        let standings: Vec<Standing> =
            self.nodes.all().iter().map(|session| session.standing()).collect();
        node_answers::no_node(&standings)
    }
}

/// Has one node start it. A node that does not answer is given up; what it may have started is
/// found when the records are compared.
async fn ask(
    session: &Session,
    spec: SandboxSpec,
    limit: Duration,
) -> Result<Started, CreateError> {
    let created = session.api().create(spec, limit);
    let answer = Budget::within(limit + UNDO_MARGIN).run("create", created).await;
    answer.unwrap_or_else(|late| Err(CreateError::Unreachable(late.to_string())))
}

/// Of several refusals the one after which a client may come back soonest is told.
fn keep_sooner(kept: &mut Option<CreateError>, error: CreateError) {
    let soon = |error: &CreateError| error.retry_after().unwrap_or(Duration::MAX);
    if kept.as_ref().is_none_or(|kept| soon(&error) < soon(kept)) {
        *kept = Some(error);
    }
}

const fn next(error: &CreateError) -> Next {
    match error {
        CreateError::Draining
        | CreateError::Starting
        | CreateError::Full { .. }
        | CreateError::TooManyStarting { .. }
        | CreateError::DiskFull { .. } => Next::PassedOver,
        CreateError::UnknownTemplate(_) => Next::NotHere,
        CreateError::Failed { .. } | CreateError::Expired { .. } | CreateError::Unreachable(_) => {
            Next::Failed
        }
        CreateError::AlreadyExists(_)
        | CreateError::NotPaused(_)
        | CreateError::Invalid(_)
        | CreateError::Cancelled => Next::Over,
    }
}
