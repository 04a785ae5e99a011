//! Halting a machine, letting it go on, and copying what its sandbox has written.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::mount::{MAX_LAYERS, UPPER};
use images::{Draft, Lease, Origin, PublishError, Store, Template, copy_layer};
use lifecycle::Budget;
use node_wire::NewSnapshot;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::backend::host::holdings::HostHoldings;
use crate::pause::{FREEZE_LIMIT, Halt, HaltError};
use crate::teardown::StepError;

impl HostHoldings {
    pub(super) async fn freeze_machine(&self, budget: Budget) -> Result<(), HaltError> {
        Ok(self.host.cgroups.named(&self.lifecycle).freeze(budget).await?)
    }

    pub(super) fn thaw_machine(&self) -> Result<(), HaltError> {
        Ok(self.host.cgroups.named(&self.lifecycle).thaw()?)
    }

    pub(super) async fn sync_files(&mut self, budget: Budget) -> Result<(), HaltError> {
        // A disk that hangs has one thread of each sandbox, however often it is tried.
        if let Some(earlier) = &mut self.syncing {
            let _told_already = budget.run("sync", earlier).await?;
        }
        let dir = self.named_dir().path().to_owned();
        // One call for the file system: it writes out what others have written there, too, and is still
        // faster than one call for each file.
        let sync = move || Ok(rustix::fs::syncfs(File::open(dir)?)?);
        let syncing = self.syncing.insert(tokio::task::spawn_blocking(sync));
        let synced = budget.run("sync", syncing).await?;
        self.syncing = None;
        synced?.map_err(HaltError::Sync)
    }

    pub(super) async fn agent_answers(&self, budget: Budget) -> Result<(), HaltError> {
        let address = self.slot.as_ref().map(|slot| slot.net().guest).ok_or(HaltError::Gone)?;
        let agent = SocketAddr::from((address, guest_wire::ENVD_PORT));
        Ok(budget.run("answer", guest_wire::client::health(agent)).await??)
    }

    /// Keeps what the sandbox has written where paused ones are.
    pub(super) async fn seal_files(&self) -> Result<(), StepError> {
        let Some(record) = self.record.clone() else { return Ok(()) };
        let (host, dir) = (Arc::clone(&self.host), self.named_dir().path().to_owned());
        let put = move || host.sealed.put(&record, &dir, &host.images);
        tokio::task::spawn_blocking(put).await?.map_err(StepError::Seal)
    }

    pub(super) async fn take_snapshot(
        &self,
        new: &NewSnapshot,
        cancel: &CancellationToken,
        budget: Budget,
    ) -> Result<Duration, HaltError> {
        let lease = self.lease.clone().ok_or(HaltError::Gone)?;
        if !self.record.as_ref().is_some_and(|record| record.portable) {
            return Err(HaltError::NotPortable);
        }
        let layers = lease.layers().len();
        if layers >= MAX_LAYERS {
            return Err(HaltError::TooDeep(layers - 1));
        }
        let draft = self.host.images.begin_as(new.build.clone()).map_err(HaltError::Draft)?;
        let copied = self.copy(&draft, cancel, budget).await;
        let (made, halted) = match copied {
            Ok(halted) => (self.publish(draft, new, lease, cancel, budget).await, halted),
            Err(error) => {
                discard(draft).await;
                (Err(error), Duration::ZERO)
            }
        };
        made.map(|()| halted)
    }

    /// Copies what the sandbox has written while it stands still. It goes on in any case.
    async fn copy(
        &self,
        draft: &Draft,
        cancel: &CancellationToken,
        budget: Budget,
    ) -> Result<Duration, HaltError> {
        let began = Instant::now();
        let copied = async {
            let halted = async {
                self.freeze_machine(budget.slice(FREEZE_LIMIT)).await?;
                self.pass(Halt::Copy, 0, budget).await
            };
            unless(cancel, halted).await?;
            let upper = self.named_dir().path().join(UPPER);
            copy_layer(&upper, draft, cancel, budget).await?;
            unless(cancel, self.pass(Halt::Copy, 1, budget)).await
        };
        let copied = copied.await;
        self.thaw_machine()?;
        copied.map(|()| began.elapsed())
    }

    async fn publish(
        &self,
        draft: Draft,
        new: &NewSnapshot,
        lease: Lease,
        cancel: &CancellationToken,
        budget: Budget,
    ) -> Result<(), HaltError> {
        if let Err(error) = unless(cancel, self.pass(Halt::Publish, 0, budget)).await {
            discard(draft).await;
            return Err(error);
        }
        let (images, template) = (Arc::clone(&self.host.images), new.template.clone());
        let origin = if new.passing { Origin::Passing } else { Origin::Snapshot };
        let (told, mut hears) = oneshot::channel();
        let publish = move || {
            let made = images.publish_layer(draft, template, origin, &lease);
            if let Err(unheard) = told.send(made) {
                retract(&images, unheard);
            }
        };
        // It takes as long as the disk does, and needs nothing of the sandbox.
        drop(tokio::task::spawn_blocking(publish));
        let made = tokio::select! {
            biased;
            made = &mut hears => made.map_err(|_died| HaltError::Panicked("publishing".into()))?,
            () = cancel.cancelled() => {
                hears.close();
                // What has been sent by now is ours.
                hears.try_recv().map_err(|_unsent| HaltError::Cancelled)?
            }
        };
        match made {
            Ok(_template) => self.pass(Halt::Publish, 1, budget).await,
            Err((draft, error)) => {
                discard(draft).await;
                Err(HaltError::Publish(error))
            }
        }
    }

    async fn pass(&self, step: Halt, side: usize, budget: Budget) -> Result<(), HaltError> {
        let [before, after] = step.points();
        let point = if side == 0 { before } else { after };
        Ok(self.host.config.faults.hit(point, budget).await?)
    }
}

/// What `work` says, unless nobody wants it any more: a sandbox that is to end does not wait for it.
async fn unless<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, HaltError>>,
) -> Result<T, HaltError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(HaltError::Cancelled),
        done = work => done,
    }
}

async fn discard(draft: Draft) {
    // It ends by itself.
    let _ended = tokio::task::spawn_blocking(move || discard_now(draft)).await;
}

fn discard_now(draft: Draft) {
    if let Err(error) = draft.discard() {
        // The next start sweeps it.
        tracing::warn!(%error, "an unfinished snapshot is left");
    }
}

/// Removes what was published, or was not, for a sandbox that has ended meanwhile. Blocks.
fn retract(images: &Store, made: Result<Arc<Template>, (Draft, PublishError)>) {
    match made {
        Ok(template) => {
            if let Err(error) = images.retract(&template.build) {
                // Who compares the node's templates with those that were asked for finds it.
                let (template, error) = (&template.id, observe::chain(&error).to_string());
                tracing::warn!(%template, error, "a snapshot that nobody was told of is left");
            }
        }
        Err((draft, _error)) => discard_now(draft),
    }
}
