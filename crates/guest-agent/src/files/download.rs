//! `GET /files`: the content of one file.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use guest_wire::signature::Operation;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LAST_MODIFIED, RANGE, VARY,
};
use http::{HeaderMap, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::authorise::authorise;
use super::conditional::{Outcome, http_date, weigh};
use super::content_type::{SNIFFED_BYTES, by_extension, sniff};
use super::encoding::{Encoding, choose};
use super::range::{Part, parse};
use super::{FilesQuery, acting_user, target};
use crate::agent::Agent;
use crate::rest::RestError;
use crate::tasks;

/// What is read and sent at once.
const CHUNK_BYTES: usize = 128 * 1024;

pub(crate) async fn download(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<FilesQuery>,
    headers: HeaderMap,
) -> Result<Response, RestError> {
    let now = jiff::Timestamp::now().as_second();
    authorise(&agent.settings, &headers, &query, Operation::Read, now)?;
    let user = acting_user(&agent, query.username.as_deref())?;
    let path = target(&agent, &user, query.path())?;
    let opened = tasks::blocking({
        let path = path.clone();
        move || Opened::new(path)
    });
    let opened = opened.await.ok_or_else(panicked)??;
    let mut response = match choose(&headers) {
        Some(Encoding::Gzip) => gzipped(opened),
        Some(Encoding::Identity) => plain(opened, &headers).await?,
        None => {
            return Err(RestError::new(
                StatusCode::NOT_ACCEPTABLE,
                "no acceptable encoding: this file can be sent as gzip (whole and without \
                 conditions) or identity",
            ));
        }
    };
    let headers = response.headers_mut();
    headers.insert(VARY, ACCEPT_ENCODING.into());
    if let Ok(disposition) = HeaderValue::from_str(&disposition(&path)) {
        headers.insert(CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}

/// A file that is open for reading.
struct Opened {
    file: File,
    found: Metadata,
    content_type: &'static str,
    /// By the name alone: compressed files are not looked into.
    type_by_name: Option<&'static str>,
}

impl Opened {
    fn new(path: PathBuf) -> Result<Self, RestError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => RestError::new(
                StatusCode::NOT_FOUND,
                format!("path '{}' does not exist", path.display()),
            ),
            _ => RestError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("error opening file '{}': {error}", path.display()),
            ),
        };
        // Without it, opening a pipe that nobody writes to would wait for ever.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let file = file.map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if found.is_dir() {
            return Err(RestError::new(
                StatusCode::BAD_REQUEST,
                format!("path '{}' is a directory", path.display()),
            ));
        }
        let type_by_name = by_extension(&path);
        let content_type = type_by_name.unwrap_or_else(|| {
            let mut start = [0; SNIFFED_BYTES];
            // What cannot be read here fails again, and for good, when it is sent.
            let count = file.read_at(&mut start, 0).unwrap_or(0);
            sniff(start.get(..count).unwrap_or_default())
        });
        Ok(Self { file, found, content_type, type_by_name })
    }
}

/// The file as it is, in whole or in part.
async fn plain(opened: Opened, request: &HeaderMap) -> Result<Response, RestError> {
    let Opened { file, found, content_type, .. } = opened;
    let may_be_part = match weigh(request, found.mtime()) {
        Outcome::Send { may_be_part } => may_be_part,
        Outcome::NotModified => return Ok(dated(StatusCode::NOT_MODIFIED.into_response(), &found)),
        Outcome::PreconditionFailed => {
            return Ok(dated(StatusCode::PRECONDITION_FAILED.into_response(), &found));
        }
    };
    let size = found.len();
    let range = request.get(RANGE).filter(|_| may_be_part).and_then(|range| range.to_str().ok());
    let (status, first, length) = match range.map_or(Part::Whole, |range| parse(range, size)) {
        Part::Whole => (StatusCode::OK, 0, size),
        Part::Bytes { first, length } => (StatusCode::PARTIAL_CONTENT, first, length),
        Part::OutOfRange => {
            let error = RestError::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                format!("the file has {size} bytes, and none of them is in the range asked for"),
            );
            let mut response = error.into_response();
            insert_text(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
            return Ok(response);
        }
    };
    let mut file = tokio::fs::File::from_std(file);
    if first > 0 {
        file.seek(SeekFrom::Start(first)).await.map_err(|error| {
            RestError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("error seeking: {error}"))
        })?;
    }
    let is_regular = found.is_file();
    let body = if is_regular {
        Body::from_stream(ReaderStream::with_capacity(file.take(length), CHUNK_BYTES))
    } else {
        // A device says 0 for its size and has content all the same.
        Body::from_stream(ReaderStream::with_capacity(file, CHUNK_BYTES))
    };
    let mut response = dated((status, body).into_response(), &found);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if is_regular {
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if status == StatusCode::PARTIAL_CONTENT {
        let last = first.saturating_add(length).saturating_sub(1);
        insert_text(&mut response, CONTENT_RANGE, &format!("bytes {first}-{last}/{size}"));
    }
    Ok(response)
}

/// The whole file, compressed on the way.
fn gzipped(opened: Opened) -> Response {
    let Opened { file, type_by_name, .. } = opened;
    let compressor = Compressor { file, encoder: GzEncoder::new(Vec::new(), Compression::fast()) };
    let stream = futures::stream::unfold(Some(compressor), |compressor| async move {
        let compressor = compressor?;
        let stepped = tasks::blocking(move || compressor.step()).await;
        match stepped.unwrap_or_else(|| Err(io::Error::other("compressing panicked"))) {
            Ok((chunk, rest)) => Some((Ok(chunk), rest)),
            Err(error) => Some((Err(error), None)),
        }
    });
    let content_type = HeaderValue::from_static(type_by_name.unwrap_or("application/octet-stream"));
    let headers =
        [(CONTENT_TYPE, content_type), (CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
    (headers, Body::from_stream(stream)).into_response()
}

struct Compressor {
    file: File,
    encoder: GzEncoder<Vec<u8>>,
}

impl Compressor {
    /// The next compressed bytes, and what goes on after them.
    fn step(mut self) -> io::Result<(Bytes, Option<Self>)> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let count = match self.file.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if count == 0 {
                return Ok((Bytes::from(self.encoder.finish()?), None));
            }
            self.encoder.write_all(buffer.get(..count).unwrap_or_default())?;
            let compressed = std::mem::take(self.encoder.get_mut());
            if !compressed.is_empty() {
                return Ok((Bytes::from(compressed), Some(self)));
            }
        }
    }
}

fn dated(mut response: Response, found: &Metadata) -> Response {
    if let Some(date) = http_date(found.mtime()) {
        insert_text(&mut response, LAST_MODIFIED, &date);
    }
    response
}

fn insert_text(response: &mut Response, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        response.headers_mut().insert(name, value);
    }
}

fn panicked() -> RestError {
    RestError::new(StatusCode::INTERNAL_SERVER_ERROR, "the file operation panicked")
}

/// By RFC 6266: a token as it is, other ASCII in quotes, everything else percent-encoded.
fn disposition(path: &Path) -> String {
    /// What RFC 8187 leaves unencoded.
    const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'!')
        .remove(b'#')
        .remove(b'$')
        .remove(b'&')
        .remove(b'+')
        .remove(b'-')
        .remove(b'.')
        .remove(b'^')
        .remove(b'_')
        .remove(b'`')
        .remove(b'|')
        .remove(b'~');
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let is_token_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !name.is_empty() && name.bytes().all(is_token_byte) {
        return format!("inline; filename={name}");
    }
    if name.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
        return format!("inline; filename=\"{quoted}\"");
    }
    format!("inline; filename*=utf-8''{}", utf8_percent_encode(&name, ENCODED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_is_quoted_or_encoded_only_where_it_must_be() {
        for (path, expected) in [
            ("/a/b.txt", "inline; filename=b.txt"),
            ("/a/my file.txt", "inline; filename=\"my file.txt\""),
            ("/a/q\"b", "inline; filename=\"q\\\"b\""),
            ("/a/größe.txt", "inline; filename*=utf-8''gr%C3%B6%C3%9Fe.txt"),
        ] {
            assert_eq!(disposition(Path::new(path)), expected);
        }
    }
}
