use std::collections::HashMap;

use e2b_wire::Timestamp;
use model::TemplateId;
use node_wire::TemplateInfo;
use sqlx::{Row as _, SqliteConnection};

use super::row::TemplateRow;
use super::{Store, StoreError};

/// More templates than this are not listed; no node tells of so many.
const MAX_LISTED: i64 = 10_000;

const UPSERT: &str = "INSERT INTO templates \
    (id, build_id, vcpus, memory_mib, disk_mib, envd_version, created_at, updated_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
    ON CONFLICT (id) DO UPDATE SET build_id = excluded.build_id, vcpus = excluded.vcpus, \
        memory_mib = excluded.memory_mib, disk_mib = excluded.disk_mib, \
        envd_version = excluded.envd_version, \
        updated_at = CASE WHEN templates.build_id = excluded.build_id \
            THEN templates.updated_at ELSE excluded.updated_at END";
const ADD_ALIAS: &str = "INSERT INTO template_aliases (alias, template_id, position) VALUES ($1, $2, $3) \
    ON CONFLICT (alias) DO UPDATE SET template_id = excluded.template_id, \
        position = excluded.position";
const FIND: &str = "SELECT t.* FROM templates t WHERE t.id = COALESCE( \
    (SELECT a.template_id FROM template_aliases a WHERE a.alias = $1), $1)";
const ALIASES_OF: &str =
    "SELECT alias FROM template_aliases WHERE template_id = $1 ORDER BY position, alias";
const LIST: &str = "SELECT * FROM templates ORDER BY created_at DESC, id LIMIT $1";
const ALIASES: &str =
    "SELECT alias, template_id FROM template_aliases ORDER BY position, alias LIMIT $1";
const SPAWNED: &str = "UPDATE templates SET spawn_count = spawn_count + 1, last_spawned_at = $2 \
    WHERE id = $1";

impl Store {
    /// Makes the templates those of `infos`: exactly those when they are `complete`, otherwise
    /// those beside the ones there were.
    pub(crate) async fn replace_templates(
        &self,
        infos: &[TemplateInfo],
        complete: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.transact("replace the templates", async |transaction| {
            let known: Vec<String> =
                sqlx::query_scalar("SELECT id FROM templates").fetch_all(&mut *transaction).await?;
            if complete {
                sqlx::query("DELETE FROM template_aliases").execute(&mut *transaction).await?;
            }
            for info in infos {
                put(transaction, info, now).await?;
            }
            for id in known {
                if complete && !infos.iter().any(|info| info.id.as_str() == id) {
                    sqlx::query("DELETE FROM templates WHERE id = $1")
                        .bind(id)
                        .execute(&mut *transaction)
                        .await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// The template with this alias, else the one with this id.
    pub(crate) async fn find_template(
        &self,
        name: &str,
    ) -> Result<Option<TemplateRow>, StoreError> {
        let failed = || StoreError::query("look up a template");
        let found: Option<TemplateRow> =
            sqlx::query_as(FIND).bind(name).fetch_optional(&self.reader).await.map_err(failed())?;
        let Some(mut template) = found else { return Ok(None) };
        template.aliases = sqlx::query_scalar(ALIASES_OF)
            .bind(template.id.as_str())
            .fetch_all(&self.reader)
            .await
            .map_err(failed())?;
        Ok(Some(template))
    }

    /// Every template, newest first.
    pub(crate) async fn templates(&self) -> Result<Vec<TemplateRow>, StoreError> {
        let failed = || StoreError::query("list the templates");
        let mut templates: Vec<TemplateRow> =
            sqlx::query_as(LIST).bind(MAX_LISTED).fetch_all(&self.reader).await.map_err(failed())?;
        let rows =
            sqlx::query(ALIASES).bind(MAX_LISTED).fetch_all(&self.reader).await.map_err(failed())?;
        let mut aliases: HashMap<String, Vec<String>> = HashMap::new();
        for row in rows {
            let template = row.try_get("template_id").map_err(failed())?;
            let alias = row.try_get("alias").map_err(failed())?;
            aliases.entry(template).or_default().push(alias);
        }
        for template in &mut templates {
            template.aliases = aliases.remove(template.id.as_str()).unwrap_or_default();
        }
        Ok(templates)
    }

    /// Counts one more sandbox of a template.
    pub(crate) async fn template_spawned(
        &self,
        id: &TemplateId,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(SPAWNED)
            .bind(id.as_str())
            .bind(at.micros())
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(StoreError::query("count a sandbox of a template"))
    }
}

async fn put(
    transaction: &mut SqliteConnection,
    info: &TemplateInfo,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(UPSERT)
        .bind(info.id.as_str())
        .bind(info.build.as_str())
        .bind(i64::from(info.resources.vcpus))
        .bind(i64::try_from(info.resources.memory_mib).unwrap_or(i64::MAX))
        .bind(i64::try_from(info.resources.disk_mib).unwrap_or(i64::MAX))
        .bind(&info.envd_version)
        .bind(Timestamp::from(info.created_at).micros())
        .bind(now.micros())
        .execute(&mut *transaction)
        .await?;
    for (position, alias) in (0_i64..).zip(&info.aliases) {
        sqlx::query(ADD_ALIAS)
            .bind(alias)
            .bind(info.id.as_str())
            .bind(position)
            .execute(&mut *transaction)
            .await?;
    }
    Ok(())
}
