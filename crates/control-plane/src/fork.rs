//! Copies of a running sandbox, each a sandbox of its own.

use std::sync::Arc;
use std::time::Duration;

use e2b_wire::{ForkResult, Sandbox, TemplateRef};
use futures::stream::{StreamExt as _, iter};
use model::SandboxId;

use crate::Team;
use crate::app::App;
use crate::create_request::CreateRequest;
use crate::http::ApiError;
use crate::network;
use crate::snapshots::passing;
use crate::store::{SandboxRow, SnapshotRow, TemplateRow};

/// Copies that are started at one time.
const AT_A_TIME: usize = 8;

impl App {
    /// Makes `count` sandboxes of the files a running one has now, with its settings and a time of
    /// their own. Each fails by itself.
    ///
    /// # Errors
    /// 400 for more than the team may have, and as [`App::passing_snapshot`]: nothing was started
    /// then.
    pub(crate) async fn fork(
        self: Arc<Self>,
        team: Arc<Team>,
        id: SandboxId,
        ttl: Duration,
        count: u32,
    ) -> Result<Vec<ForkResult>, ApiError> {
        let limit = self.config.limits.of(&team).team_sandboxes;
        if count >= limit {
            let message = format!("count must be below {limit}, the sandboxes of the team");
            return Err(ApiError::bad_request(message));
        }
        let row = self.running_or_paused(&team, &id).await?;
        // Refused before the sandbox stands still for it.
        let request = request_of(&row, ttl)?;
        let snapshot = passing(&row)?;
        // Until all that are to be made of it use it.
        let _hands = self.making.enter(snapshot.template.clone());
        let snapshot = self.passing_snapshot(&team, &id, snapshot).await?;
        let template = template_of(&snapshot, &row);
        let starts = (0..count).map(|_| {
            let (app, team) = (Arc::clone(&self), Arc::clone(&team));
            let (template, origin) = (template.clone(), Some(snapshot.origin.clone()));
            let request = request.clone();
            async move { told(app.launch(team, template, origin, request, None).await) }
        });
        let results = iter(starts).buffered(AT_A_TIME).collect().await;
        // In use from now on, or of no use. Comparisons try again, until the last of them has ended.
        if let Ok(session) = self.node_of(&row) {
            self.remove_on_node(session, &snapshot).await;
        }
        Ok(results)
    }

    async fn running_or_paused(&self, team: &Team, id: &SandboxId) -> Result<SandboxRow, ApiError> {
        let row = self.store.sandbox(&team.id, id).await?;
        row.ok_or_else(|| ApiError::no_sandbox(id))
    }
}

fn told(started: Result<Sandbox, ApiError>) -> ForkResult {
    match started {
        Ok(sandbox) => ForkResult { sandbox: Some(sandbox), error: None },
        Err(error) => ForkResult { sandbox: None, error: Some(error.into_body()) },
    }
}

/// A request for a sandbox with the settings of another.
fn request_of(row: &SandboxRow, ttl: Duration) -> Result<CreateRequest, ApiError> {
    let egress = row.network.as_ref().map(network::egress).transpose()?.unwrap_or_default();
    let name = row.template.to_string();
    Ok(CreateRequest {
        template: TemplateRef { namespace: None, name, tag: None },
        ttl,
        on_timeout: row.terms.on_timeout,
        auto_resume: row.terms.auto_resume,
        secure: row.secure,
        internet: row.internet,
        network: row.network.clone(),
        egress,
        metadata: row.metadata.clone(),
        env: row.terms.env.clone(),
        mcp: Vec::new(),
    })
}

/// The passing snapshot, as what is started.
fn template_of(snapshot: &SnapshotRow, row: &SandboxRow) -> TemplateRow {
    TemplateRow { aliases: row.alias.iter().cloned().collect(), ..TemplateRow::from(snapshot) }
}

impl From<&SnapshotRow> for TemplateRow {
    fn from(snapshot: &SnapshotRow) -> Self {
        Self {
            id: snapshot.template.clone(),
            build: snapshot.build.clone(),
            aliases: snapshot.alias.iter().cloned().collect(),
            env: snapshot.env.clone(),
            public: false,
            resources: snapshot.resources,
            envd_version: snapshot.envd_version.clone(),
            created_at: snapshot.created_at,
            updated_at: snapshot.updated_at,
            spawn_count: 0,
            last_spawned_at: None,
        }
    }
}
