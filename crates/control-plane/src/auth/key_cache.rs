use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use e2b_wire::KeyHash;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::Team;

const ENTRIES_MAX: usize = 1024;
/// How long a key that was taken back may still work.
const FRESH: Duration = Duration::from_secs(60);

/// The teams of keys seen lately. Unknown keys are not kept: guesses would push out real ones.
#[derive(Debug, Default)]
pub(crate) struct KeyCache(Mutex<HashMap<KeyHash, Entry>>);

#[derive(Debug)]
struct Entry {
    team: Arc<Team>,
    until: Instant,
}

impl KeyCache {
    pub(crate) fn get(&self, key: &KeyHash) -> Option<Arc<Team>> {
        let entries = self.0.lock();
        let entry = entries.get(key)?;
        (Instant::now() < entry.until).then(|| Arc::clone(&entry.team))
    }

    pub(crate) fn put(&self, key: KeyHash, team: Team) -> Arc<Team> {
        let team = Arc::new(team);
        let now = Instant::now();
        let mut entries = self.0.lock();
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, entry| now < entry.until);
        }
        if entries.len() < ENTRIES_MAX {
            entries.insert(key, Entry { team: Arc::clone(&team), until: now + FRESH });
        }
        team
    }
}

#[cfg(test)]
mod tests {
    use e2b_wire::ApiKey;

    use super::{ENTRIES_MAX, FRESH, KeyCache};
    use crate::Team;

    #[tokio::test(start_paused = true)]
    async fn an_entry_goes_stale_and_the_cache_never_outgrows_its_bound() {
        let cache = KeyCache::default();
        let first = ApiKey::generate().hash();
        cache.put(first.clone(), Team::default());
        assert!(cache.get(&first).is_some());
        for _ in 0..2 * ENTRIES_MAX {
            cache.put(ApiKey::generate().hash(), Team::default());
        }
        assert_eq!(cache.0.lock().len(), ENTRIES_MAX);
        tokio::time::advance(FRESH).await;
        assert!(cache.get(&first).is_none());
        cache.put(first.clone(), Team::default());
        assert!(cache.get(&first).is_some(), "stale entries made room");
    }
}
