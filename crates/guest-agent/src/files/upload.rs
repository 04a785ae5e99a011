//! `POST /files`: one file as the whole body, or several as parts of a form.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use futures::{StreamExt as _, TryStreamExt as _};
use guest_wire::rest::WrittenFile;
use guest_wire::signature::Operation;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};

use super::authorise::authorise;
use super::encoding::{Encoding, of_upload};
use super::store::{Content, Target, store, unpacked};
use super::{FilesQuery, acting_user, target};
use crate::accounts::User;
use crate::agent::Agent;
use crate::filesystem::Metadata;
use crate::rest::RestError;

/// The one field of a form whose parts are files.
const FILE_FIELD: &str = "file";
/// How many files one form may bring.
const FILES_MAX: usize = 10_000;

pub(crate) async fn upload(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<FilesQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Vec<WrittenFile>>, RestError> {
    let now = jiff::Timestamp::now().as_second();
    authorise(&agent.settings, &headers, &query, Operation::Write, now)?;
    let user = acting_user(&agent, query.username.as_deref())?;
    let metadata = Metadata::from_headers(&headers).map_err(|error| bad(error.to_string()))?;
    let encoding = of_upload(headers.get(CONTENT_ENCODING)).ok_or_else(|| {
        bad("unsupported Content-Encoding: send the body as it is, or as gzip".to_owned())
    })?;
    let content: Content = Box::pin(body.into_data_stream().map_err(io::Error::other));
    let (content, length) = match encoding {
        Encoding::Identity => (content, content_length(&headers)),
        // How much it becomes is not known before it has been unpacked.
        Encoding::Gzip => (unpacked(content), None),
    };
    let request = Request { agent: &agent, user, metadata, path: query.path.clone(), length };
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/octet-stream" {
        request.raw(content).await
    } else if essence.starts_with("multipart/") {
        request.form(content_type, content).await
    } else {
        Err(bad(format!(
            "unsupported content type: {content_type}, expected multipart/form-data or \
             application/octet-stream"
        )))
    }
    .map(Json)
}

/// An upload that may go ahead.
struct Request<'a> {
    agent: &'a Agent,
    user: User,
    metadata: Metadata,
    /// From the query; an empty one counts as none.
    path: Option<String>,
    length: Option<u64>,
}

impl Request<'_> {
    fn target(&self, path: &str) -> Result<Target, RestError> {
        let path = target(self.agent, &self.user, path)?;
        Ok(Target { path, user: self.user.clone(), metadata: self.metadata.clone() })
    }

    fn query_path(&self) -> Option<&str> {
        self.path.as_deref().filter(|path| !path.is_empty())
    }

    async fn raw(self, content: Content) -> Result<Vec<WrittenFile>, RestError> {
        let path = self.query_path().ok_or_else(|| {
            bad("path query parameter is required for raw body upload".to_owned())
        })?;
        let target = self.target(path)?;
        Ok(vec![store(&target, content, self.length).await?])
    }

    /// Files are written one after another as they come; one that fails leaves those before it.
    async fn form(
        self,
        content_type: &str,
        content: Content,
    ) -> Result<Vec<WrittenFile>, RestError> {
        let mut form = multer::Multipart::new(content, boundary(content_type)?);
        let mut paths: Vec<PathBuf> = Vec::new();
        let mut files = Vec::new();
        while let Some((path, part)) = next_file(&mut form, self.query_path()).await? {
            let target = self.target(&path)?;
            if paths.contains(&target.path) {
                return Err(bad(format!(
                    "you cannot upload multiple files to the same path '{}' in one upload \
                     request, only the first specified file was uploaded",
                    target.path.display()
                )));
            }
            if files.len() >= FILES_MAX {
                return Err(bad(format!(
                    "more than {FILES_MAX} files in one upload request: send the rest in another"
                )));
            }
            let content = part.map(|piece| piece.map_err(io::Error::other));
            files.push(store(&target, Box::pin(content), self.length).await?);
            paths.push(target.path);
        }
        Ok(files)
    }
}

/// The next part that is a file, and what its path is called: in the query, or else in the part.
pub(super) async fn next_file<'form>(
    form: &mut multer::Multipart<'form>,
    in_query: Option<&str>,
) -> Result<Option<(String, multer::Field<'form>)>, RestError> {
    while let Some(part) = form.next_field().await.map_err(broken_form)? {
        if part.name() != Some(FILE_FIELD) {
            continue;
        }
        let named = in_query.or_else(|| part.file_name().filter(|name| !name.is_empty()));
        let path = named.ok_or_else(|| {
            bad("no path: give the path query parameter or a filename in the part".to_owned())
        })?;
        return Ok(Some((path.to_owned(), part)));
    }
    Ok(None)
}

pub(super) fn boundary(content_type: &str) -> Result<String, RestError> {
    // Of the kinds of multipart only these two have parts that are read like this.
    let as_form = content_type.replacen("multipart/mixed", "multipart/form-data", 1);
    multer::parse_boundary(as_form).map_err(broken_form)
}

/// Broken forms have always been answered with 500, except where the body itself is at fault.
fn broken_form(error: multer::Error) -> RestError {
    let status = match &error {
        multer::Error::StreamReadFailed(_) => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    RestError::new(
        status,
        format!("error parsing multipart form: {error}{}", cause.unwrap_or_default()),
    )
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn bad(message: String) -> RestError {
    RestError::new(StatusCode::BAD_REQUEST, message)
}
