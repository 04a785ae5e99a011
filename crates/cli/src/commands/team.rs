//! `cofferdam team`: the teams of a service, and what each may have.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use e2b_wire::{AdminTeam, LimitsChange, NewTeam, TeamChange};
use http::Method;

use crate::args::{self, Limit};
use crate::client::Api;
use crate::say::{self, span};

const TEAMS: &str = "/admin/teams";

pub(crate) async fn run(api: &Api, command: args::Team) -> anyhow::Result<ExitCode> {
    match command {
        args::Team::Ls(output) => tell(&all(api).await?, output)?,
        args::Team::Create { name, slug, limits, output } => {
            let new = NewTeam { name, slug, limits: change(limits) };
            let team: AdminTeam = api.ask(Method::POST, TEAMS, &new).await?;
            tell(std::slice::from_ref(&team), output)?;
            say::remark(&format!(
                "It has no key yet; make one with: cofferdam key create NAME --team {}",
                team.slug
            ));
        }
        args::Team::Limits { team, limits, output } => {
            let team = find(api, &team).await?;
            let change = TeamChange { limits: change(limits), ..TeamChange::default() };
            let path = format!("{TEAMS}/{}", team.team_id);
            let team: AdminTeam = api.ask(Method::PATCH, &path, &change).await?;
            tell(&[team], output)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn all(api: &Api) -> anyhow::Result<Vec<AdminTeam>> {
    Ok(api.get(TEAMS).await?)
}

/// The team of this id or slug.
pub(super) async fn find(api: &Api, name: &str) -> anyhow::Result<AdminTeam> {
    let mut teams = all(api).await?.into_iter();
    teams
        .find(|team| team.team_id == name || team.slug == name)
        .with_context(|| format!("there is no team {name:?}; see `cofferdam team ls`"))
}

fn change(limits: args::Limits) -> LimitsChange {
    LimitsChange {
        concurrent_sandboxes: limits.sandboxes.map(Limit::value),
        max_length_s: limits.lifetime.map(|limit| limit.value().map(|time| time.as_secs())),
        max_vcpus: limits.vcpus.map(Limit::value),
        max_memory_mb: limits.memory.map(Limit::value),
    }
}

fn tell(teams: &[AdminTeam], output: args::Output) -> anyhow::Result<()> {
    let text = if output.json { serde_json::to_string_pretty(teams)? } else { table(teams) };
    Ok(say::answer(&text)?)
}

fn table(teams: &[AdminTeam]) -> String {
    let head = ["TEAM", "SLUG", "NAME", "SANDBOXES", "LIFETIME", "VCPUS", "MEMORY", "STATE"];
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rows = teams.iter().map(|team| {
        let limits = &team.limits;
        [
            team.team_id.clone(),
            team.slug.clone(),
            team.name.escape_debug().to_string(),
            limits.concurrent_sandboxes.to_string(),
            span(Duration::from_secs(limits.max_length_s)),
            or_dash(limits.max_vcpus.map(|vcpus| vcpus.to_string())),
            or_dash(limits.max_memory_mb.map(|mib| format!("{mib} MiB"))),
            state(team),
        ]
    });
    say::table(&Vec::from_iter([head.map(str::to_owned)].into_iter().chain(rows)))
}

fn state(team: &AdminTeam) -> String {
    match &team.blocked_reason {
        _ if team.banned => "banned".to_owned(),
        Some(reason) => format!("blocked: {}", reason.escape_debug()),
        None => "active".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use e2b_wire::{AdminTeam, TeamLimits};

    use super::table;

    #[test]
    fn a_list_has_the_limits_in_force_and_the_state() {
        let limits = TeamLimits {
            concurrent_sandboxes: 20,
            max_length_s: 3600,
            max_vcpus: Some(2),
            max_memory_mb: None,
        };
        let team = AdminTeam {
            team_id: "t1".into(),
            name: "Data\u{1b}".into(),
            slug: "data".into(),
            created_at: std::time::SystemTime::UNIX_EPOCH.into(),
            limits,
            banned: false,
            blocked_reason: Some("unpaid".into()),
        };
        let expected = "\
TEAM  SLUG  NAME        SANDBOXES  LIFETIME  VCPUS  MEMORY  STATE
t1    data  Data\\u{1b}  20         1h00m     2      -       blocked: unpaid";
        assert_eq!(table(&[team]), expected);
    }
}
