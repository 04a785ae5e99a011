use e2b_wire::TemplateRef;
use model::BuildId;

use crate::Team;
use crate::app::{App, now};
use crate::http::ApiError;
use crate::snapshots::DEFAULT_TAG;
use crate::store::{SnapshotRow, SnapshotState, StoreError, TemplateRow};

impl App {
    /// Makes the templates of the store those the nodes can start.
    pub(crate) async fn sync_templates(&self) -> Result<(), StoreError> {
        self.nodes.refresh_all().await;
        // A node that has never answered may have what nobody else has.
        let told = (self.nodes.templates(), self.nodes.all_named());
        // Whoever asks for unknown templates all day costs calls, not writes.
        if self.synced_templates.lock().as_ref() == Some(&told) {
            return Ok(());
        }
        self.store.replace_templates(&told.0, told.1, now()).await?;
        *self.synced_templates.lock() = Some(told);
        Ok(())
    }

    /// As [`App::sync_templates`], where going on with what is stored is right.
    pub(crate) async fn try_sync_templates(&self) {
        if let Err(error) = self.sync_templates().await {
            let error = observe::chain(&error).to_string();
            tracing::warn!(error, "templates may be out of date; serving goes on with them");
        }
    }

    /// The template a reference names, as `team` sees it. Asks the node when the store does not
    /// know it: it may have been made a moment ago.
    pub(crate) async fn resolve(
        &self,
        team: &Team,
        reference: &TemplateRef,
    ) -> Result<Option<TemplateRow>, ApiError> {
        if let Some(snapshot) = self.resolve_snapshot(team, reference).await? {
            return Ok(Some(TemplateRow::from(&snapshot)));
        }
        // Every other template came with a node and is in no namespace.
        if reference.namespace.is_some() {
            return Ok(None);
        }
        let known = self.store.find_template(&reference.name).await?;
        let known = known.filter(|template| has_tag(template, reference));
        if known.is_some() {
            return Ok(known);
        }
        self.try_sync_templates().await;
        let found = self.store.find_template(&reference.name).await?;
        Ok(found.filter(|template| has_tag(template, reference)))
    }

    /// The snapshot of `team` that a reference names: by its name first, then by its id. What
    /// belongs to another team is not there.
    async fn resolve_snapshot(
        &self,
        team: &Team,
        reference: &TemplateRef,
    ) -> Result<Option<SnapshotRow>, ApiError> {
        if reference.namespace.as_ref().is_some_and(|namespace| *namespace != team.slug) {
            return Ok(None);
        }
        let tag = reference.tag.as_deref().unwrap_or(DEFAULT_TAG);
        let named = self.store.named_snapshot(&team.id, &reference.name, tag).await?;
        let named = named.filter(|snapshot| snapshot.state == SnapshotState::Ready);
        if named.is_some() {
            return Ok(named);
        }
        if let Ok(build) = BuildId::parse(tag) {
            let pinned = self.store.snapshot_of_build(&team.id, &reference.name, &build).await?;
            if pinned.is_some() {
                return Ok(pinned);
            }
        }
        if reference.namespace.is_some() {
            return Ok(None);
        }
        let snapshot = self.store.snapshot(&team.id, &reference.name).await?;
        let is_meant = |snapshot: &SnapshotRow| match &reference.tag {
            Some(tag) => snapshot.tag == *tag || snapshot.build.as_str() == tag,
            None => true,
        };
        Ok(snapshot.filter(is_meant))
    }
}

/// A build's id is a tag of its template; there are no others in this version.
fn has_tag(template: &TemplateRow, reference: &TemplateRef) -> bool {
    reference.tag.as_deref().is_none_or(|tag| tag == template.build.as_str())
}
