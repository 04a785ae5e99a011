//! What sandboxes used, a sample a minute.

use std::time::{Duration, SystemTime};

use model::{SandboxId, TeamId};
use node_wire::Sample;
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};

use super::row::number;
use super::{Store, StoreError};

/// Seconds.
const MINUTE: i64 = 60;

// A sandbox may have ended, and its record gone, since it was asked.
const INSERT: &str = "INSERT INTO sandbox_samples (sandbox_id, minute, at_s, cpu_count, \
        cpu_used_pct, mem_used, mem_total, mem_cache, disk_used, disk_total) \
    SELECT value ->> 'id', value ->> 'minute', value ->> 'at_s', value ->> 'cpu_count', \
        value ->> 'cpu_used_pct', value ->> 'mem_used', value ->> 'mem_total', \
        value ->> 'mem_cache', value ->> 'disk_used', value ->> 'disk_total' FROM json_each($1) \
    WHERE EXISTS (SELECT 1 FROM sandboxes WHERE id = value ->> 'id') \
    ON CONFLICT (sandbox_id, minute) DO NOTHING";
const PURGE: &str = "DELETE FROM sandbox_samples WHERE minute <= (SELECT minute \
    FROM sandbox_samples ORDER BY minute DESC LIMIT 1 OFFSET $1)";
const LIST: &str = "SELECT x.* FROM sandbox_samples x \
    JOIN sandboxes s ON s.id = x.sandbox_id AND s.team_id = $1 \
    WHERE x.sandbox_id = $2 ORDER BY x.minute";

/// A sample to be kept.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Kept {
    id: String,
    minute: i64,
    at_s: i64,
    cpu_count: u32,
    cpu_used_pct: f64,
    mem_used: u64,
    mem_total: u64,
    mem_cache: u64,
    disk_used: u64,
    disk_total: u64,
}

/// The last of each minute that is over, of those after `since`. Seconds since 1970.
pub(crate) fn last_of_minutes(
    id: &SandboxId,
    samples: &[Sample],
    since: i64,
    now: i64,
) -> Vec<Kept> {
    let mut kept: Vec<Kept> = Vec::new();
    for sample in samples {
        let next = Kept::of(id, sample);
        if next.minute < since.div_euclid(MINUTE) || next.minute >= now.div_euclid(MINUTE) {
            continue;
        }
        match kept.last_mut() {
            Some(last) if last.minute == next.minute => *last = next,
            _ => kept.push(next),
        }
    }
    kept
}

impl Kept {
    fn of(id: &SandboxId, sample: &Sample) -> Self {
        let at = sample.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at_s = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
        Self {
            id: id.to_string(),
            minute: at_s.div_euclid(MINUTE),
            at_s,
            cpu_count: sample.cpu_count,
            cpu_used_pct: sample.cpu_used_pct,
            mem_used: sample.mem_used_bytes,
            mem_total: sample.mem_total_bytes,
            mem_cache: sample.mem_cache_bytes,
            disk_used: sample.disk_used_bytes,
            disk_total: sample.disk_total_bytes,
        }
    }
}

impl Store {
    /// Keeps `samples`, and of all at most about `rows`: the oldest go.
    pub(crate) async fn keep_samples(&self, samples: &[Kept], rows: u32) -> Result<(), StoreError> {
        let encoded = serde_json::to_string(samples).map_err(|source| StoreError::Query {
            what: "encode samples",
            source: sqlx::Error::Encode(Box::new(source)),
        })?;
        let failed = || StoreError::query("keep samples");
        sqlx::query(INSERT).bind(encoded).execute(&self.writer).await.map_err(failed())?;
        let purge = sqlx::query(PURGE).bind(i64::from(rows));
        purge.execute(&self.writer).await.map(drop).map_err(failed())
    }

    /// What is kept of a sandbox of `team`, the oldest first.
    pub(crate) async fn samples(
        &self,
        team: &TeamId,
        id: &SandboxId,
    ) -> Result<Vec<Sample>, StoreError> {
        let failed = || StoreError::query("look up samples");
        let found = sqlx::query(LIST).bind(team.as_str()).bind(id.as_str());
        let rows = found.fetch_all(&self.reader).await.map_err(failed())?;
        let samples: Result<Vec<Found>, _> = rows.iter().map(Found::from_row).collect();
        Ok(samples.map_err(failed())?.into_iter().map(|found| found.0).collect())
    }
}

struct Found(Sample);

impl<'r> FromRow<'r, SqliteRow> for Found {
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        let at = Duration::from_secs(number(row, "at_s")?);
        Ok(Self(Sample {
            at: SystemTime::UNIX_EPOCH + at,
            cpu_count: number(row, "cpu_count")?,
            cpu_used_pct: row.try_get("cpu_used_pct")?,
            mem_total_bytes: number(row, "mem_total")?,
            mem_used_bytes: number(row, "mem_used")?,
            mem_cache_bytes: number(row, "mem_cache")?,
            disk_total_bytes: number(row, "disk_total")?,
            disk_used_bytes: number(row, "disk_used")?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use e2b_wire::ApiKey;
    use model::SandboxId;
    use node_wire::Sample;

    use super::last_of_minutes;
    use crate::Team;
    use crate::app::now;
    use crate::samples::tests::at;
    use crate::store::Store;
    use crate::store::sandboxes::tests::insert;

    #[test]
    fn of_each_minute_that_is_over_the_last_sample_is_kept() {
        let id = SandboxId::parse("i1").unwrap();
        let samples: Vec<Sample> = (600..900).step_by(5).map(at).collect();
        let seconds = |since, now| {
            let kept = last_of_minutes(&id, &samples, since, now);
            kept.iter().map(|kept| kept.at_s).collect::<Vec<_>>()
        };
        assert_eq!(seconds(0, 899), [655, 715, 775, 835], "the last minute goes on");
        assert_eq!(seconds(0, 900), [655, 715, 775, 835, 895]);
        assert_eq!(seconds(780, 900), [835, 895], "what was kept before is not sent again");
    }

    #[tokio::test]
    async fn the_oldest_samples_go_and_those_of_nobody_do_not_come() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.sqlite")).await.unwrap();
        store.configure_team(&Team::default(), &ApiKey::generate(), now()).await.unwrap();
        let id = insert(&store, "i1").await;
        let samples: Vec<Sample> = (1..=10).map(|minute| at(60 * minute)).collect();
        let kept = last_of_minutes(&id, &samples, 0, 6000);
        for _ in 0..2 {
            store.keep_samples(&kept, 4).await.unwrap();
        }
        let found = store.samples(&Team::default().id, &id).await.unwrap();
        assert_eq!(found, samples[6..], "each once");
        let nobody = SandboxId::parse("inobody").unwrap();
        store.keep_samples(&last_of_minutes(&nobody, &samples, 0, 6000), 100).await.unwrap();
        assert!(store.samples(&Team::default().id, &nobody).await.unwrap().is_empty());
        store.close().await;
    }
}
