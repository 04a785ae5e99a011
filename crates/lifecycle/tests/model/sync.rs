//! The names of `src/sync.rs`, made so that the checker decides who runs next.
//!
//! Locks are the checker's own. Signals are those of production: their own operations are taken as
//! indivisible, and every one is preceded by a point at which the checker may run somebody else.

pub(crate) use std::sync::Arc;

/// Lets the checker run somebody else. Wakes nobody: a lost wake-up stays lost.
pub(crate) fn switch() {
    shuttle::thread::sleep(std::time::Duration::ZERO);
}

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
        // As in production, a panic while a lock is held makes it no less a lock.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Notify(tokio::sync::Notify);

impl Notify {
    pub(crate) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        switch();
        self.0.notified()
    }

    pub(crate) fn notify_one(&self) {
        switch();
        self.0.notify_one();
    }

    pub(crate) fn notify_waiters(&self) {
        switch();
        self.0.notify_waiters();
    }
}

pub(crate) mod watch {
    use tokio::sync::watch::{Ref, error};

    use super::switch;

    #[derive(Debug)]
    pub(crate) struct Sender<T>(tokio::sync::watch::Sender<T>);

    #[derive(Debug)]
    pub(crate) struct Receiver<T>(tokio::sync::watch::Receiver<T>);

    pub(crate) fn channel<T>(first: T) -> (Sender<T>, Receiver<T>) {
        let (tell, hear) = tokio::sync::watch::channel(first);
        (Sender(tell), Receiver(hear))
    }

    impl<T> Sender<T> {
        pub(crate) fn send_replace(&self, value: T) -> T {
            switch();
            self.0.send_replace(value)
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            switch();
        }
    }

    impl<T> Clone for Receiver<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    impl<T> Receiver<T> {
        pub(crate) async fn wait_for(
            &mut self,
            wanted: impl FnMut(&T) -> bool,
        ) -> Result<Ref<'_, T>, error::RecvError> {
            switch();
            self.0.wait_for(wanted).await
        }
    }
}
