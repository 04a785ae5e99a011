use http::{Method, StatusCode};

use crate::Team;
use crate::http::ApiError;

/// What a blocked team may delete: it makes it have less, and needs nobody's work.
const MAY_GO: [&str; 5] =
    ["/sandboxes/", "/templates/", "/volumes/", "/api-keys/", "/access-tokens/"];

/// # Errors
/// 403 for a team that is banned, and for one that is blocked and would make or change something.
pub(super) fn check(team: &Team, method: &Method, path: &str) -> Result<(), ApiError> {
    if team.standing.banned {
        let message = "the team is banned; ask whoever runs this service";
        return Err(ApiError::new(StatusCode::FORBIDDEN, message));
    }
    let Some(reason) = &team.standing.blocked else { return Ok(()) };
    let harmless = match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => true,
        Method::DELETE => MAY_GO.iter().any(|prefix| path.starts_with(prefix)),
        _ => false,
    };
    if harmless {
        return Ok(());
    }
    let message = format!("the team is blocked ({reason}); it may look and delete, and no more");
    Err(ApiError::new(StatusCode::FORBIDDEN, message))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::check;
    use crate::{Standing, Team};

    #[test]
    fn a_blocked_team_looks_and_deletes_and_a_banned_one_does_nothing() {
        let blocked = Standing { banned: false, blocked: Some("unpaid".to_owned()) };
        let blocked = Team { standing: blocked, ..Team::default() };
        let banned = Standing { banned: true, blocked: None };
        let banned = Team { standing: banned, ..Team::default() };
        for (method, path, allowed) in [
            (Method::GET, "/secrets", true),
            (Method::DELETE, "/sandboxes/i1", true),
            (Method::DELETE, "/templates/tags", true),
            (Method::DELETE, "/api-keys/x", true),
            (Method::DELETE, "/access-tokens/x", true),
            (Method::DELETE, "/secrets/s", false),
            (Method::POST, "/sandboxes", false),
            (Method::PUT, "/sandboxes/i1/network", false),
            (Method::PATCH, "/v2/templates/t", false),
        ] {
            assert_eq!(check(&blocked, &method, path).is_ok(), allowed, "{method} {path}");
            assert_eq!(check(&banned, &method, path).unwrap_err().parts().0, 403);
            check(&Team::default(), &method, path).unwrap();
        }
    }
}
