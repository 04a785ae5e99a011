use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use e2b_wire::KeyHash;
use model::TeamId;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::Team;
use crate::store::Kind;

const ENTRIES_MAX: usize = 1024;
/// How long what another process has taken back may still work.
const FRESH: Duration = Duration::from_secs(60);

/// The teams of keys and tokens seen lately. Unknown ones are not kept: guesses would push out real
/// ones.
#[derive(Debug, Default)]
pub(crate) struct KeyCache(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    known: HashMap<(Kind, KeyHash), Entry>,
    /// How often something was forgotten: what was looked up before may be out of date after.
    generation: u64,
}

#[derive(Debug)]
struct Entry {
    team: Arc<Team>,
    until: Instant,
}

impl KeyCache {
    pub(crate) fn get(&self, kind: Kind, key: &KeyHash) -> Option<Arc<Team>> {
        let entries = self.0.lock();
        let entry = entries.known.get(&(kind, key.clone()))?;
        (Instant::now() < entry.until).then(|| Arc::clone(&entry.team))
    }

    /// For [`KeyCache::put`], from before the look into the records.
    pub(crate) fn generation(&self) -> u64 {
        self.0.lock().generation
    }

    /// Keeps what was looked up, unless something was forgotten since.
    pub(crate) fn put(&self, kind: Kind, key: KeyHash, team: Team, since: u64) -> Arc<Team> {
        let team = Arc::new(team);
        let now = Instant::now();
        let mut entries = self.0.lock();
        if entries.generation != since {
            return team;
        }
        if entries.known.len() >= ENTRIES_MAX {
            entries.known.retain(|_, entry| now < entry.until);
        }
        if entries.known.len() < ENTRIES_MAX {
            let entry = Entry { team: Arc::clone(&team), until: now + FRESH };
            entries.known.insert((kind, key), entry);
        }
        team
    }

    /// What is kept of `team` is looked up again: its limits, its standing or its keys are others.
    pub(crate) fn forget(&self, team: &TeamId) {
        let mut entries = self.0.lock();
        entries.generation += 1;
        entries.known.retain(|_, entry| entry.team.id != *team);
    }
}

#[cfg(test)]
mod tests {
    use e2b_wire::ApiKey;

    use super::{ENTRIES_MAX, FRESH, KeyCache};
    use crate::Team;
    use crate::store::Kind;

    #[tokio::test(start_paused = true)]
    async fn an_entry_goes_stale_and_the_cache_never_outgrows_its_bound() {
        let cache = KeyCache::default();
        let first = ApiKey::generate().hash();
        let put = |hash| cache.put(Kind::Key, hash, Team::default(), cache.generation());
        put(first.clone());
        assert!(cache.get(Kind::Key, &first).is_some());
        assert!(cache.get(Kind::AccessToken, &first).is_none(), "another kind of the same bytes");
        for _ in 0..2 * ENTRIES_MAX {
            put(ApiKey::generate().hash());
        }
        assert_eq!(cache.0.lock().known.len(), ENTRIES_MAX);
        tokio::time::advance(FRESH).await;
        assert!(cache.get(Kind::Key, &first).is_none());
        put(first.clone());
        assert!(cache.get(Kind::Key, &first).is_some(), "stale entries made room");
    }

    #[test]
    fn what_was_looked_up_before_something_was_forgotten_is_not_kept() {
        let (cache, hash) = (KeyCache::default(), ApiKey::generate().hash());
        let since = cache.generation();
        cache.forget(&Team::default().id);
        cache.put(Kind::Key, hash.clone(), Team::default(), since);
        assert!(cache.get(Kind::Key, &hash).is_none());
        cache.put(Kind::Key, hash.clone(), Team::default(), cache.generation());
        cache.forget(&Team::default().id);
        assert!(cache.get(Kind::Key, &hash).is_none());
    }
}
