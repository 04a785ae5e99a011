//! Templates made of sandboxes: taking them, finding them, giving them up. Of files only: what runs
//! in the sandbox is not copied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use e2b_wire::{SnapshotInfo, TemplateRef, new_sandbox_id};
use http::StatusCode;
use lifecycle::Budget;
use model::{BuildId, SandboxId, TemplateId};
use node_wire::{NewSnapshot, PauseError, RemoveError};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::Team;
use crate::app::{App, now};
use crate::http::ApiError;
use crate::node_answers;
use crate::nodes::Session;
use crate::store::{NewSnapshotRow, RowState, SandboxRow, SnapshotRow, SnapshotState};
use crate::transitions::{Outcome, Patience, Turn, What, still_transitioning};

/// The tag of a name without one.
pub(crate) const DEFAULT_TAG: &str = "default";
/// How long a node may take to remove a template, before it is asked again later.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);
/// Somebody has to remove one.
const RETRY_AT_LIMIT: Duration = Duration::from_secs(30);

/// The name of a snapshot in the namespace of its team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) alias: String,
    pub(crate) tag: String,
}

/// What a snapshot is made into.
#[derive(Debug, Clone)]
enum Into {
    /// A snapshot that is kept, with this name.
    Kept(Option<Name>),
    /// One for forks, which goes with them.
    Passing(Box<SnapshotRow>),
}

impl Name {
    /// # Errors
    /// 400 for what is no name, and for one in the namespace of somebody else.
    pub(crate) fn parse(text: &str, team: &Team) -> Result<Self, ApiError> {
        let problem = |problem| ApiError::bad_request(format!("name: {problem}"));
        let TemplateRef { namespace, name, tag } = text.parse().map_err(problem)?;
        if namespace.is_some_and(|namespace| namespace != team.slug) {
            let message = format!("name: the namespace of the key is {:?}", team.slug);
            return Err(ApiError::bad_request(message));
        }
        let tag = tag.unwrap_or_else(|| DEFAULT_TAG.to_owned());
        if Uuid::try_parse(&tag).is_ok() {
            let message = "name: a tag may not look like the id of a build, which is a UUID";
            return Err(ApiError::bad_request(message));
        }
        Ok(Self { alias: name, tag })
    }
}

impl SnapshotRow {
    /// As clients are told of it.
    pub(crate) fn info(&self, team: &Team) -> SnapshotInfo {
        let name = self.alias.as_ref().map(|alias| format!("{}/{alias}", team.slug));
        let base = name.clone().unwrap_or_else(|| self.template.to_string());
        let snapshot_id = format!("{base}:{}", self.tag);
        SnapshotInfo { snapshot_id, names: name.into_iter().collect() }
    }
}

impl App {
    /// Makes a snapshot of a running sandbox, which halts for that moment and runs on.
    ///
    /// # Errors
    /// 404 for one that does not run, 409 for one on its way, 429 at the limit of its team, and
    /// what its node says.
    pub(crate) async fn snapshot(
        self: Arc<Self>,
        team: Arc<Team>,
        id: SandboxId,
        name: Option<Name>,
    ) -> Result<SnapshotInfo, ApiError> {
        let paused = || ApiError::no_sandbox(&id);
        let made = self.copy(&team, &id, Into::Kept(name), paused).await?;
        tracing::info!(template.id = %made.template, "a snapshot was made");
        Ok(made.info(&team))
    }

    /// Makes a template for forks of a running sandbox, out of [`passing`]. It is recorded as one to
    /// be removed, and stays while it is in the caller's hands or in use.
    ///
    /// # Errors
    /// As [`App::snapshot`]; 409 for one that is paused.
    pub(crate) async fn passing_snapshot(
        self: &Arc<Self>,
        team: &Team,
        id: &SandboxId,
        snapshot: SnapshotRow,
    ) -> Result<SnapshotRow, ApiError> {
        let paused = || {
            let message = format!("sandbox {id} is paused; resume it first");
            ApiError::new(StatusCode::CONFLICT, message)
        };
        self.copy(team, id, Into::Passing(Box::new(snapshot)), paused).await
    }

    async fn copy(
        self: &Arc<Self>,
        team: &Team,
        id: &SandboxId,
        into: Into,
        paused: impl Fn() -> ApiError,
    ) -> Result<SnapshotRow, ApiError> {
        let mut patience = Patience::new(self);
        loop {
            patience.look();
            let Some(row) = self.store.sandbox(&team.id, id).await? else {
                return Err(ApiError::no_sandbox(id));
            };
            match row.state {
                RowState::Running => {
                    let (tell, made) = oneshot::channel();
                    let work = Arc::clone(self).copy_now(row.clone(), into.clone(), tell);
                    let joined = self.transit(id, What::Snapshot, work)?;
                    let mine = joined.mine;
                    match joined.outcome().await {
                        Err(error) if mine => return Err(error),
                        Ok(_) if mine => return made.await.map_err(|_lost| ApiError::internal()),
                        // Another snapshot, or a pause, was in the way.
                        Ok(_) | Err(_) => patience.again(&row).await?,
                    }
                }
                RowState::Resuming => patience.wait(self, &row).await?,
                RowState::Paused => return Err(paused()),
                RowState::Pausing => return Err(still_transitioning(id)),
                RowState::Starting | RowState::Killing | RowState::Ended => {
                    return Err(ApiError::no_sandbox(id));
                }
            }
        }
    }

    async fn copy_now(
        self: Arc<Self>,
        row: SandboxRow,
        into: Into,
        made: oneshot::Sender<SnapshotRow>,
    ) -> Outcome {
        let session = Arc::clone(self.node_of(&row)?);
        let (snapshot, passing) = match into {
            Into::Kept(name) => (self.named(new_snapshot(&row)?, name).await?, false),
            Into::Passing(snapshot) => (*snapshot, true),
        };
        let _hands = self.making.enter(snapshot.template.clone());
        if snapshot.state != SnapshotState::Ready {
            self.intend_snapshot(&snapshot).await?;
        }
        let new = NewSnapshot {
            template: snapshot.template.clone(),
            build: snapshot.build.clone(),
            passing,
        };
        let taken = session.api().snapshot(&row.id, new);
        let taken = Budget::within(self.config.limits.create).run("snapshot", taken).await;
        let taken = taken.unwrap_or_else(|late| Err(PauseError::Unreachable(late.to_string())));
        if let Err(error) = taken {
            let wanted = self.is_as_read(&row).await;
            self.not_copied(&session, &row, &snapshot, &error).await?;
            if !wanted {
                // Somebody wanted it gone meanwhile, and that has gone before.
                return Err(ApiError::no_sandbox(&row.id));
            }
            return Err(node_answers::pause_failed(&error, &row.id));
        }
        if !passing && !self.store.snapshot_made(&snapshot).await? {
            // Its name was deleted meanwhile, with every tag there was.
            self.remove_on_node(&session, &snapshot).await;
            let message = "the snapshot was deleted while it was made";
            return Err(ApiError::new(StatusCode::CONFLICT, message));
        }
        drop(made.send(snapshot));
        Ok(Turn::Done(Box::new(row)))
    }

    /// The snapshot with its name. One that is there already with this name and tag, on this node,
    /// gets one more build.
    async fn named(
        &self,
        snapshot: SnapshotRow,
        name: Option<Name>,
    ) -> Result<SnapshotRow, ApiError> {
        let Some(Name { alias, tag }) = name else { return Ok(snapshot) };
        let known = self.store.named_snapshot(&snapshot.team, &alias, &tag).await?;
        let Some(known) = known else {
            return Ok(SnapshotRow { alias: Some(alias), tag, ..snapshot });
        };
        if known.state == SnapshotState::Making || self.making.has(&known.template) {
            return Err(name_in_use(&alias));
        }
        if known.node != snapshot.node {
            // Builds of one template are on one node. This one takes the name when it is made.
            let message = format!(
                "the snapshot {alias}:{tag} is on another node than this sandbox; delete it first, \
                 or use another name"
            );
            return Err(ApiError::new(StatusCode::CONFLICT, message));
        }
        let (template, created_at) = (known.template, known.created_at);
        let (alias, state) = (Some(alias), known.state);
        Ok(SnapshotRow { template, alias, tag, created_at, state, ..snapshot })
    }

    async fn intend_snapshot(&self, snapshot: &SnapshotRow) -> Result<(), ApiError> {
        let limit = self.config.limits.team_snapshots;
        match self.store.insert_snapshot(snapshot, limit).await? {
            NewSnapshotRow::Inserted => Ok(()),
            NewSnapshotRow::AtLimit => {
                let message = format!(
                    "the team has {limit} snapshots, as many as it may have; delete one first"
                );
                let answer = ApiError::new(StatusCode::TOO_MANY_REQUESTS, message);
                Err(answer.retry_after(Some(RETRY_AT_LIMIT)))
            }
            NewSnapshotRow::NameTaken => {
                Err(name_in_use(snapshot.alias.as_deref().unwrap_or_default()))
            }
        }
    }

    /// Nothing of a snapshot is left on a node that says so; where it does not answer, the
    /// comparison finds out.
    async fn not_copied(
        self: &Arc<Self>,
        session: &Arc<Session>,
        row: &SandboxRow,
        snapshot: &SnapshotRow,
        error: &PauseError,
    ) -> Result<(), ApiError> {
        tracing::warn!(error = %observe::chain(error), "no snapshot was made");
        match error {
            PauseError::Unreachable(_) => {
                session.compare_soon();
                return Ok(());
            }
            PauseError::NotFound(_) | PauseError::Paused(_) | PauseError::Lost(_) => {
                self.look_at(session, row).await;
            }
            PauseError::Busy(_)
            | PauseError::AgentSilent(_)
            | PauseError::DiskFull { .. }
            | PauseError::Limit(_)
            | PauseError::Failed(_) => {}
        }
        if snapshot.state != SnapshotState::Ready {
            self.store.forget_snapshot(snapshot).await?;
        }
        Ok(())
    }

    /// Takes every snapshot of `team` with this name from its users, with all its tags. Its node
    /// removes it when the last sandbox that was made of it has gone. False when there is none.
    pub(crate) async fn delete_snapshots(
        self: Arc<Self>,
        team: Arc<Team>,
        reference: TemplateRef,
    ) -> Result<bool, ApiError> {
        if reference.namespace.as_ref().is_some_and(|namespace| *namespace != team.slug) {
            return Ok(false);
        }
        let removed = self.store.remove_snapshots(&team.id, &reference.name).await?;
        for snapshot in &removed {
            tracing::info!(template.id = %snapshot.template, "a snapshot was deleted");
            let node = snapshot.node.as_ref().and_then(|node| self.nodes.get(node));
            if let Some(session) = node {
                self.remove_on_node(session, snapshot).await;
            }
        }
        Ok(!removed.is_empty())
    }

    /// Has a node remove what nobody can use any more. What it does not remove now the next
    /// comparison finds.
    pub(crate) async fn remove_on_node(&self, session: &Session, snapshot: &SnapshotRow) {
        let template = &snapshot.template;
        let removed = session.api().remove_template(template);
        let removed = Budget::within(REMOVE_LIMIT).run("remove a template", removed).await;
        let removed =
            removed.unwrap_or_else(|late| Err(RemoveError::Unreachable(late.to_string())));
        match removed {
            Ok(()) | Err(RemoveError::NotFound(_)) => {
                let gone = SnapshotRow { state: SnapshotState::Removing, ..snapshot.clone() };
                if let Err(error) = self.store.forget_snapshot(&gone).await {
                    let error = observe::chain(&error).to_string();
                    tracing::warn!(error, "the record of a snapshot that is gone stays for now");
                }
            }
            Err(RemoveError::InUse(_)) => {
                tracing::debug!(template.id = %template, "a deleted snapshot is still in use");
            }
            Err(error) => {
                let error = observe::chain(&error).to_string();
                tracing::warn!(template.id = %template, error, "a deleted snapshot is not gone yet");
            }
        }
    }
}

fn name_in_use(alias: &str) -> ApiError {
    let message = format!("another snapshot with the name {alias:?} is being made; try again");
    ApiError::new(StatusCode::CONFLICT, message).retry_after(Some(Duration::from_secs(1)))
}

/// What forks of a sandbox are made of.
pub(crate) fn passing(row: &SandboxRow) -> Result<SnapshotRow, ApiError> {
    // Forks get the settings of the sandbox itself.
    let env = BTreeMap::new();
    Ok(SnapshotRow { state: SnapshotState::Removing, env, ..new_snapshot(row)? })
}

fn new_snapshot(row: &SandboxRow) -> Result<SnapshotRow, ApiError> {
    // Twenty characters of the alphabet of template ids.
    let id = new_sandbox_id();
    let id = id.strip_prefix('i').unwrap_or(&id);
    let (template, build) = (TemplateId::parse(id), BuildId::parse(&Uuid::new_v4().to_string()));
    Ok(SnapshotRow {
        template: template.map_err(|_never| ApiError::internal())?,
        team: row.team.clone(),
        alias: None,
        tag: DEFAULT_TAG.to_owned(),
        build: build.map_err(|_never| ApiError::internal())?,
        sandbox: row.id.clone(),
        origin: row.shown_template().clone(),
        env: row.terms.env.clone(),
        node: row.node.clone(),
        state: SnapshotState::Making,
        resources: row.resources,
        envd_version: row.envd_version.clone(),
        created_at: now(),
        updated_at: now(),
    })
}
