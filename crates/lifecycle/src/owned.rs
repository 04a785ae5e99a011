//! Sole ownership of a kernel object: `close` is the way out, `Drop` is only the alarm.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use crate::Budget;

/// Proof that a resource is gone. Only a successful [`Owned::close`] makes one.
#[derive(Debug)]
#[must_use = "a teardown step needs this to go on"]
pub struct Closed<R>(PhantomData<fn() -> R>);

/// A kernel object that can be released by name, any number of times.
pub trait Release: fmt::Debug + Send + Sync {
    const KIND: &'static str;
    type Error: std::error::Error + Send + Sync + 'static;

    fn name(&self) -> &str;

    /// Releasing what is already gone is `Ok`.
    fn release(&self, budget: Budget) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Sole owner of one `R`. `close` is the way out; `Drop` is only the alarm.
#[derive(Debug)]
pub struct Owned<R: Release> {
    resource: R,
    open: bool,
}

impl<R: Release> Owned<R> {
    pub fn adopt(resource: R) -> Self {
        Self { resource, open: true }
    }

    /// Gives up the ownership and leaves the resource where it is: whoever finds it by its name
    /// owns it from here on. What this process has of it, such as descriptors, is closed.
    pub fn leave(mut self) {
        self.open = false;
    }

    /// Releases the resource.
    ///
    /// Cancel safety: no. A dropped call rings the alarm: the release may not have ended.
    ///
    /// # Errors
    /// Hands the owner back with the cause, so that the caller still holds what still exists.
    pub async fn close(mut self, budget: Budget) -> Result<Closed<R>, (Self, R::Error)> {
        // Still armed while the release runs: a dropped `close` is a leak like any other.
        match self.resource.release(budget).await {
            Ok(()) => {
                self.open = false;
                Ok(Closed(PhantomData))
            }
            Err(err) => Err((self, err)),
        }
    }
}

impl<R: Release> Deref for Owned<R> {
    type Target = R;
    fn deref(&self) -> &R {
        &self.resource
    }
}

impl<R: Release> DerefMut for Owned<R> {
    fn deref_mut(&mut self) -> &mut R {
        &mut self.resource
    }
}

impl<R: Release> Drop for Owned<R> {
    fn drop(&mut self) {
        if self.open {
            let name = self.resource.name();
            tracing::error!(kind = R::KIND, name, "leaked: dropped without close");
            debug_assert!(std::thread::panicking(), "{} {name} leaked", R::KIND);
        }
    }
}

/// Closes what is in `slot`, if anything; on an error it stays there.
///
/// Cancel safety: yes. A dropped call, or a release that panics, leaves the owner in `slot`.
///
/// # Errors
/// What the release says.
pub async fn close_in<R: Release>(
    slot: &mut Option<Owned<R>>,
    budget: Budget,
) -> Result<(), R::Error> {
    if let Some(owner) = slot {
        owner.resource.release(budget).await?;
        owner.open = false;
    }
    drop(slot.take());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Owned, Release};
    use crate::Budget;

    #[derive(Debug)]
    struct Flaky(std::sync::atomic::AtomicU32);

    #[derive(Debug, thiserror::Error)]
    #[error("busy")]
    struct Busy;

    impl Release for Flaky {
        const KIND: &'static str = "flaky";
        type Error = Busy;
        fn name(&self) -> &str {
            "f"
        }
        async fn release(&self, _: Budget) -> Result<(), Busy> {
            if self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 {
                Err(Busy)
            } else {
                Ok(())
            }
        }
    }

    #[tokio::test]
    async fn close_hands_the_owner_back_until_it_works() {
        let owner = Owned::adopt(Flaky(0.into()));
        let (owner, Busy) = owner.close(Budget::within(Duration::from_secs(1))).await.unwrap_err();
        let _closed = owner.close(Budget::within(Duration::from_secs(1))).await.unwrap();
    }

    #[test]
    fn what_is_left_to_another_is_not_told_as_leaked() {
        Owned::adopt(Flaky(0.into())).leave();
    }

    #[tokio::test]
    #[should_panic(expected = "leaked")]
    async fn dropping_close_halfway_is_loud_too() {
        #[derive(Debug)]
        struct Stuck;
        impl Release for Stuck {
            const KIND: &'static str = "stuck";
            type Error = Busy;
            fn name(&self) -> &str {
                "s"
            }
            async fn release(&self, _: Budget) -> Result<(), Busy> {
                std::future::pending().await
            }
        }
        let close = Owned::adopt(Stuck).close(Budget::within(Duration::from_secs(1)));
        let _dropped =
            tokio::time::timeout_at(tokio::time::Instant::now() + Duration::from_millis(5), close)
                .await;
    }

    #[test]
    #[should_panic(expected = "leaked")]
    fn dropping_an_open_owner_is_loud_in_debug_builds() {
        drop(Owned::adopt(Flaky(0.into())));
    }
}
