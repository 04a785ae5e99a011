//! A node's events, told on to those who listen here.

use std::sync::Arc;

use connectrpc::ConnectError;
use lifecycle::TaskGroup;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tracing::{debug_span, info};

use super::Link;
use crate::NodeEvent;
use crate::grpc::convert;
use crate::grpc::proto::cofferdam::node::v1::{self, NodeServiceClient};

/// Events that a listener may be behind.
const CAPACITY: usize = 1024;

/// Listeners share one stream. When it breaks, events may be missing, so every listener's channel
/// is closed: whoever wants to go on subscribes again and then lists.
pub(super) struct Events {
    nodes: NodeServiceClient<Link>,
    tasks: TaskGroup,
    current: Arc<Mutex<Option<Stream>>>,
}

#[derive(Debug)]
struct Stream {
    listeners: broadcast::WeakSender<NodeEvent>,
    /// Whether the subscription is in force, or has failed: either way it is decided.
    settled: watch::Receiver<bool>,
}

impl Events {
    pub(super) fn new(nodes: NodeServiceClient<Link>, tasks: TaskGroup) -> Self {
        Self { nodes, tasks, current: Arc::default() }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<NodeEvent> {
        let mut current = self.current.lock();
        let listeners = current.as_ref().and_then(|stream| stream.listeners.upgrade());
        if let Some(listeners) = listeners {
            return listeners.subscribe();
        }
        let (listeners, receiver) = broadcast::channel(CAPACITY);
        let (settled, is_settled) = watch::channel(false);
        *current = Some(Stream { listeners: listeners.downgrade(), settled: is_settled });
        let teller = Teller { listeners, settled, current: Arc::clone(&self.current) };
        let nodes = self.nodes.clone();
        let stop = self.tasks.stop_token().clone();
        self.tasks.spawn(debug_span!("node_events"), async move {
            let told = tokio::select! {
                biased;
                () = stop.cancelled() => Ok(()),
                told = teller.tell(&nodes) => told,
            };
            if let Err(error) = told {
                info!(error = %observe::chain(&error), "no more events of a node");
            }
        });
        receiver
    }

    /// Waits until the subscription that was begun is in force, or has failed.
    pub(super) async fn settled(&self) {
        let settled = self.current.lock().as_ref().map(|stream| stream.settled.clone());
        if let Some(mut settled) = settled {
            // Its sender is gone when the stream has ended: that is decided, too.
            drop(settled.wait_for(|settled| *settled).await);
        }
    }
}

struct Teller {
    listeners: broadcast::Sender<NodeEvent>,
    settled: watch::Sender<bool>,
    current: Arc<Mutex<Option<Stream>>>,
}

impl Teller {
    /// Until the stream breaks or nobody listens.
    async fn tell(&self, nodes: &NodeServiceClient<Link>) -> Result<(), ConnectError> {
        let mut stream = nodes.watch_events(v1::WatchEventsRequest::default()).await?;
        loop {
            let message = tokio::select! {
                biased;
                () = self.listeners.closed() => {
                    if self.is_done() {
                        return Ok(());
                    }
                    continue;
                }
                message = stream.message::<v1::Event>() => message?,
            };
            let Some(message) = message else { return Ok(()) };
            // The first message is the word that the subscription is in force.
            self.settled.send_replace(true);
            let event = convert::event(message.to_owned_message());
            let event = event.map_err(|bad| ConnectError::internal(bad.to_string()))?;
            if let Some(event) = event
                && self.listeners.send(event).is_err()
                && self.is_done()
            {
                return Ok(());
            }
        }
    }

    /// Whether nobody listens, and nobody will: a new listener gets a stream of its own.
    fn is_done(&self) -> bool {
        let mut current = self.current.lock();
        let done = self.listeners.receiver_count() == 0;
        if done {
            *current = None;
        }
        done
    }
}
