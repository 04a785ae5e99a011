//! `cofferdam node`: looking at nodes, and emptying them, through the API.

mod documents;
mod drain;
mod text;
mod view;

use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context;
use e2b_wire::{Node, NodeDrain, NodeLeaks, NodeObject};
use futures::StreamExt;
use http::StatusCode;
use model::NodeId;

use crate::args;
use crate::client::{Api, CallError};
use crate::say;
use crate::signals::Signals;
use documents::follow;
use view::View;

/// The exit code when something is there that should be gone.
const LEFT: u8 = 3;

pub(crate) async fn run(api: &Api, command: args::NodeAsking) -> anyhow::Result<ExitCode> {
    match command {
        args::NodeAsking::Ls(output) => list(api, output).await,
        args::NodeAsking::Status { node, watch: true, output, .. } => {
            watch(api, &the(api, node).await?, output).await
        }
        args::NodeAsking::Status { node, ready, output, .. } => {
            let node = the(api, node).await?;
            let document: NodeDrain = known(&node, api.get(&drain_path(&node)).await)?;
            View::new(output).last(&document)?;
            let fails = ready && !document.accepting;
            Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        args::NodeAsking::Drain(options) => drain::run(api, options).await,
        args::NodeAsking::Leaks { node, output } => {
            let found = leaks(api, &the(api, node).await?).await?;
            if output.json {
                say::answer(&serde_json::to_string_pretty(&found)?)?;
            } else {
                let (owned, leaked) = (found.owned.len(), found.leaked.len());
                say::answer(&format!("{owned} objects owned, {leaked} leaked"))?;
                tell_objects(&found.leaked)?;
            }
            Ok(if found.leaked.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(LEFT) })
        }
    }
}

/// Every node, by its id.
pub(super) async fn all(api: &Api) -> anyhow::Result<Vec<Node>> {
    // Without a node the API answers `null`, as E2B's does.
    let nodes: Option<Vec<Node>> = api.get("/nodes").await?;
    Ok(nodes.unwrap_or_default())
}

/// The node that is named, or the only one.
async fn the(api: &Api, named: args::Which) -> anyhow::Result<NodeId> {
    if let Some(id) = named.id {
        return Ok(id);
    }
    let ids: Vec<String> = all(api).await?.into_iter().map(|node| node.detail.id).collect();
    match ids.as_slice() {
        [only] => only.parse().with_context(|| format!("node {only:?}")),
        [] => anyhow::bail!("the service has no node"),
        several => anyhow::bail!("which node? there are {}", several.join(", ")),
    }
}

async fn list(api: &Api, output: args::Output) -> anyhow::Result<ExitCode> {
    let nodes = all(api).await?;
    if output.json {
        say::answer(&serde_json::to_string_pretty(&nodes)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let head = ["ID", "STATUS", "PHASE", "SANDBOXES", "STARTING", "STUCK", "VERSION"];
    let rows = nodes.into_iter().map(|node| {
        let detail = node.detail;
        let unreachable = detail.unreachable_since.map_or("", |_| ", unreachable");
        [
            detail.id,
            format!("{}{unreachable}", detail.status),
            detail.drain.phase,
            detail.sandbox_count.to_string(),
            node.sandbox_starting_count.to_string(),
            detail.drain.counts.stuck.to_string(),
            detail.version,
        ]
    });
    say::answer(&say::table(&Vec::from_iter([head.map(str::to_owned)].into_iter().chain(rows))))?;
    Ok(ExitCode::SUCCESS)
}

/// Shows the node's drain until a signal.
async fn watch(api: &Api, node: &NodeId, output: args::Output) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let mut documents = pin!(follow(api, node));
    let mut view = View::new(output);
    loop {
        tokio::select! {
            biased;
            () = signals.next() => return Ok(ExitCode::SUCCESS),
            Some(document) = documents.next() => view.show(document?)?,
            () = view.tick() => view.refresh()?,
        }
    }
}

async fn leaks(api: &Api, node: &NodeId) -> anyhow::Result<NodeLeaks> {
    known(node, api.get(&format!("/nodes/{node}/leaks")).await)
}

fn tell_objects(objects: &[NodeObject]) -> anyhow::Result<()> {
    if objects.is_empty() {
        return Ok(());
    }
    let row = |object: &NodeObject| {
        [format!("  {}", object.kind), object.owner.clone(), object.name.clone()]
    };
    say::answer(&say::table(&Vec::from_iter(objects.iter().map(row))))?;
    Ok(())
}

fn drain_path(node: &NodeId) -> String {
    format!("/nodes/{node}/drain")
}

/// Says of an unknown node how the others are found.
fn known<T>(node: &NodeId, answer: Result<T, CallError>) -> anyhow::Result<T> {
    let is_unknown =
        answer.as_ref().is_err_and(|error| error.status() == Some(StatusCode::NOT_FOUND));
    if is_unknown {
        anyhow::bail!("the service has no node {node}; see `cofferdam node ls`");
    }
    answer.with_context(|| format!("ask about node {node}"))
}
