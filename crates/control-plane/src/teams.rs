//! Teams: what each may have, and how they come and change.

use std::time::Duration;

use e2b_wire::{AdminTeam, LimitsChange, NewTeam, TeamChange, TeamLimits};
use http::StatusCode;
use model::{Resources, TeamId};
use uuid::Uuid;

use crate::app::{App, now};
use crate::http::ApiError;
use crate::store::{TeamInserted, TeamRow};
use crate::{Limits, Quota, Standing, Team};

/// Of names of teams and keys.
const NAME_MAX: usize = 128;
const SLUG_MAX: usize = 64;
const REASON_MAX: usize = 256;
/// From the least to the most a limit can be set to.
const SANDBOXES: (u32, u32) = (0, 1_000_000);
const LENGTH_S: (u64, u64) = (1, 8760 * 3600);
const VCPUS: (u32, u32) = (1, 1024);
const MEMORY_MIB: (u64, u64) = (1, 16 << 20);

/// Whether a team may have a sandbox of this size.
///
/// # Errors
/// 400 when it is too big.
pub(crate) fn check_size(team: &Team, resources: &Resources) -> Result<(), ApiError> {
    let Quota { vcpus, memory_mib, .. } = team.quota;
    let over = |what: &str, has: u64, may: u64| {
        let message = format!(
            "the template gives a sandbox {has} {what}, and the team may have {may} in one; use \
             another template, or ask whoever runs this service"
        );
        Err(ApiError::bad_request(message))
    };
    match (vcpus, memory_mib) {
        (Some(most), _) if resources.vcpus > most => {
            over("vcpus", resources.vcpus.into(), most.into())
        }
        (_, Some(most)) if resources.memory_mib > most => {
            over("MiB of memory", resources.memory_mib, most)
        }
        _ => Ok(()),
    }
}

/// A name of a team or a key: something a person can read.
///
/// # Errors
/// 400 when it is empty, too long, or has control characters.
pub(crate) fn check_name(name: &str) -> Result<&str, ApiError> {
    let name = name.trim();
    if (1..=NAME_MAX).contains(&name.len()) && !name.chars().any(char::is_control) {
        return Ok(name);
    }
    let problem = format!("name must be 1 to {NAME_MAX} bytes without control characters");
    Err(ApiError::validation(problem))
}

impl App {
    /// Makes a team. It has no key yet.
    pub(crate) async fn make_team(&self, new: NewTeam) -> Result<TeamRow, ApiError> {
        let name = check_name(&new.name)?.to_owned();
        let slug = match &new.slug {
            Some(slug) => check_slug(slug)?.to_owned(),
            None => slug_of(&name)?,
        };
        let quota = changed(Quota::default(), new.limits)?;
        let id = TeamId::parse(&Uuid::new_v4().hyphenated().to_string());
        let id = id.map_err(|_never| ApiError::internal())?;
        let team = Team { id, slug, name, quota, standing: Standing::default() };
        let row = TeamRow { team, created_at: now() };
        match self.store.insert_team(&row, self.config.limits.teams).await? {
            TeamInserted::Yes => Ok(row),
            TeamInserted::SlugTaken => {
                let message = format!("another team has the slug {:?}; give one", row.team.slug);
                Err(ApiError::new(StatusCode::CONFLICT, message))
            }
            TeamInserted::AtLimit => {
                let most = self.config.limits.teams;
                let message = format!("there are {most} teams, as many as there may be");
                Err(ApiError::new(StatusCode::CONFLICT, message))
            }
        }
    }

    /// In force with the answer, for requests that come after it.
    pub(crate) async fn change_team(
        &self,
        id: &TeamId,
        change: TeamChange,
    ) -> Result<TeamRow, ApiError> {
        let Some(mut row) = self.store.team_row(id).await? else { return Err(no_team(id)) };
        let team = &mut row.team;
        if let Some(name) = &change.name {
            check_name(name)?.clone_into(&mut team.name);
        }
        team.quota = changed(team.quota, change.limits)?;
        if let Some(banned) = change.banned {
            team.standing.banned = banned;
        }
        if let Some(reason) = change.blocked_reason {
            team.standing.blocked = reason.map(check_reason).transpose()?;
        }
        if !self.store.change_team(team).await? {
            return Err(no_team(id));
        }
        self.keys.forget(id);
        Ok(row)
    }
}

pub(crate) fn no_team(id: &TeamId) -> ApiError {
    ApiError::not_found(format!("there is no team {id}"))
}

/// As its operator sees it.
pub(crate) fn shown(row: TeamRow, limits: &Limits) -> AdminTeam {
    let TeamRow { team, created_at } = row;
    let limits = limits.of(&team);
    AdminTeam {
        team_id: team.id.to_string(),
        name: team.name,
        slug: team.slug,
        created_at,
        limits: TeamLimits {
            concurrent_sandboxes: limits.team_sandboxes,
            max_length_s: limits.sandbox_length.as_secs(),
            max_vcpus: team.quota.vcpus,
            max_memory_mb: team.quota.memory_mib,
        },
        banned: team.standing.banned,
        blocked_reason: team.standing.blocked,
    }
}

fn changed(quota: Quota, change: LimitsChange) -> Result<Quota, ApiError> {
    let LimitsChange { concurrent_sandboxes, max_length_s, max_vcpus, max_memory_mb } = change;
    let length_s = quota.length.map(|length| length.as_secs());
    let length_s = limit("maxLengthS", length_s, max_length_s, LENGTH_S)?;
    Ok(Quota {
        sandboxes: limit("concurrentSandboxes", quota.sandboxes, concurrent_sandboxes, SANDBOXES)?,
        length: length_s.map(Duration::from_secs),
        vcpus: limit("maxVcpus", quota.vcpus, max_vcpus, VCPUS)?,
        memory_mib: limit("maxMemoryMb", quota.memory_mib, max_memory_mb, MEMORY_MIB)?,
    })
}

fn limit<T: PartialOrd + std::fmt::Display + Copy>(
    name: &str,
    now: Option<T>,
    change: Option<Option<T>>,
    (least, most): (T, T),
) -> Result<Option<T>, ApiError> {
    match change {
        None => Ok(now),
        Some(None) => Ok(None),
        Some(Some(value)) if (least..=most).contains(&value) => Ok(Some(value)),
        Some(Some(value)) => Err(ApiError::validation(format!(
            "limits.{name} is {value} and must be {least} to {most}, or null for the service's own"
        ))),
    }
}

fn check_slug(slug: &str) -> Result<&str, ApiError> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=SLUG_MAX).contains(&slug.len()) && slug.bytes().all(legal) {
        return Ok(slug);
    }
    Err(ApiError::validation(format!("slug must be 1 to {SLUG_MAX} characters of [a-z0-9-]")))
}

/// What of a name can stand in front of the name of a template.
fn slug_of(name: &str) -> Result<String, ApiError> {
    let plain = |letter: char| match letter.to_ascii_lowercase() {
        letter if letter.is_ascii_alphanumeric() => letter,
        _ => '-',
    };
    let slug: String = name.chars().map(plain).take(SLUG_MAX).collect();
    let slug = slug.trim_matches('-');
    if slug.is_empty() {
        let problem = "the name has no letter or digit to make a slug of; give a slug";
        return Err(ApiError::validation(problem));
    }
    Ok(slug.to_owned())
}

fn check_reason(reason: String) -> Result<String, ApiError> {
    let reason = reason.trim();
    if (1..=REASON_MAX).contains(&reason.len()) && !reason.chars().any(char::is_control) {
        return Ok(reason.to_owned());
    }
    let problem =
        format!("blockedReason must be 1 to {REASON_MAX} bytes without control characters");
    Err(ApiError::validation(problem))
}

#[cfg(test)]
mod tests {
    use model::Resources;

    use super::{check_name, check_size, slug_of};
    use crate::{Quota, Team};

    #[test]
    fn a_slug_is_made_of_what_can_stand_in_one() {
        assert_eq!(slug_of("Data Team \u{e9}2!").unwrap(), "data-team--2");
        assert_eq!(slug_of(&"x".repeat(200)).unwrap().len(), 64);
        slug_of("\u{4e2d}\u{6587}").unwrap_err();
    }

    #[test]
    fn a_name_is_readable() {
        assert_eq!(check_name(" a b ").unwrap(), "a b");
        for name in ["", "  ", "a\nb", &"x".repeat(129)] {
            assert_eq!(check_name(name).unwrap_err().parts().0, 400, "{name:?}");
        }
    }

    #[test]
    fn a_sandbox_is_no_bigger_than_its_team_may_have_one() {
        let size = Resources { vcpus: 2, memory_mib: 512, disk_mib: 1 };
        let of = |vcpus, memory_mib| {
            let quota = Quota { vcpus, memory_mib, ..Quota::default() };
            check_size(&Team { quota, ..Team::default() }, &size).map_err(|e| e.parts().0)
        };
        assert_eq!(of(None, None), Ok(()));
        assert_eq!(of(Some(2), Some(512)), Ok(()));
        assert_eq!(of(Some(1), None), Err(400));
        assert_eq!(of(None, Some(511)), Err(400));
    }
}
