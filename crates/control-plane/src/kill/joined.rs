//! One kill of a sandbox at a time: whoever wants it gone while one is under way joins that one.

use std::collections::HashMap;
use std::sync::Arc;

use model::{EndReason, SandboxId};
use node_wire::NodeError;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::app::App;
use crate::nodes::Session;

type Outcome = Result<(), NodeError>;

/// The kills under way.
#[derive(Debug, Default)]
pub(crate) struct Kills(Mutex<HashMap<SandboxId, Running>>);

#[derive(Debug)]
struct Running {
    node: Arc<Session>,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl App {
    /// Has the node end a sandbox and waits for its answer, for as long as a request may take.
    ///
    /// # Errors
    /// Those of the node; [`NodeError::Unreachable`] when there was no answer.
    ///
    /// Cancel safety: yes; the kill goes on.
    pub(crate) async fn join_kill(
        self: &Arc<Self>,
        node: &Arc<Session>,
        id: &SandboxId,
        reason: EndReason,
    ) -> Outcome {
        loop {
            let (theirs, mut outcome) = self.kill_under_way(node, id, reason);
            let ended = outcome.wait_for(Option::is_some).await.ok();
            let ended = ended.and_then(|ended| (*ended).clone());
            let ended = ended.unwrap_or_else(|| Err(unanswered("the kill was given up")));
            // A copy on another node is another sandbox.
            if Arc::ptr_eq(&theirs, node) {
                return ended;
            }
        }
    }

    fn kill_under_way(
        self: &Arc<Self>,
        node: &Arc<Session>,
        id: &SandboxId,
        reason: EndReason,
    ) -> (Arc<Session>, watch::Receiver<Option<Outcome>>) {
        let mut running = self.kills.0.lock();
        if let Some(known) = running.get(id) {
            return (Arc::clone(&known.node), known.outcome.clone());
        }
        let (tell, outcome) = watch::channel(None);
        let mine = Running { node: Arc::clone(node), outcome: outcome.clone() };
        running.insert(id.clone(), mine);
        drop(running);
        let entry = Entry { app: Arc::clone(self), id: id.clone() };
        let node = Arc::clone(node);
        let span = tracing::Span::current();
        self.tasks.spawn(span, entry.run(Arc::clone(&node), reason, tell));
        (node, outcome)
    }
}

/// One entry of [`Kills`]; dropping it takes it out.
struct Entry {
    app: Arc<App>,
    id: SandboxId,
}

impl Entry {
    async fn run(
        self,
        node: Arc<Session>,
        reason: EndReason,
        tell: watch::Sender<Option<Outcome>>,
    ) {
        // Longer than anybody waits for the answer.
        let limit = self.app.config.limits.request;
        // Whoever waits for an answer keeps the control plane open meanwhile.
        let ended = tokio::select! {
            biased;
            () = self.app.tasks.stop_token().cancelled() => Err(unanswered("the service stops")),
            ended = node.within(limit, node.api().kill(&self.id, reason)) => ended,
        };
        // It is over before anybody hears so: who tries again because of its failure must not join
        // it.
        drop(self);
        tell.send_replace(Some(ended));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.app.kills.0.lock().remove(&self.id);
    }
}

fn unanswered(why: &str) -> NodeError {
    NodeError::Unreachable(why.to_owned())
}
