use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use model::{LifecycleId, SandboxId};
use node_wire::{Ingress, Route, Routes};
use parking_lot::Mutex;

/// A route table that can be looked at.
#[derive(Debug, Default)]
pub(crate) struct FakeRoutes(Mutex<HashMap<SandboxId, (Route, Ingress)>>, AtomicU32);

impl FakeRoutes {
    pub(crate) fn addr(&self, id: &SandboxId) -> Option<IpAddr> {
        self.0.lock().get(id).map(|(route, _)| route.addr)
    }

    pub(crate) fn ingress(&self, id: &SandboxId) -> Option<Ingress> {
        self.0.lock().get(id).map(|(_, ingress)| ingress.clone())
    }

    /// As an edge that restarted.
    pub(crate) fn forget(&self) {
        self.0.lock().clear();
    }

    /// How often a route was made another one, or taken away.
    pub(crate) fn changes(&self) -> u32 {
        self.1.load(Ordering::SeqCst)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().len()
    }
}

impl Routes for FakeRoutes {
    fn publish(&self, route: Route, ingress: Ingress) {
        let new = (route.clone(), ingress);
        let before = self.0.lock().insert(route.sandbox, new.clone());
        if before != Some(new) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn withdraw(&self, sandbox: &SandboxId, lifecycle: &LifecycleId) {
        let mut routes = self.0.lock();
        if routes.get(sandbox).is_some_and(|(route, _)| route.lifecycle == *lifecycle) {
            routes.remove(sandbox);
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
}
