//! Making a sandbox: intent, node, record, route, answer.

mod place;

use std::sync::Arc;

use e2b_wire::{Sandbox, Timestamp, new_sandbox_id};
use model::{EndReason, SandboxId, SandboxSpec, Secret, TemplateId};
use node_wire::{CreateError, Started};

use self::place::{Placed, Unplaced};
use crate::app::{App, now};
use crate::create_request::CreateRequest;
use crate::http::ApiError;
use crate::idempotency::{self, Idempotency};
use crate::node_answers;
use crate::store::{Inserted, Intent, RowState, SandboxRow, TemplateRow, Terms};
use crate::{Limits, Team, teams};

/// A client over its limit may try again when one of its sandboxes ends; none is known to.
const RETRY_AT_LIMIT: std::time::Duration = std::time::Duration::from_secs(1);

impl App {
    /// Starts a sandbox for `team`. Runs to its end even when the client is gone: the sandbox
    /// simply runs then.
    pub(crate) async fn create(
        self: Arc<Self>,
        team: Arc<Team>,
        mut request: CreateRequest,
        idempotency: Option<Idempotency>,
    ) -> Result<Sandbox, ApiError> {
        let Some(template) = self.resolve(&team, &request.template).await? else {
            let name = &request.template.name;
            let message =
                format!("template {name:?} does not exist; GET /templates lists those that do");
            return Err(ApiError::not_found(message));
        };
        // As at E2B: those that a request brings take the place of all that a snapshot has.
        if request.env.is_empty() {
            request.env = template.env.clone();
        }
        self.launch(team, template, None, request, idempotency).await
    }

    /// Starts a sandbox of this template. `origin` is the one its clients are told instead.
    pub(crate) async fn launch(
        self: Arc<Self>,
        team: Arc<Team>,
        template: TemplateRow,
        origin: Option<TemplateId>,
        request: CreateRequest,
        idempotency: Option<Idempotency>,
    ) -> Result<Sandbox, ApiError> {
        teams::check_size(&team, &template.resources)?;
        let mut row = SandboxRow { origin, ..new_row(&team, &template, &request)? };
        row.node = self.first_choice(&row.template);
        let _starting = self.starting.enter(row.id.clone());
        let limits = self.config.limits.of(&team);
        if let Some(answer) = self.intend(&row, idempotency.as_ref(), &limits).await? {
            return Ok(answer);
        }
        tracing::Span::current().record("sandbox.id", row.id.as_str());
        if !request.mcp.is_empty() {
            tracing::info!(servers = ?request.mcp, "the client is going to start MCP servers in it");
        }
        let started = self.start(row, request).await?;
        let answer = self.answer(&started);
        // Nobody waits for the count.
        let span = tracing::Span::current();
        self.tasks.spawn(span, Arc::clone(&self).count(started));
        Ok(answer)
    }

    async fn count(self: Arc<Self>, started: SandboxRow) {
        let counted = self.store.template_spawned(&started.template, started.started_at).await;
        if let Err(error) = counted {
            let error = observe::chain(&error).to_string();
            tracing::warn!(error, "a sandbox is missing in the count of its template");
        }
    }

    /// Writes the row that says what is about to happen. An answer when it has happened before.
    async fn intend(
        &self,
        row: &SandboxRow,
        idempotency: Option<&Idempotency>,
        limits: &Limits,
    ) -> Result<Option<Sandbox>, ApiError> {
        let intent = Intent { row, idempotency, team_limit: limits.team_sandboxes };
        let mut inserted = self.store.insert_sandbox(&intent).await?;
        // A team at its limit is still told what its earlier request became.
        if let (Inserted::KeyUsed | Inserted::AtLimit, Some(request)) = (inserted, idempotency) {
            let since = now().before(limits.idempotency);
            let used = self.store.idempotency_use(&row.team, request.key(), since).await?;
            if let Some(used) = used {
                // Cut off by the end of an earlier process: its node knows what became of it.
                if used.row.state == RowState::Starting && !self.starting.has(&used.row.id) {
                    self.look_soon(&used.row);
                }
                return request.replay(&used).map(|()| Some(self.answer(&used.row)));
            }
            // The other use was forgotten just now, or failed: the key is free again.
            inserted = self.store.insert_sandbox(&intent).await?;
        }
        match inserted {
            Inserted::Yes => Ok(None),
            Inserted::AtLimit => Err(at_limit(limits.team_sandboxes)),
            Inserted::KeyUsed => Err(idempotency::in_progress()),
        }
    }

    /// Has the record of a start that nobody here works on compared with its node.
    fn look_soon(&self, row: &SandboxRow) {
        match self.node_of(row) {
            Ok(session) => session.compare_soon(),
            Err(_unknown) => tracing::info!(sandbox.id = %row.id, "a start waits for its node"),
        }
    }

    /// Has a node start it and records that it runs. On an error the row is closed.
    async fn start(
        &self,
        mut row: SandboxRow,
        request: CreateRequest,
    ) -> Result<SandboxRow, ApiError> {
        let spec = self.spec(&row, request);
        let Placed { session, started } = match self.place(&mut row, spec).await {
            Ok(placed) => placed,
            Err(Unplaced::Node(error)) => return Err(self.refused(&row.id, &error).await),
            Err(Unplaced::NoNode(answer) | Unplaced::Store(answer)) => {
                self.close_never_ran(&row.id, "no node was asked").await;
                return Err(answer);
            }
        };
        let Started { status, route } = started;
        // Before the row says that it runs: an end that comes between the two finds the row
        // starting, closes it, and the check below takes the route away.
        let lifecycle = status.lifecycle.clone();
        self.routes.publish(route, self.ingress(&row));
        match self.store.sandbox_runs(&status).await {
            Ok(true) => {
                let node = session.id().map(tracing::field::display);
                tracing::info!(lifecycle.id = %lifecycle, node.id = node, "sandbox runs");
                Ok(SandboxRow {
                    state: RowState::Running,
                    lifecycle: Some(lifecycle),
                    resources: status.resources,
                    started_at: status.started_at.into(),
                    ends_at: status.ends_at.into(),
                    revision: row.revision + 1,
                    ..row
                })
            }
            outcome => {
                self.routes.withdraw(&row.id, &lifecycle);
                // Gone already is what is wanted, and what is stuck the node retries and shows.
                if let Err(error) = session.api().kill(&row.id, EndReason::Request).await {
                    tracing::warn!(error = %observe::chain(&error), "kill after a lost start");
                }
                match outcome {
                    Ok(_ended) => Err(self.refused(&row.id, &CreateError::Cancelled).await),
                    Err(error) => {
                        self.close_never_ran(&row.id, "its start could not be recorded").await;
                        Err(error.into())
                    }
                }
            }
        }
    }

    /// Closes the row of a start that failed; what the client is told.
    async fn refused(&self, id: &SandboxId, error: &CreateError) -> ApiError {
        match error {
            CreateError::Failed { .. }
            | CreateError::Expired { .. }
            | CreateError::AlreadyExists(_)
            | CreateError::NotPaused(_)
            | CreateError::Unreachable(_) => {
                tracing::error!(error = %observe::chain(error), "sandbox did not start");
            }
            CreateError::Draining
            | CreateError::Starting
            | CreateError::Full { .. }
            | CreateError::TooManyStarting { .. }
            | CreateError::DiskFull { .. }
            | CreateError::UnknownTemplate(_)
            | CreateError::Invalid(_)
            | CreateError::Cancelled => {
                tracing::info!(error = %observe::chain(error), "sandbox was refused");
            }
        }
        self.close_never_ran(id, &for_its_team(error)).await;
        if matches!(error, CreateError::UnknownTemplate(_)) {
            self.try_sync_templates().await;
        }
        node_answers::create_failed(error, id)
    }

    async fn close_never_ran(&self, id: &SandboxId, detail: &str) {
        if let Err(error) = self.store.sandbox_never_ran(id, detail).await {
            let error = observe::chain(&error).to_string();
            tracing::error!(error, "a row stays open until the next reconciliation");
        }
    }

    fn spec(&self, row: &SandboxRow, request: CreateRequest) -> SandboxSpec {
        SandboxSpec {
            id: row.id.clone(),
            team: row.team.clone(),
            template: row.template.clone(),
            resources: None,
            env: row.terms.env.clone(),
            metadata: request.metadata,
            access_token: self.envd_token(row).map(Secret::new),
            ttl: request.ttl,
            on_timeout: request.on_timeout,
            internet: request.internet.unwrap_or(true),
            egress: request.egress,
        }
    }
}

fn new_row(
    team: &Team,
    template: &TemplateRow,
    request: &CreateRequest,
) -> Result<SandboxRow, ApiError> {
    let asked_at: Timestamp = now();
    Ok(SandboxRow {
        id: SandboxId::parse(&new_sandbox_id()).map_err(|_never| ApiError::internal())?,
        team: team.id.clone(),
        template: template.id.clone(),
        build: template.build.clone(),
        alias: template.aliases.first().cloned(),
        envd_version: template.envd_version.clone(),
        state: RowState::Starting,
        node: None,
        lifecycle: None,
        metadata: request.metadata.clone(),
        secure: request.secure,
        internet: request.internet,
        network: request.network.clone(),
        resources: template.resources,
        created_at: asked_at,
        started_at: asked_at,
        ends_at: asked_at.after(request.ttl),
        origin: None,
        terms: Terms {
            on_timeout: request.on_timeout,
            auto_resume: request.auto_resume,
            ttl: Some(request.ttl),
            env: request.env.clone(),
        },
        paused: None,
        pauses: 0,
        adopted: false,
        revision: 0,
    })
}

/// Why a start failed, without what is the host's: the log has all of it.
fn for_its_team(error: &CreateError) -> String {
    match error {
        CreateError::Failed { step, .. } => format!("its start failed in step {step}"),
        CreateError::Unreachable(_) => "its node could not be reached".to_owned(),
        told => told.to_string(),
    }
}

pub(crate) fn at_limit(limit: u32) -> ApiError {
    let message = format!(
        "the team has {limit} sandboxes, as many as it may have at one time; kill one or wait for \
         one to end"
    );
    ApiError::new(http::StatusCode::TOO_MANY_REQUESTS, message).retry_after(Some(RETRY_AT_LIMIT))
}
