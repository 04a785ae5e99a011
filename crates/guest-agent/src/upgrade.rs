//! `POST /upgrade`: another binary goes on as this process, with everything that runs.
//!
//! The order is such that nothing is lost by a binary that is no good: it is received, and asked
//! as a child what it can take over; then all work is parked where nothing is half done, what is
//! known is copied, and the binary executed. Only an execution that succeeds ends anything. Before
//! it, letting go of what is parked is all it takes to go on.

mod attempt;
mod binary;
mod descriptors;
mod exec;
mod gate;
mod handler;
mod quiesce;
mod resume;
mod state;

pub(crate) use self::descriptors::claim;
pub(crate) use self::gate::layer;
pub(crate) use self::handler::upgrade;
pub(crate) use self::resume::{Predecessor, ResumeError, take_over};
pub(crate) use self::state::{Arrived, Leaving};

use std::ffi::OsString;
use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::hold::Hold;

/// Of what one agent hands on to the next. To be raised whenever an older agent's would be read
/// wrongly.
pub const FORMAT: u32 = 1;
/// What the node reads after an upgrade: how much was taken over.
pub(crate) const HANDOVER_HEADER: &str = "x-envd-handover";

/// What upgrades of this agent need and change.
pub(crate) struct Upgrades {
    /// One at a time.
    turn: Arc<Semaphore>,
    /// Parks requests before they begin, and the acceptor of connections.
    pub(crate) requests: Arc<Hold>,
    /// Whether this program is ending, and is not to become another one any more.
    ending: Mutex<bool>,
    listener: Arc<TcpListener>,
    /// What this agent was told on its command line, for the next one.
    arguments: Vec<OsString>,
    /// How much was taken over from the agent before this one, if there was one.
    report: OnceLock<HeaderValue>,
}

impl Upgrades {
    pub(crate) fn new(listener: Arc<TcpListener>, arguments: Vec<OsString>) -> Self {
        let turn = Arc::new(Semaphore::new(1));
        let (requests, ending) = (Arc::default(), Mutex::new(false));
        Self { turn, requests, ending, listener, arguments, report: OnceLock::new() }
    }

    /// What `/init` tells of the agent before this one, if there was one.
    pub(crate) fn report(&self) -> Option<&HeaderValue> {
        self.report.get()
    }

    /// From now on this program ends as this program. One that was told to end must not live on
    /// as its successor, which was not.
    pub(crate) fn end(&self) {
        *self.ending.lock() = true;
    }
}
