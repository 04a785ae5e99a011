//! `cofferdam key`: the API keys of a team.

use std::process::ExitCode;

use e2b_wire::{CreatedApiKey, Named, TeamApiKey};
use http::Method;

use super::team;
use crate::args;
use crate::client::Api;
use crate::say;

pub(crate) async fn run(api: &Api, command: args::Key) -> anyhow::Result<ExitCode> {
    match command {
        args::Key::Ls { team, output } => {
            let keys: Vec<TeamApiKey> = api.get(&path(api, &team).await?).await?;
            let text =
                if output.json { serde_json::to_string_pretty(&keys)? } else { table(&keys) };
            say::answer(&text)?;
        }
        args::Key::Create { name, team, output } => {
            let path = path(api, &team).await?;
            let made: CreatedApiKey = api.ask(Method::POST, &path, &Named { name }).await?;
            if output.json {
                say::answer(&serde_json::to_string_pretty(&made)?)?;
            } else {
                // Alone, so that a script can read it into E2B_API_KEY.
                say::answer(&made.key)?;
                say::remark("Keep it: it is not stored and cannot be shown again.");
            }
        }
        args::Key::Rm { id, team } => {
            api.delete(&format!("{}/{id}", path(api, &team).await?)).await?;
            say::answer(&format!("key {id} opens nothing any more"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn path(api: &Api, team: &args::OfTeam) -> anyhow::Result<String> {
    let team = team::find(api, &team.team).await?;
    Ok(format!("/admin/teams/{}/api-keys", team.team_id))
}

fn table(keys: &[TeamApiKey]) -> String {
    let head = ["ID", "NAME", "KEY", "MADE", "LAST USED"].map(str::to_owned);
    let rows = keys.iter().map(|key| {
        let mask = &key.mask;
        let shown =
            format!("{}{}...{}", mask.prefix, mask.masked_value_prefix, mask.masked_value_suffix);
        [
            key.id.clone(),
            key.name.escape_debug().to_string(),
            shown,
            key.created_at.to_string(),
            key.last_used.map_or_else(|| "-".to_owned(), |at| at.to_string()),
        ]
    });
    say::table(&Vec::from_iter([head].into_iter().chain(rows)))
}

#[cfg(test)]
mod tests {
    use e2b_wire::{ApiKey, TeamApiKey};

    use super::table;

    #[test]
    fn a_list_shows_of_a_key_its_beginning_and_its_end() {
        let row = TeamApiKey {
            id: "k1".into(),
            name: "ci".into(),
            mask: ApiKey::parse("e2b_0123456789abcdef").unwrap().mask(),
            created_at: std::time::SystemTime::UNIX_EPOCH.into(),
            last_used: None,
        };
        let expected = "\
ID  NAME  KEY            MADE                  LAST USED
k1  ci    e2b_01...cdef  1970-01-01T00:00:00Z  -";
        assert_eq!(table(&[row]), expected);
    }
}
