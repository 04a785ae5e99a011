//! How fast a team may call an endpoint. Off unless it is configured.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use model::TeamId;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::ApiError;
use crate::Rate;

/// Teams and endpoints together that are counted at one time, some hundred bytes each.
const BUCKETS_MAX: usize = 10_000;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// What each team may still send to each endpoint. One that has not been called for a while is full
/// again, and need not be remembered.
#[derive(Debug)]
pub(crate) struct Rates {
    rate: Option<Rate>,
    buckets: Mutex<HashMap<(TeamId, Method, String), Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Requests that may be sent at `at`.
    tokens: f64,
    at: Instant,
}

/// Where a team stands with one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    limit: u32,
    remaining: u32,
    /// Until it may send `limit` requests at once again.
    reset: Duration,
    /// `None`: this request may pass.
    wait: Option<Duration>,
}

/// Carries the pace of a request from where its team is known to where its answer is.
#[derive(Debug, Clone, Default)]
pub(crate) struct RateSlot(Arc<OnceLock<Pace>>);

impl Rates {
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Counts one request. `None` where nothing is limited.
    pub(crate) fn take(&self, team: &TeamId, method: &Method, route: &str) -> Option<Pace> {
        let rate = self.rate?;
        let now = Instant::now();
        let mut buckets = self.buckets.lock();
        let key = (team.clone(), method.clone(), route.to_owned());
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| bucket.refilled(rate, now) < f64::from(rate.burst));
            if buckets.len() >= BUCKETS_MAX {
                // Whoever cannot be counted passes: the limit protects, it does not guard.
                return None;
            }
        }
        let full = Bucket { tokens: f64::from(rate.burst), at: now };
        let bucket = buckets.entry(key).or_insert(full);
        Some(bucket.take(rate, now))
    }
}

impl Bucket {
    fn refilled(&self, rate: Rate, now: Instant) -> f64 {
        let gained = now.duration_since(self.at).as_secs_f64() * rate.per_second;
        (self.tokens + gained).min(f64::from(rate.burst))
    }

    fn take(&mut self, rate: Rate, now: Instant) -> Pace {
        let tokens = self.refilled(rate, now);
        let passes = tokens >= 1.0;
        let left = if passes { tokens - 1.0 } else { tokens };
        *self = Self { tokens: left, at: now };
        let until =
            |tokens: f64| Duration::from_secs_f64((tokens - left).max(0.0) / rate.per_second);
        Pace {
            limit: rate.burst,
            remaining: whole(left),
            reset: until(f64::from(rate.burst)),
            wait: (!passes).then(|| until(1.0)),
        }
    }
}

/// Between nothing and a burst.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to u32::MAX")]
fn whole(tokens: f64) -> u32 {
    tokens as u32
}

/// Seconds, so many that they are over then.
fn ceil(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl Pace {
    /// # Errors
    /// 429 with the time after which the request may be sent again.
    pub(crate) fn check(self) -> Result<(), ApiError> {
        let Some(wait) = self.wait else { return Ok(()) };
        let wait = Duration::from_secs(ceil(wait).max(1));
        let message = format!(
            "the team sends requests to this endpoint faster than it may; wait {} s",
            wait.as_secs()
        );
        Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).retry_after(Some(wait)))
    }

    fn tell(self, headers: &mut HeaderMap) {
        headers.insert(LIMIT, HeaderValue::from(self.limit));
        headers.insert(REMAINING, HeaderValue::from(self.remaining));
        headers.insert(RESET, HeaderValue::from(ceil(self.reset)));
    }
}

impl RateSlot {
    pub(crate) fn put(&self, pace: Pace) {
        // A request that is looked at twice has the pace of the first look.
        let _first = self.0.set(pace);
    }

    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        if let Some(pace) = self.0.get() {
            pace.tell(headers);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Method;
    use model::TeamId;

    use super::{BUCKETS_MAX, Rates};
    use crate::{Rate, Team};

    const RATE: Rate = Rate { per_second: 2.0, burst: 3 };

    fn team(n: usize) -> TeamId {
        TeamId::parse(&format!("t{n}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_as_many_as_the_rate_says() {
        let (rates, team) = (Rates::new(Some(RATE)), Team::default().id);
        let take = || rates.take(&team, &Method::GET, "/a").unwrap();
        for remaining in [2, 1, 0] {
            let pace = take();
            assert_eq!((pace.limit, pace.remaining, pace.wait), (3, remaining, None));
        }
        let over = take();
        assert_eq!(over.wait, Some(Duration::from_millis(500)));
        assert_eq!(over.reset, Duration::from_millis(1500));
        assert_eq!(over.check().unwrap_err().parts().3, Some(1));
        // Another endpoint, another method and another team are counted by themselves.
        for (method, route) in [(Method::GET, "/b"), (Method::POST, "/a")] {
            assert_eq!(rates.take(&team, &method, route).unwrap().remaining, 2);
        }
        assert_eq!(rates.take(&self::team(1), &Method::GET, "/a").unwrap().remaining, 2);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(take().wait, None);
        assert!(take().wait.is_some());
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(take().remaining, 2, "a pause gains no more than a burst");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_has_a_bound() {
        let rates = Rates::new(Some(RATE));
        for n in 0..BUCKETS_MAX {
            rates.take(&team(n), &Method::GET, "/a").unwrap();
        }
        assert!(rates.take(&team(BUCKETS_MAX), &Method::GET, "/a").is_none(), "passes uncounted");
        assert!(rates.take(&team(0), &Method::GET, "/a").is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(rates.take(&team(BUCKETS_MAX), &Method::GET, "/a").is_some());
        assert!(rates.buckets.lock().len() < 10, "those that are full again are forgotten");
    }

    #[test]
    fn without_a_rate_nothing_is_counted() {
        assert!(Rates::new(None).take(&team(0), &Method::GET, "/a").is_none());
    }
}
