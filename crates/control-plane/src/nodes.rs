//! The nodes this control plane has, and what each last said of itself.

mod session;

pub(crate) use session::{Link, Report, Session};

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use model::{NodeId, TemplateId};
use node_wire::{NodeApi, NodeError, TemplateInfo};
use parking_lot::Mutex;

use crate::app::App;
use crate::http::ApiError;
use crate::placement::{self, Candidate};
use crate::store::SandboxRow;

/// Clients of a node that nobody has heard of may try again; it may be on its way back.
const RETRY_UNKNOWN_NODE: Duration = Duration::from_secs(30);

/// Every node, whether it answers or not.
#[derive(Debug)]
pub(crate) struct Nodes {
    sessions: Vec<Arc<Session>>,
    /// Held while a node gets its name, so that no two have the same.
    naming: Mutex<()>,
    answer: Duration,
}

impl Nodes {
    /// `answer` is how long a node may take to say how it is.
    pub(crate) fn new(nodes: Vec<Arc<dyn NodeApi>>, answer: Duration) -> Self {
        let sessions = nodes.into_iter().map(|api| Arc::new(Session::new(api))).collect();
        Self { sessions, naming: Mutex::default(), answer }
    }

    pub(crate) fn all(&self) -> &[Arc<Session>] {
        &self.sessions
    }

    pub(crate) fn get(&self, id: &NodeId) -> Option<&Arc<Session>> {
        self.sessions.iter().find(|session| session.id() == Some(id))
    }

    /// Whether every node has said its name: what names another one belongs to nobody then.
    pub(crate) fn all_named(&self) -> bool {
        self.sessions.iter().all(|session| session.id().is_some())
    }

    /// Asks the node how it is. Bounded by itself.
    ///
    /// Cancel safety: yes; what it knew stays.
    pub(crate) async fn refresh(&self, session: &Session) {
        session.refresh(self.answer, |report| self.name(session, report)).await;
    }

    /// Asks every node at once.
    pub(crate) async fn refresh_all(&self) {
        join_all(self.sessions.iter().map(|session| self.refresh(session))).await;
    }

    /// Keeps the name a node first had, and one node per name.
    fn name(&self, session: &Session, report: &Report) -> Result<(), NodeError> {
        let told = &report.info.id;
        let _alone = self.naming.lock();
        let problem = match session.id() {
            Some(known) if known == told => return Ok(()),
            Some(known) => {
                format!("node {known} calls itself {told} now; restart the service to take it anew")
            }
            None if self.get(told).is_some() => {
                format!("two nodes call themselves {told}; give one of them another name")
            }
            None => {
                session.set_id(told.clone());
                return Ok(());
            }
        };
        Err(NodeError::Internal(problem))
    }

    /// The nodes to ask for a sandbox from `template`, the best first.
    pub(crate) fn ranked(&self, template: &TemplateId) -> Vec<(NodeId, Arc<Session>)> {
        let candidates: Vec<Candidate> =
            self.sessions.iter().filter_map(|session| session.candidate(template)).collect();
        let ranked = placement::pick(candidates).into_iter();
        ranked
            .filter_map(|id| self.get(&id).map(|session| (id.clone(), Arc::clone(session))))
            .collect()
    }

    /// What any node can start for everybody, each once; of two templates with one name the later node's counts.
    pub(crate) fn templates(&self) -> Vec<TemplateInfo> {
        let mut reports: Vec<Arc<Report>> =
            self.sessions.iter().filter_map(|session| session.report()).collect();
        reports.sort_by(|a, b| a.info.id.cmp(&b.info.id));
        let mut templates: Vec<TemplateInfo> = Vec::new();
        for template in reports.iter().flat_map(|report| &report.info.templates) {
            if !template.snapshot && !templates.iter().any(|known| known.id == template.id) {
                templates.push(template.clone());
            }
        }
        templates
    }
}

impl App {
    /// The node a sandbox is on, in whatever phase it is.
    pub(crate) fn node_of(&self, row: &SandboxRow) -> Result<&Arc<Session>, ApiError> {
        let named = row.node.as_ref().and_then(|id| self.nodes.get(id));
        // A row without a node that is here is older than the nodes' names are: there was one.
        let only = match self.nodes.all() {
            [only] => Some(only),
            _ => None,
        };
        named.or(only).ok_or_else(|| {
            let message = format!("the node of sandbox {} is not known here now", row.id);
            ApiError::unavailable(message, RETRY_UNKNOWN_NODE)
        })
    }
}
