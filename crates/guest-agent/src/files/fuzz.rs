//! What reads bytes that a client chose, for the fuzz targets. None of it touches a file.
#![expect(clippy::missing_panics_doc, reason = "what a target finds is a panic")]

use std::io;
use std::path::Path;

use bytes::Bytes;
use futures::executor::block_on;
use futures::stream;
use guest_wire::rest::TOKEN_HEADER;
use guest_wire::signature::{Operation, Signed};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::FilesQuery;
use super::authorise::authorise;
use super::encoding::{choose, of_upload};
use super::range::{self, Part};
use super::upload::{boundary, next_file};
use crate::accounts::User;
use crate::cli::Environment;
use crate::filesystem::Metadata;
use crate::gatekeeper::{named_user, time_limit};
use crate::paths::resolve;
use crate::settings::{Change, Settings};

const TOKEN: &str = "a token that nobody guesses";

/// A form of this content type, whose body comes in pieces of `piece` bytes: every file in it has a
/// path that a file can have, and all of its content is inside of the body.
pub fn form(content_type: &str, body: &[u8], piece: usize) {
    let Ok(boundary) = boundary(content_type) else { return };
    let pieces =
        body.chunks(piece.max(1)).map(|piece| io::Result::Ok(Bytes::copy_from_slice(piece)));
    let mut form = multer::Multipart::new(stream::iter(pieces.collect::<Vec<_>>()), boundary);
    let user = User {
        name: "user".into(),
        uid: 1000,
        gid: 1000,
        groups: vec![1000],
        home: "/home/user".into(),
    };
    block_on(async {
        let mut content = 0;
        while let Ok(Some((path, mut part))) = next_file(&mut form, None).await {
            if let Ok(path) = resolve(&path, &user, None) {
                assert!(path.is_absolute(), "{path:?}");
                assert!(!path.as_os_str().as_encoded_bytes().contains(&0), "{path:?}");
                assert_ne!(path, Path::new(""));
            }
            while let Ok(Some(piece)) = part.chunk().await {
                content += piece.len();
            }
        }
        assert!(content <= body.len(), "{content} bytes of {}", body.len());
    });
}

/// The query of a file's address, as it stands behind the `?`: nobody who does not know the token
/// gets in, and who has signed it does until its time.
pub fn address(query: &str, now: i64) {
    let settings = Settings::new(Environment::default());
    settings.apply(Change { token: Some(TOKEN.into()), ..Change::default() });
    let Ok(uri) = http::Uri::try_from(format!("/files?{query}")) else { return };
    let Ok(axum::extract::Query(mut query)) =
        axum::extract::Query::<FilesQuery>::try_from_uri(&uri)
    else {
        return;
    };
    let none = HeaderMap::new();
    for (operation, other) in
        [(Operation::Read, Operation::Write), (Operation::Write, Operation::Read)]
    {
        assert!(authorise(&settings, &none, &query, operation, now).is_err());
        let (path, username) = (query.path().to_owned(), query.username().to_owned());
        let expiration = query.signature_expiration;
        let signed = Signed { path: &path, operation, username: &username, expiration };
        query.signature = Some(signed.signature(TOKEN));
        let is_in_time = expiration.is_none_or(|expiration| expiration >= now);
        assert_eq!(authorise(&settings, &none, &query, operation, now).is_ok(), is_in_time);
        assert!(authorise(&settings, &none, &query, other, now).is_err());
        query.signature = None;
    }
}

/// The headers of a request: whatever they say, what is read of them can be done.
pub fn headers(lines: &str, size: u64) {
    let mut headers = HeaderMap::new();
    for (name, value) in lines.lines().take(64).filter_map(|line| line.split_once(':')) {
        if let (Ok(name), Ok(value)) =
            (name.trim().parse::<HeaderName>(), HeaderValue::from_str(value.trim()))
        {
            headers.append(name, value);
        }
    }
    let text = headers.get(http::header::RANGE).and_then(|value| value.to_str().ok());
    if let Part::Bytes { first, length } = range::parse(text.unwrap_or_default(), size) {
        assert!(length > 0 && first.checked_add(length).is_some_and(|end| end <= size));
    }
    drop(Metadata::from_headers(&headers));
    choose(&headers);
    of_upload(headers.get(http::header::CONTENT_ENCODING));
    drop(named_user(&headers));
    drop(time_limit(&headers));
    let settings = Settings::new(Environment::default());
    settings.apply(Change { token: Some(TOKEN.into()), ..Change::default() });
    let shown = headers.get(TOKEN_HEADER).is_some_and(|shown| settings.is_token(shown.as_bytes()));
    assert!(!shown || headers[TOKEN_HEADER] == TOKEN);
}
