//! `POST /files/compose`: several files become one, which takes their place.

use std::fs::File;
use std::io;
use std::os::unix::fs::fchown;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use guest_wire::rest::{ComposeRequest, WrittenFile};
use http::StatusCode;
use rand::Rng as _;

use super::store::{is_full, written};
use super::{acting_user, target};
use crate::accounts::User;
use crate::agent::Agent;
use crate::filesystem::{Metadata, make_all};
use crate::rest::RestError;
use crate::tasks;

pub(crate) async fn compose(
    State(agent): State<Arc<Agent>>,
    body: Bytes,
) -> Result<Json<WrittenFile>, RestError> {
    let request: ComposeRequest = serde_json::from_slice(&body).map_err(|error| {
        bad(format!("the body must be JSON with source_paths and destination: {error}"))
    })?;
    if request.source_paths.is_empty() {
        return Err(bad("source_paths must name at least one file".to_owned()));
    }
    if request.destination.is_empty() {
        return Err(bad("destination must name a file".to_owned()));
    }
    let user = acting_user(&agent, request.username.as_deref())?;
    let destination = target(&agent, &user, &request.destination)?;
    let sources = request.source_paths.iter().map(|path| target(&agent, &user, path));
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    // Runs to its end: half of it would leave the parts and no whole.
    let worker = agent.upgrades.requests.worker();
    let composed = tasks::blocking(move || {
        let _worker = worker;
        join(&sources, destination, &user)
    });
    let composed = composed.await;
    let panicked =
        || RestError::new(StatusCode::INTERNAL_SERVER_ERROR, "the file operation panicked");
    composed.ok_or_else(panicked)?.map(Json)
}

fn join(sources: &[PathBuf], destination: PathBuf, user: &User) -> Result<WrittenFile, RestError> {
    for source in sources {
        check_source(source, &destination)?;
    }
    if let Some(parent) = destination.parent() {
        make_all(parent, user).map_err(|error| failed("error creating", parent, &error))?;
    }
    let temporary = temporary_name(&destination);
    let joined = write_all(sources, &temporary, user).and_then(|()| {
        std::fs::rename(&temporary, &destination)
            .map_err(|error| failed("error renaming to", &destination, &error))
    });
    if let Err(error) = joined {
        // Not there if it could not be made; then that is the error already.
        drop(std::fs::remove_file(&temporary));
        return Err(error);
    }
    for source in sources {
        match std::fs::remove_file(source) {
            Ok(()) => {}
            // Named twice, it is gone already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("error removing", source, &error)),
        }
    }
    Ok(written(&destination, &Metadata::default()))
}

fn check_source(source: &Path, destination: &Path) -> Result<(), RestError> {
    if source == destination {
        return Err(bad(format!(
            "source file equals the destination: {}; name another destination",
            source.display()
        )));
    }
    match std::fs::metadata(source) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_other) => Err(bad(format!("source is not a regular file: {}", source.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(RestError::new(
            StatusCode::NOT_FOUND,
            format!("source file not found: {}", source.display()),
        )),
        Err(error) => Err(failed("error looking at", source, &error)),
    }
}

fn write_all(sources: &[PathBuf], temporary: &Path, user: &User) -> Result<(), RestError> {
    let mut whole =
        File::create_new(temporary).map_err(|error| failed("error creating", temporary, &error))?;
    fchown(&whole, Some(user.uid), Some(user.gid))
        .map_err(|error| failed("error changing owner of", temporary, &error))?;
    for source in sources {
        File::open(source)
            .and_then(|mut part| io::copy(&mut part, &mut whole))
            .map_err(|error| failed("error copying", source, &error))?;
    }
    Ok(())
}

/// Beside the destination, so that the rename stays within one file system.
fn temporary_name(destination: &Path) -> PathBuf {
    let mut name = destination.as_os_str().to_owned();
    name.push(format!(".e2b-compose.{:032x}.tmp", rand::rng().random::<u128>()));
    PathBuf::from(name)
}

fn bad(message: String) -> RestError {
    RestError::new(StatusCode::BAD_REQUEST, message)
}

fn failed(what: &str, path: &Path, error: &io::Error) -> RestError {
    if is_full(error) {
        return RestError::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "not enough disk space available to compose the files",
        );
    }
    RestError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{what} {}: {error}", path.display()))
}
