//! What the proxy in front of the sandboxes answers instead of the sandbox: the bodies E2B's
//! clients look into, and the same as a page for people with a browser.

use std::fmt::Write as _;
use std::num::NonZero;
use std::time::Duration;

use http::header::{ACCEPT, HeaderName, USER_AGENT};
use http::{HeaderMap, HeaderValue, StatusCode};
use model::SandboxId;
use serde::Serialize;

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// Words in the user agent that make it a browser, in lower case.
const BROWSERS: [&str; 7] = ["mozilla", "chrome", "safari", "firefox", "edge", "opera", "msie"];

/// Why a request did not reach its sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyError<'a> {
    /// No such sandbox is running. 502: the SDKs take exactly this status for "not running".
    SandboxNotFound { sandbox: &'a SandboxId },
    /// The sandbox runs, and nobody listens on the port.
    PortClosed { sandbox: &'a SandboxId, port: NonZero<u16> },
    /// The connection was made, and ended before there was an answer.
    NoAnswer { sandbox: &'a SandboxId, port: NonZero<u16> },
    /// The port is one of those that speak TLS, and what listens there does not.
    NoTls { sandbox: &'a SandboxId, port: NonZero<u16> },
    /// The sandbox has as many connections as it may have.
    TooManyConnections { sandbox: &'a SandboxId, limit: usize },
    /// The proxy has no room for one more connection to any sandbox.
    ProxyBusy { sandbox: &'a SandboxId },
    /// The sandbox is private, and the request shows no token, or another one.
    TrafficToken { sandbox: &'a SandboxId, shown: bool },
    /// It is paused, and not for this request to be woken.
    ResumeDenied { sandbox: &'a SandboxId },
    /// It is being paused, or started again, and that takes long.
    StillTransitioning { sandbox: &'a SandboxId },
    /// It is paused, and its team has as many sandboxes as it may.
    SandboxLimit { sandbox: &'a SandboxId },
    /// The address of a file names no sandbox, and no running one has signed it.
    NobodySigned,
    /// The path is for the node alone. Says nothing about the sandbox, not even that it exists.
    EndpointNotAvailable { path: &'a str },
}

/// How an error is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorForm {
    Json,
    Html,
}

impl ErrorForm {
    /// The form the sender of `headers` can use. First rule that decides: `Accept`,
    /// `Sec-Fetch-Mode`, `X-Requested-With`, `User-Agent`; JSON otherwise.
    #[must_use]
    pub fn wanted(headers: &HeaderMap) -> Self {
        let accepts = |kind| headers.get_all(ACCEPT).iter().any(|value| contains(value, kind));
        if accepts("application/json") && !accepts("text/html") {
            return Self::Json;
        }
        match headers.get(SEC_FETCH_MODE).map(HeaderValue::as_bytes) {
            Some(b"cors" | b"no-cors" | b"same-origin" | b"websocket") => return Self::Json,
            // A navigation is a person's, whatever library started it.
            Some(b"navigate") => {}
            _ if headers.contains_key(X_REQUESTED_WITH) => return Self::Json,
            _ => {}
        }
        match headers.get(USER_AGENT) {
            Some(agent) if BROWSERS.iter().any(|word| contains(agent, word)) => Self::Html,
            _ => Self::Json,
        }
    }

    #[must_use]
    pub const fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
        })
    }
}

/// Whether `word`, which is lower case, is in `value` in any case.
fn contains(value: &HeaderValue, word: &str) -> bool {
    value.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

impl ProxyError<'_> {
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::SandboxNotFound { .. }
            | Self::PortClosed { .. }
            | Self::NoAnswer { .. }
            | Self::NoTls { .. } => StatusCode::BAD_GATEWAY,
            Self::TooManyConnections { .. } | Self::SandboxLimit { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::StillTransitioning { .. } => StatusCode::CONFLICT,
            Self::ProxyBusy { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::TrafficToken { .. } | Self::ResumeDenied { .. } => StatusCode::FORBIDDEN,
            Self::NobodySigned => StatusCode::UNAUTHORIZED,
            Self::EndpointNotAvailable { .. } => StatusCode::NOT_FOUND,
        }
    }

    /// When the same request may sensibly be sent again; `None` when that depends on the sandbox.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyConnections { .. }
            | Self::ProxyBusy { .. }
            | Self::StillTransitioning { .. }
            | Self::SandboxLimit { .. } => Some(Duration::from_secs(1)),
            Self::SandboxNotFound { .. }
            | Self::PortClosed { .. }
            | Self::NoAnswer { .. }
            | Self::NoTls { .. }
            | Self::TrafficToken { .. }
            | Self::ResumeDenied { .. }
            | Self::NobodySigned
            | Self::EndpointNotAvailable { .. } => None,
        }
    }

    /// The body of the answer.
    #[must_use]
    pub fn body(&self, form: ErrorForm) -> String {
        match form {
            ErrorForm::Json => self.json(),
            ErrorForm::Html => self.html(),
        }
    }

    fn json(&self) -> String {
        let mut body = Body {
            sandbox_id: None,
            message: self.message(),
            path: None,
            port: None,
            code: self.status().as_u16(),
            connection_limit: None,
        };
        match *self {
            Self::SandboxNotFound { sandbox }
            | Self::ProxyBusy { sandbox }
            | Self::ResumeDenied { sandbox }
            | Self::StillTransitioning { sandbox }
            | Self::SandboxLimit { sandbox }
            | Self::TrafficToken { sandbox, .. } => {
                body.sandbox_id = Some(sandbox.as_str());
            }
            Self::PortClosed { sandbox, port }
            | Self::NoAnswer { sandbox, port }
            | Self::NoTls { sandbox, port } => {
                body.sandbox_id = Some(sandbox.as_str());
                body.port = Some(port);
            }
            Self::TooManyConnections { sandbox, limit } => {
                body.sandbox_id = Some(sandbox.as_str());
                body.connection_limit = Some(limit);
            }
            Self::NobodySigned => {}
            Self::EndpointNotAvailable { path } => body.path = Some(path),
        }
        // Strings and numbers always become JSON; the fallback keeps the shape all the same.
        serde_json::to_string(&body)
            .unwrap_or_else(|_impossible| format!("{{\"code\":{}}}", body.code))
    }

    fn html(&self) -> String {
        let (title, status) = (self.title(), self.status());
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
             <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;\
             padding:0 1em;color-scheme:light dark}}code{{overflow-wrap:anywhere}}</style>\n\
             </head>\n<body>\n<h1>{title}</h1>\n<p>{}.</p>\n<dl>\n",
            Escaped(&self.message()),
        );
        let mut row = |name: &str, value: &dyn std::fmt::Display| {
            let value = value.to_string();
            let value = Escaped(&value);
            page.push_str(&format!("<dt>{name}</dt><dd><code>{value}</code></dd>\n"));
        };
        match self {
            Self::SandboxNotFound { sandbox }
            | Self::TooManyConnections { sandbox, .. }
            | Self::TrafficToken { sandbox, .. }
            | Self::ResumeDenied { sandbox }
            | Self::StillTransitioning { sandbox }
            | Self::SandboxLimit { sandbox }
            | Self::ProxyBusy { sandbox } => row("Sandbox", sandbox),
            Self::PortClosed { sandbox, port }
            | Self::NoAnswer { sandbox, port }
            | Self::NoTls { sandbox, port } => {
                row("Sandbox", sandbox);
                row("Port", port);
            }
            Self::NobodySigned => {}
            Self::EndpointNotAvailable { path } => row("Path", path),
        }
        row("Status", &status.as_u16());
        page.push_str("</dl>\n</body>\n</html>\n");
        page
    }

    const fn title(&self) -> &'static str {
        match self {
            Self::SandboxNotFound { .. } => "Sandbox Not Found",
            Self::PortClosed { .. } => "Closed Port Error",
            Self::NoAnswer { .. } => "No Answer From Sandbox",
            Self::NoTls { .. } => "No TLS On Port",
            Self::TooManyConnections { .. } => "Too Many Connections",
            Self::ProxyBusy { .. } => "Proxy Busy",
            Self::TrafficToken { shown: false, .. } => "Missing Traffic Access Token",
            Self::TrafficToken { shown: true, .. } => "Invalid Traffic Access Token",
            Self::ResumeDenied { .. } => "Unable to Resume Sandbox",
            Self::StillTransitioning { .. } => "Sandbox Still Transitioning",
            Self::SandboxLimit { .. } => "Sandbox Limit Reached",
            Self::NobodySigned => "Invalid Signature",
            Self::EndpointNotAvailable { .. } => "Endpoint Not Available",
        }
    }

    /// What happened, in words.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::SandboxNotFound { .. } => "The sandbox was not found".to_owned(),
            Self::PortClosed { .. } => "The sandbox is running but port is not open".to_owned(),
            Self::NoAnswer { .. } => {
                "The sandbox ended the connection without an answer to the request".to_owned()
            }
            Self::NoTls { .. } => {
                "The sandbox was to speak TLS on this port, which is in its httpsPorts, and does not"
                    .to_owned()
            }
            Self::TooManyConnections { limit, .. } => {
                format!(
                    "This sandbox has {limit} connections, which is its limit; close some or try again"
                )
            }
            Self::ProxyBusy { .. } => {
                "The proxy has as many connections as it can have; try again".to_owned()
            }
            Self::TrafficToken { shown: false, .. } => {
                "The sandbox is private: show its traffic access token in the header \
                 e2b-traffic-access-token"
                    .to_owned()
            }
            Self::TrafficToken { shown: true, .. } => {
                "The header e2b-traffic-access-token does not have the sandbox's traffic access \
                 token"
                    .to_owned()
            }
            Self::ResumeDenied { .. } => {
                "The sandbox is paused and may not be resumed by this request".to_owned()
            }
            Self::StillTransitioning { .. } => {
                "The sandbox is still being paused or resumed; try again in a moment".to_owned()
            }
            Self::SandboxLimit { .. } => {
                "The sandbox is paused, and its team has as many running sandboxes as it may have"
                    .to_owned()
            }
            Self::NobodySigned => {
                "no running sandbox has signed this address: the signature is not valid, or the \
                 sandbox has ended"
                    .to_owned()
            }
            Self::EndpointNotAvailable { .. } => {
                "This path serves the node that runs the sandbox and cannot be reached from outside"
                    .to_owned()
            }
        }
    }
}

/// The union of E2B's error bodies, in their order of keys.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_id: Option<&'a str>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<NonZero<u16>>,
    code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_limit: Option<usize>,
}

/// Text that cannot end the element it stands in.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use model::SandboxId;

    use super::ErrorForm::{self, Html, Json};
    use super::ProxyError;

    const MOZILLA: (&str, &str) = ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)");

    fn wanted(pairs: &[(&'static str, &str)]) -> ErrorForm {
        let headers: HeaderMap = pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        ErrorForm::wanted(&headers)
    }

    #[test]
    fn browsers_get_a_page_and_programs_get_json() {
        assert_eq!(wanted(&[]), Json);
        assert_eq!(wanted(&[("user-agent", "connectrpc/0.11.1")]), Json);
        assert_eq!(wanted(&[("user-agent", "curl/8"), ("accept", "text/html")]), Json);
        assert_eq!(wanted(&[MOZILLA]), Html);
        assert_eq!(wanted(&[("user-agent", "oPeRa")]), Html);
        assert_eq!(wanted(&[MOZILLA, ("accept", "application/json")]), Json);
        assert_eq!(wanted(&[MOZILLA, ("accept", "text/html, application/json")]), Html);
        for mode in ["cors", "no-cors", "same-origin", "websocket"] {
            assert_eq!(wanted(&[MOZILLA, ("sec-fetch-mode", mode)]), Json, "{mode}");
        }
        assert_eq!(wanted(&[MOZILLA, ("x-requested-with", "XMLHttpRequest")]), Json);
        assert_eq!(
            wanted(&[MOZILLA, ("sec-fetch-mode", "navigate"), ("x-requested-with", "app")]),
            Html
        );
    }

    #[test]
    fn the_json_bodies_have_the_keys_that_clients_read() {
        let sandbox = &"iabc".parse::<SandboxId>().unwrap();
        let port = "8080".parse().unwrap();
        assert_eq!(
            ProxyError::SandboxNotFound { sandbox }.body(Json),
            r#"{"sandboxId":"iabc","message":"The sandbox was not found","code":502}"#
        );
        assert_eq!(
            ProxyError::PortClosed { sandbox, port }.body(Json),
            r#"{"sandboxId":"iabc","message":"The sandbox is running but port is not open","port":8080,"code":502}"#
        );
        assert_eq!(
            ProxyError::TooManyConnections { sandbox, limit: 3 }.body(Json),
            r#"{"sandboxId":"iabc","message":"This sandbox has 3 connections, which is its limit; close some or try again","code":429,"connectionLimit":3}"#
        );
        assert_eq!(
            ProxyError::TrafficToken { sandbox, shown: false }.body(Json),
            r#"{"sandboxId":"iabc","message":"The sandbox is private: show its traffic access token in the header e2b-traffic-access-token","code":403}"#
        );
        assert_eq!(
            ProxyError::ResumeDenied { sandbox }.body(Json),
            r#"{"sandboxId":"iabc","message":"The sandbox is paused and may not be resumed by this request","code":403}"#
        );
        assert_eq!(ProxyError::StillTransitioning { sandbox }.status(), 409);
        assert_eq!(ProxyError::SandboxLimit { sandbox }.status(), 429);
        assert_eq!(
            ProxyError::NobodySigned.body(Json),
            r#"{"message":"no running sandbox has signed this address: the signature is not valid, or the sandbox has ended","code":401}"#
        );
        assert_eq!(
            ProxyError::EndpointNotAvailable { path: "/init" }.body(Json),
            r#"{"message":"This path serves the node that runs the sandbox and cannot be reached from outside","path":"/init","code":404}"#
        );
    }

    #[test]
    fn a_path_cannot_write_into_the_page() {
        let page = ProxyError::EndpointNotAvailable { path: "/<script>'&\"" }.body(Html);
        assert!(page.contains("/&lt;script&gt;&#39;&amp;&quot;") && !page.contains("<script>"));
        assert!(page.contains("<title>Endpoint Not Available</title>"));
    }
}
