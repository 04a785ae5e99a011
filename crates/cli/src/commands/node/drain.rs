//! `cofferdam node drain`: asks for it, and sees it through.

use std::pin::pin;
use std::process::ExitCode;

use e2b_wire::{NodeDrain, NodeStatus, NodeStatusChange};
use futures::StreamExt;
use model::NodeId;
use tokio::time::Instant;

use super::documents::follow;
use super::view::View;
use super::{LEFT, drain_path, known, leaks, tell_objects, the};
use crate::args::{Drain, Output};
use crate::client::Api;
use crate::signals::Signals;

/// What a document means to whoever waits.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Wait,
    Empty,
    /// The attempt that was waited for has left this.
    Left(Vec<String>),
    /// The node that was asked is gone; another process has its name.
    Restarted,
}

pub(super) async fn run(api: &Api, options: Drain) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let node = &the(api, options.node).await?;
    let before: NodeDrain = known(node, api.get(&drain_path(node)).await)?;
    let order = Order { api, node, instance: before.service_instance_id.clone() };
    order.give(options.force).await?;
    let mut view = View::new(options.output);
    if !options.wait && options.force_after.is_none() {
        let now: NodeDrain = known(node, api.get(&drain_path(node)).await)?;
        view.last(&now)?;
        return Ok(ExitCode::SUCCESS);
    }

    let mut attempt = options.force.then(|| next_attempt(&before));
    let mut force_at = options.force_after.filter(|_| !options.force).map(|t| Instant::now() + t);
    let mut documents = pin!(follow(api, node));
    let mut last = before;
    loop {
        tokio::select! {
            biased;
            () = signals.next() => {
                let forced = force_at.map_or("", |_| "; it will not be forced by this command");
                view.remark(&format!("not watching any more; the drain goes on{forced}"))?;
                return Ok(ExitCode::FAILURE);
            }
            Some(document) = documents.next() => last = document?,
            () = until(force_at) => {
                view.remark(&format!("time is up: forcing node {node}"))?;
                attempt = Some(next_attempt(&last));
                order.give(true).await?;
                force_at = None;
                continue;
            }
            () = view.tick() => {
                view.refresh()?;
                continue;
            }
        }
        view.show(last.clone())?;
        match verdict(&last, &order.instance, attempt) {
            Verdict::Wait => {}
            Verdict::Empty => return prove_empty(api, node, options.output, view).await,
            Verdict::Left(what) => {
                let list: Vec<String> = what.iter().map(|left| format!("\n  {left}")).collect();
                view.remark(&format!(
                    "node {node} is not drained; left are:{}\nThe same command tries again.",
                    list.concat()
                ))?;
                return Ok(ExitCode::from(LEFT));
            }
            Verdict::Restarted => {
                anyhow::bail!("node {node} was restarted while it drained; it has to be told again")
            }
        }
    }
}

struct Order<'a> {
    api: &'a Api,
    node: &'a NodeId,
    /// The node's process that is meant. One that has taken its place refuses.
    instance: String,
}

impl Order<'_> {
    async fn give(&self, force: bool) -> anyhow::Result<()> {
        let node = self.node;
        let change = NodeStatusChange {
            status: NodeStatus::Draining,
            cluster_id: None,
            force_stop: force.then_some(true),
            service_instance_id: Some(self.instance.clone()),
            // It changes with what this command has asked for already.
            epoch: None,
        };
        known(node, self.api.post(&format!("/nodes/{node}"), &change).await)
    }
}

/// The number of the attempt that a request to force joins or starts.
fn next_attempt(document: &NodeDrain) -> u32 {
    match &document.attempt {
        Some(attempt) if attempt.running => attempt.number,
        Some(attempt) => attempt.number + 1,
        None => 1,
    }
}

fn verdict(document: &NodeDrain, instance: &str, attempt: Option<u32>) -> Verdict {
    if document.service_instance_id != instance {
        return Verdict::Restarted;
    }
    if document.remaining == 0 && !document.accepting {
        return Verdict::Empty;
    }
    match (&document.attempt, attempt) {
        (Some(last), Some(ours))
            if last.number >= ours && !last.running && !last.failed.is_empty() =>
        {
            Verdict::Left(last.failed.clone())
        }
        _ => Verdict::Wait,
    }
}

/// A node with nothing to wait for is drained when nothing on its host is nobody's.
async fn prove_empty(
    api: &Api,
    node: &NodeId,
    output: Output,
    mut view: View,
) -> anyhow::Result<ExitCode> {
    let found = leaks(api, node).await?;
    if found.leaked.is_empty() {
        view.remark(&format!("node {node} is drained; nothing is left"))?;
        return Ok(ExitCode::SUCCESS);
    }
    view.remark(&format!("node {node} runs nothing, and this is left on its host:"))?;
    if !output.json {
        tell_objects(&found.leaked)?;
    }
    Ok(ExitCode::from(LEFT))
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use e2b_wire::{NodeDrain, NodeDrainAttempt, NodeDrainCounts};

    use super::{Verdict, next_attempt, verdict};

    fn document(remaining: u32, attempt: Option<(u32, bool, &[&str])>) -> NodeDrain {
        NodeDrain {
            node_id: "n".into(),
            service_instance_id: "one".into(),
            phase: "draining".into(),
            changed_at: SystemTime::UNIX_EPOCH.into(),
            epoch: 1,
            accepting: false,
            draining_since: None,
            force_at: None,
            remaining,
            counts: NodeDrainCounts::default(),
            blockers: Vec::new(),
            attempt: attempt.map(|(number, running, failed)| NodeDrainAttempt {
                number,
                started_at: SystemTime::UNIX_EPOCH.into(),
                running,
                stopped: 0,
                late: 0,
                failed: failed.iter().map(|&what| what.to_owned()).collect(),
            }),
            eta_ms: None,
            leaked: None,
        }
    }

    #[test]
    fn only_the_attempt_that_was_asked_for_can_fail_a_drain() {
        let left = |what: &str| Verdict::Left(vec![what.to_owned()]);
        let rows = [
            (document(0, None), None, Verdict::Empty),
            (document(1, None), Some(1), Verdict::Wait),
            (document(1, Some((1, true, &[]))), Some(1), Verdict::Wait),
            (document(1, Some((1, false, &["x"]))), Some(1), left("x")),
            // It failed before anybody asked.
            (document(1, Some((1, false, &["x"]))), Some(2), Verdict::Wait),
            (document(1, Some((1, false, &["x"]))), None, Verdict::Wait),
            // It ended everything, and the last of it is on its way out.
            (document(1, Some((1, false, &[]))), Some(1), Verdict::Wait),
        ];
        for (document, attempt, expected) in rows {
            assert_eq!(verdict(&document, "one", attempt), expected, "{document:?}");
        }
        assert_eq!(verdict(&document(0, None), "two", None), Verdict::Restarted);
        let open = NodeDrain { accepting: true, ..document(0, None) };
        assert_eq!(verdict(&open, "one", None), Verdict::Wait, "not drained: empty");
    }

    #[test]
    fn a_request_joins_the_attempt_that_runs_and_else_starts_the_next() {
        assert_eq!(next_attempt(&document(1, None)), 1);
        assert_eq!(next_attempt(&document(1, Some((2, true, &[])))), 2);
        assert_eq!(next_attempt(&document(1, Some((2, false, &["x"])))), 3);
    }
}
