//! `filesystem.Filesystem` on the wire.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use connectrpc::{
    ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use guest_wire::proto::filesystem::{
    CreateWatcherRequest, CreateWatcherResponse, EntryInfo, Filesystem, GetWatcherEventsRequest,
    GetWatcherEventsResponse, ListDirRequest, ListDirResponse, MakeDirRequest, MakeDirResponse,
    MoveRequest, MoveResponse, RemoveRequest, RemoveResponse, RemoveWatcherRequest,
    RemoveWatcherResponse, StatRequest, StatResponse, WatchDirRequest, WatchDirResponse,
};

use super::directories::make_all;
use super::entry::{entry_at, path_text};
use super::list::{ListError, list};
use crate::accounts::{Accounts, User};
use crate::agent::Agent;
use crate::gatekeeper::{Named, user_error_code};
use crate::process::keepalive_interval;
use crate::watch::{Watch, WatchError, stream};
use crate::{paths, tasks};

/// A client of long ago that knows three fields of an entry, and its mark in the answer.
const LEGACY_AGENT: &str = "connect-python";
const LEGACY_HEADER: &str = "x-e2b-legacy-sdk";

/// Serves the file system.
pub(crate) struct FilesystemService {
    agent: Arc<Agent>,
}

impl FilesystemService {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self { agent }
    }

    /// The acting user, and what `path` means for this user.
    fn resolve(&self, context: &RequestContext, path: &str) -> Result<Target, ConnectError> {
        let named = context.extensions().get::<Named>().cloned().unwrap_or_default();
        let user = self
            .agent
            .user(named.0.as_deref())
            .map_err(|error| ConnectError::new(user_error_code(&error), error.to_string()))?;
        let workdir = self.agent.settings.default_workdir();
        let path = paths::resolve(path, &user, workdir.as_deref())
            .map_err(|error| ConnectError::invalid_argument(error.to_string()))?;
        Ok(Target { user, path })
    }

    async fn watch(&self, context: &RequestContext, wanted: Wanted) -> Result<Watch, ConnectError> {
        let target = self.resolve(context, &wanted.path)?;
        let Wanted { recursive, include_entry, allow_network_mounts, .. } = wanted;
        let made = blocking(move || {
            let options = crate::watch::Options { recursive, include_entry, allow_network_mounts };
            Watch::new(target.path, options)
        });
        made.await?.map_err(|error| watch_error(&error))
    }
}

struct Target {
    user: User,
    path: PathBuf,
}

/// The fields both watching requests have.
struct Wanted {
    path: String,
    recursive: bool,
    include_entry: bool,
    allow_network_mounts: bool,
}

#[expect(refining_impl_trait, reason = "naming the plain message is clearer than its bound")]
impl Filesystem for FilesystemService {
    async fn stat(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, StatRequest>,
    ) -> ServiceResult<StatResponse> {
        let target = self.resolve(&context, request.path)?;
        let entry = blocking(move || described(&target.path)).await??;
        let (mut entries, is_legacy) = trimmed(&context, vec![entry]);
        let entry = entries.pop().into();
        marked(is_legacy, StatResponse { entry, ..StatResponse::default() })
    }

    async fn make_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, MakeDirRequest>,
    ) -> ServiceResult<MakeDirResponse> {
        let target = self.resolve(&context, request.path)?;
        let entry = blocking(move || make_dir(&target)).await??;
        let (mut entries, is_legacy) = trimmed(&context, vec![entry]);
        let entry = entries.pop().into();
        marked(is_legacy, MakeDirResponse { entry, ..MakeDirResponse::default() })
    }

    async fn r#move(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, MoveRequest>,
    ) -> ServiceResult<MoveResponse> {
        let source = self.resolve(&context, request.source)?;
        let destination = self.resolve(&context, request.destination)?;
        let entry = blocking(move || move_entry(&source.path, &destination)).await??;
        let (mut entries, is_legacy) = trimmed(&context, vec![entry]);
        let entry = entries.pop().into();
        marked(is_legacy, MoveResponse { entry, ..MoveResponse::default() })
    }

    async fn list_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, ListDirRequest>,
    ) -> ServiceResult<ListDirResponse> {
        let target = self.resolve(&context, request.path)?;
        let depth = request.depth.max(1);
        let listed = blocking(move || {
            let accounts = load_accounts()?;
            list(&target.path, depth, &accounts).map_err(|error| list_error(&error))
        });
        let (entries, is_legacy) = trimmed(&context, listed.await??);
        marked(is_legacy, ListDirResponse { entries, ..ListDirResponse::default() })
    }

    async fn remove(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, RemoveRequest>,
    ) -> ServiceResult<RemoveResponse> {
        let target = self.resolve(&context, request.path)?;
        blocking(move || remove(&target.path)).await??;
        Response::ok(RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<WatchDirResponse>> {
        let wanted = Wanted {
            path: request.path.to_owned(),
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network_mounts: request.allow_network_mounts,
        };
        let place = self.agent.streams.place()?;
        let watch = self.watch(&context, wanted).await?;
        let is_legacy = is_legacy(&context);
        Response::stream_ok(stream(watch, keepalive_interval(&context), is_legacy, place))
    }

    async fn create_watcher(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, CreateWatcherRequest>,
    ) -> ServiceResult<CreateWatcherResponse> {
        let place = self.agent.watchers.place().map_err(|full| watch_error(&full))?;
        let wanted = Wanted {
            path: request.path.to_owned(),
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network_mounts: request.allow_network_mounts,
        };
        let watch = self.watch(&context, wanted).await?;
        let watcher_id = place.keep(watch);
        Response::ok(CreateWatcherResponse { watcher_id, ..CreateWatcherResponse::default() })
    }

    async fn get_watcher_events(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, GetWatcherEventsRequest>,
    ) -> ServiceResult<GetWatcherEventsResponse> {
        let taken = self.agent.watchers.take_events(request.watcher_id);
        let mut events = taken.map_err(|error| watch_error(&error))?;
        let is_legacy = is_legacy(&context);
        if is_legacy {
            crate::watch::trim_events(&mut events);
        }
        let response = GetWatcherEventsResponse { events, ..GetWatcherEventsResponse::default() };
        marked(is_legacy, response)
    }

    async fn remove_watcher(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, RemoveWatcherRequest>,
    ) -> ServiceResult<RemoveWatcherResponse> {
        let removed = self.agent.watchers.remove(request.watcher_id);
        removed.map_err(|error| watch_error(&error))?;
        Response::ok(RemoveWatcherResponse::default())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ConnectError> {
    let done = tasks::blocking(work).await;
    done.ok_or_else(|| ConnectError::internal("the file system operation panicked"))
}

fn load_accounts() -> Result<Accounts, ConnectError> {
    Accounts::load()
        .map_err(|error| ConnectError::internal(format!("cannot read the user table: {error}")))
}

fn described(path: &Path) -> Result<EntryInfo, ConnectError> {
    entry_at(path, &load_accounts()?).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            ConnectError::not_found(format!("file not found: {}", path.display()))
        }
        _ => ConnectError::internal(format!("error looking at {}: {error}", path.display())),
    })
}

fn make_dir(target: &Target) -> Result<EntryInfo, ConnectError> {
    let path = target.path.display();
    match std::fs::metadata(&target.path) {
        Ok(found) if found.is_dir() => {
            return Err(ConnectError::already_exists(format!("directory already exists: {path}")));
        }
        Ok(_other) => {
            return Err(ConnectError::invalid_argument(format!(
                "path already exists but it is not a directory: {path}"
            )));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(ConnectError::internal(format!("error looking at {path}: {error}")));
        }
    }
    make_all(&target.path, &target.user).map_err(|error| {
        ConnectError::internal(format!("error creating directory {path}: {error}"))
    })?;
    described(&target.path)
}

fn move_entry(source: &Path, destination: &Target) -> Result<EntryInfo, ConnectError> {
    if let Err(error) = std::fs::symlink_metadata(source)
        && error.kind() == io::ErrorKind::NotFound
    {
        return Err(source_not_found(source));
    }
    if let Some(parent) = destination.path.parent() {
        make_all(parent, &destination.user).map_err(|error| {
            let parent = parent.display();
            ConnectError::internal(format!("error creating directory {parent}: {error}"))
        })?;
    }
    std::fs::rename(source, &destination.path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => source_not_found(source),
        _ => ConnectError::internal(format!(
            "error renaming: {} to {}: {error}",
            source.display(),
            destination.path.display()
        )),
    })?;
    described(&destination.path)
}

fn source_not_found(source: &Path) -> ConnectError {
    ConnectError::not_found(format!("source file not found: {}", source.display()))
}

/// What is gone already is removed.
fn remove(path: &Path) -> Result<(), ConnectError> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_other) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(())
        }
        Err(error) => Err(ConnectError::internal(format!(
            "error removing file or directory {}: {error}",
            path_text(path)
        ))),
    }
}

fn list_error(error: &ListError) -> ConnectError {
    let text = error.to_string();
    match error {
        ListError::NotFound(_) => ConnectError::not_found(text),
        ListError::NotADirectory(_) => ConnectError::invalid_argument(text),
        ListError::Cycle(_) => ConnectError::failed_precondition(text),
        ListError::TooMany(_) => ConnectError::resource_exhausted(text),
        ListError::Read { .. } => ConnectError::internal(text),
    }
}

fn watch_error(error: &WatchError) -> ConnectError {
    ConnectError::new(error.code(), error.to_string())
}

fn is_legacy(context: &RequestContext) -> bool {
    context.header(http::header::USER_AGENT).is_some_and(|agent| agent == LEGACY_AGENT)
}

fn trimmed(context: &RequestContext, mut entries: Vec<EntryInfo>) -> (Vec<EntryInfo>, bool) {
    let is_legacy = is_legacy(context);
    if is_legacy {
        entries.iter_mut().for_each(trim);
    }
    (entries, is_legacy)
}

/// Leaves the three fields the first clients know; those fail on any other.
pub(crate) fn trim(entry: &mut EntryInfo) {
    let full = std::mem::take(entry);
    *entry =
        EntryInfo { name: full.name, r#type: full.r#type, path: full.path, ..EntryInfo::default() };
}

fn marked<T>(is_legacy: bool, body: T) -> ServiceResult<T> {
    let response = Response::new(body);
    Ok(if is_legacy { response.with_header(LEGACY_HEADER, "true") } else { response })
}
