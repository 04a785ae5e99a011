use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use host::fault::Injected;
use lifecycle::Budget;
use model::{LifecycleId, SandboxId};
use node_wire::NewSnapshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backend::acquire::MACHINE_POINTS;
use crate::backend::{Acquire, Holdings};
use crate::fake::{Class, Fake, Manner, SLOTS};
use crate::ledger::{LedgerError, Record};
use crate::pause::{Halt, HaltError};
use crate::pool::SlotError;
use crate::provision::{Cause, Order, answer_of};
use crate::teardown::{Step, StepError};

/// What one lifecycle holds is in the table of its machine; this is the right to change it.
#[derive(Debug)]
pub(super) struct FakeHoldings {
    fake: Arc<Fake>,
    lifecycle: String,
    /// Known once it has acquired something.
    sandbox: Option<SandboxId>,
    /// When its machine ends by itself.
    dies_at: Option<Instant>,
    slot: Option<u16>,
    /// Whether anything is written of it that can be read.
    is_written: bool,
    /// The daemon that has it.
    daemon: u32,
}

/// A step in the middle of its work.
struct Releasing<'a>(&'a Fake);

impl<'a> Releasing<'a> {
    fn begin(fake: &'a Fake) -> Self {
        let mut table = fake.table.lock();
        table.releasing += 1;
        if table.closing {
            table.wrong("a release began while the node was closed".into());
        }
        drop(table);
        Self(fake)
    }
}

impl Drop for Releasing<'_> {
    fn drop(&mut self) {
        self.0.table.lock().releasing -= 1;
    }
}

impl FakeHoldings {
    pub(super) fn new(fake: Arc<Fake>, lifecycle: &LifecycleId) -> Self {
        Self::of(fake, lifecycle, None)
    }

    /// What an earlier daemon has left.
    pub(super) fn of(fake: Arc<Fake>, lifecycle: &LifecycleId, record: Option<&Record>) -> Self {
        let daemon = fake.table.lock().daemons;
        Self {
            fake,
            lifecycle: lifecycle.to_string(),
            sandbox: record.and_then(|record| record.sandbox.parse().ok()),
            dies_at: None,
            slot: record.and_then(|record| record.slot),
            is_written: record.is_some(),
            daemon,
        }
    }

    fn manner(&self) -> Manner {
        let table = self.fake.table.lock();
        let manner = self.sandbox.as_ref().and_then(|id| table.manners.get(id).cloned());
        manner.unwrap_or_default()
    }

    fn add(&self, class: Class) {
        self.fake.table.lock().add(&self.lifecycle, class);
    }

    /// Lets go of `class`, unless something that the lifecycle has would be left hanging.
    fn let_go(&self, class: Class, users: &[Class]) -> Result<(), StepError> {
        let user = self.fake.table.lock().which(&self.lifecycle, users);
        if let Some(user) = user {
            let why = format!("{}: {class:?} released under its {user:?}", self.lifecycle);
            return Err(self.fake.refuse(why).into());
        }
        self.fake.table.lock().remove(&self.lifecycle, class);
        Ok(())
    }

    fn take_slot(&mut self) -> Result<(), Cause> {
        let mut table = self.fake.table.lock();
        let from = table.next_slot;
        let mut all = (0..SLOTS).map(|step| (from + step) % SLOTS);
        let free = all.find(|index| !table.slots.contains_key(index));
        let index = free.ok_or(SlotError::Exhausted)?;
        table.next_slot = (index + 1) % SLOTS;
        table.slots.insert(index, self.lifecycle.clone());
        table.add(&self.lifecycle, Class::Slot);
        drop(table);
        self.slot = Some(index);
        Ok(self.write(&mut |record| record.slot = Some(index))?)
    }

    fn make_directory(&mut self, order: &Order) {
        self.is_written = true;
        self.add(Class::Directory);
        let mut table = self.fake.table.lock();
        let record = Record::new(order, table.boot_id);
        table.records.insert(self.lifecycle.clone(), record);
        table.taken.extend(order.from.as_ref().map(|from| from.sandbox.clone()));
    }

    fn remove_directory(&self) -> Result<(), StepError> {
        use Class::{Cgroup, Directory, Files, Lease, Mount, Process, Runtime, Slot};
        self.let_go(Directory, &[Lease, Slot, Cgroup, Files, Mount, Runtime, Process])?;
        let mut table = self.fake.table.lock();
        let record = table.records.remove(&self.lifecycle);
        table.past.extend(record);
        Ok(())
    }

    /// Waits until its process has gone by itself.
    async fn gone(&self) {
        let mut deaths = self.fake.deaths.subscribe();
        let has = || self.fake.table.lock().has(&self.lifecycle, Class::Process);
        // The sender is in the machine: it cannot be gone.
        drop(deaths.wait_for(|()| !has()).await);
    }

    fn give_slot(&self) -> Result<(), StepError> {
        self.let_go(Class::Slot, &[Class::Process])?;
        self.fake.table.lock().slots.retain(|_, whose| *whose != self.lifecycle);
        Ok(())
    }

    async fn boot(&mut self, order: &Order) -> Result<(), Cause> {
        let [before_mount, mounted, before_runtime, made, started] = MACHINE_POINTS;
        let (fake, budget) = (Arc::clone(&self.fake), order.stop.budget);
        fake.faults.hit(before_mount, budget).await?;
        self.add(Class::Files);
        self.add(Class::Mount);
        fake.faults.hit(mounted, budget).await?;
        fake.faults.hit(before_runtime, budget).await?;
        self.add(Class::Runtime);
        self.add(Class::Process);
        order.stop.race("create", tokio::time::sleep(self.manner().boots_for)).await?;
        self.dies_at = self.manner().dies_after.map(|after| Instant::now() + after);
        fake.faults.hit(made, budget).await?;
        fake.faults.hit(started, budget).await?;
        // The machine has it in its own namespace from here on.
        fake.table.lock().remove(&self.lifecycle, Class::Mount);
        Ok(())
    }

    async fn init(&self, order: &Order) -> Result<(), Cause> {
        let answer = async {
            if self.manner().mute {
                std::future::pending::<()>().await;
            }
            let hook = self.fake.table.lock().at_init.remove(&order.entry.id);
            if let Some(hook) = hook {
                hook();
            }
            Ok(())
        };
        answer_of(order, answer, self.ended()).await
    }

    async fn kill(&self, budget: Budget) -> Result<(), StepError> {
        self.fake.table.lock().killed.push(self.lifecycle.clone());
        if self.manner().deaf {
            let mut obeying = self.fake.obeying.subscribe();
            drop(budget.run("kill", obeying.wait_for(|obeys| *obeys)).await?);
        }
        self.fake.table.lock().frozen.remove(&self.lifecycle);
        self.let_go(Class::Process, &[])
    }

    /// What is written of it, if that says that it is paused.
    fn paused(&self) -> Option<Record> {
        let record = self.fake.table.lock().records.get(&self.lifecycle).cloned();
        record.filter(|record| record.paused_at_us.is_some())
    }
}

#[async_trait]
impl Holdings for FakeHoldings {
    async fn acquire(&mut self, what: Acquire, order: &Order) -> Result<(), Cause> {
        self.sandbox = Some(order.entry.id.clone());
        match what {
            Acquire::Directory => self.make_directory(order),
            Acquire::Lease => self.add(Class::Lease),
            Acquire::Slot => self.take_slot()?,
            Acquire::Cgroup => self.add(Class::Cgroup),
            Acquire::Machine => self.boot(order).await?,
            Acquire::Init => self.init(order).await?,
        }
        Ok(())
    }

    async fn release(&mut self, step: Step, budget: Budget) -> Result<(), StepError> {
        let fake = Arc::clone(&self.fake);
        let _releasing = Releasing::begin(&fake);
        let manner = self.manner();
        if let Some((slow, takes)) = manner.slow
            && slow == step
        {
            budget.run("slow", tokio::time::sleep(takes)).await?;
        }
        if manner.refuses == Some(step) {
            return Err(Injected(format!("{step:?} refused")).into());
        }
        match step {
            Step::Kill => self.kill(budget).await,
            Step::Runtime => self.let_go(Class::Runtime, &[Class::Process]),
            Step::Mounts => self.let_go(Class::Mount, &[Class::Process]),
            Step::Slot => self.give_slot(),
            Step::Cgroup => self.let_go(Class::Cgroup, &[Class::Process]),
            Step::Files => self.let_go(Class::Files, &[Class::Mount, Class::Runtime]),
            Step::Lease => self.let_go(Class::Lease, &[Class::Mount]),
            Step::Directory => self.remove_directory(),
        }
    }

    fn write(&mut self, change: &mut (dyn FnMut(&mut Record) + Send)) -> Result<(), LedgerError> {
        let mut table = self.fake.table.lock();
        if table.full {
            let source = std::io::ErrorKind::StorageFull.into();
            return Err(LedgerError {
                action: "write",
                path: self.lifecycle.clone().into(),
                source,
            });
        }
        let record = table.records.get_mut(&self.lifecycle).filter(|_| self.is_written);
        record.into_iter().for_each(change);
        Ok(())
    }

    fn is_portable(&self) -> bool {
        true
    }

    async fn freeze(&mut self, _budget: Budget) -> Result<(), HaltError> {
        let mut table = self.fake.table.lock();
        if !table.has(&self.lifecycle, Class::Process) {
            return Err(HaltError::Gone);
        }
        table.frozen.insert(self.lifecycle.clone());
        Ok(())
    }

    async fn thaw(&mut self) -> Result<(), HaltError> {
        self.fake.table.lock().frozen.remove(&self.lifecycle);
        Ok(())
    }

    async fn sync(&mut self, budget: Budget) -> Result<(), HaltError> {
        budget.run("sync", tokio::time::sleep(self.manner().syncs_for)).await?;
        let mut table = self.fake.table.lock();
        let runs = table.has(&self.lifecycle, Class::Process);
        if runs && !table.frozen.contains(&self.lifecycle) {
            table.wrong(format!("{}: synced while it runs", self.lifecycle));
        }
        table.synced.insert(self.lifecycle.clone());
        Ok(())
    }

    async fn answers(&self, budget: Budget) -> Result<(), HaltError> {
        if self.manner().mute {
            budget.run("answer", std::future::pending::<()>()).await?;
        }
        Ok(())
    }

    async fn snapshot(
        &mut self,
        new: &NewSnapshot,
        cancel: &CancellationToken,
        budget: Budget,
    ) -> Result<Duration, HaltError> {
        let [before, after] = Halt::Copy.points();
        self.freeze(budget).await?;
        self.fake.faults.hit(before, budget).await?;
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(HaltError::Gone),
            () = tokio::time::sleep(self.manner().copies_for) => {}
        }
        self.fake.faults.hit(after, budget).await?;
        self.fake.table.lock().snapshots.push(new.clone());
        self.thaw().await?;
        Ok(self.manner().copies_for)
    }

    fn is_kept(&self) -> bool {
        self.paused().is_some()
    }

    async fn seal(&mut self) -> Result<(), StepError> {
        let paused = self.paused();
        let mut table = self.fake.table.lock();
        if !table.synced.remove(&self.lifecycle) {
            table.wrong(format!("{}: kept before it was on the disk", self.lifecycle));
        }
        if let Some(record) = paused {
            table.taken.remove(&record.sandbox);
            table.sealed.entry(record.sandbox.clone()).or_insert(record);
        }
        Ok(())
    }

    fn unseal(&mut self) -> Result<(), HaltError> {
        if let Some(id) = &self.sandbox {
            let mut table = self.fake.table.lock();
            table.sealed.remove(id.as_str());
            table.taken.remove(id.as_str());
        }
        Ok(())
    }

    fn log(&self) -> Vec<String> {
        Vec::new()
    }

    fn found(&self) -> Vec<String> {
        let is_left = self.fake.table.lock().has(&self.lifecycle, Class::Process);
        is_left.then(|| "processes".to_owned()).into_iter().collect()
    }

    fn leave(mut self: Box<Self>) {
        let mut table = self.fake.table.lock();
        table.remove(&self.lifecycle, Class::Lease);
        table.remove(&self.lifecycle, Class::Mount);
        drop(table);
        self.sandbox = None;
    }

    async fn ended(&self) {
        match self.dies_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => self.gone().await,
        }
    }

    fn address(&self) -> Option<Ipv4Addr> {
        let [high, low] = self.slot?.to_be_bytes();
        Some(Ipv4Addr::new(10, 0, high, low))
    }
}

impl Drop for FakeHoldings {
    fn drop(&mut self) {
        let mut table = self.fake.table.lock();
        let left = table.held.iter().any(|(id, _)| *id == self.lifecycle);
        // One that was killed gives nothing up: it is gone.
        if self.sandbox.is_some() && left && self.daemon == table.daemons {
            table.wrong(format!("{}: given up with something held", self.lifecycle));
        }
    }
}
