//! `/files`: contents of files, up and down, with memory use that does not depend on their size.

mod authorise;
mod compose;
mod conditional;
mod content_type;
mod download;
mod encoding;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod range;
mod store;
mod upload;

pub(crate) use compose::compose;
pub(crate) use download::download;
pub(crate) use upload::upload;

use std::path::PathBuf;

use http::StatusCode;
use serde::Deserialize;

use crate::accounts::User;
use crate::agent::{Agent, UserError};
use crate::paths::{PathError, resolve};
use crate::rest::RestError;

/// The query of both directions.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct FilesQuery {
    path: Option<String>,
    username: Option<String>,
    signature: Option<String>,
    /// Unix seconds.
    signature_expiration: Option<i64>,
}

impl FilesQuery {
    fn path(&self) -> &str {
        self.path.as_deref().unwrap_or_default()
    }

    fn username(&self) -> &str {
        self.username.as_deref().unwrap_or_default()
    }
}

/// The user named in a request, or the default one. An empty name names nobody.
fn acting_user(agent: &Agent, named: Option<&str>) -> Result<User, RestError> {
    let named = named.filter(|name| !name.is_empty());
    agent.user(named).map_err(|error| match error {
        UserError::Unknown(name) | UserError::UnknownDefault(name) => RestError::new(
            StatusCode::UNAUTHORIZED,
            format!("error looking up user '{name}': there is no such user in /etc/passwd"),
        ),
        UserError::Table(_) => {
            RestError::new(StatusCode::INTERNAL_SERVER_ERROR, "cannot read the user table")
        }
    })
}

fn target(agent: &Agent, user: &User, path: &str) -> Result<PathBuf, RestError> {
    let workdir = agent.settings.default_workdir();
    resolve(path, user, workdir.as_deref())
        .map_err(|error: PathError| RestError::new(StatusCode::BAD_REQUEST, error.to_string()))
}
