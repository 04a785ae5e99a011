//! Why a connection does not go on.

use std::net::Ipv4Addr;

use model::HostName;

use crate::dial::DialError;

/// A connection, or a request, that is not let through. Its text is for the user of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the network rules of this sandbox do not allow {0}")]
    Name(HostName),
    #[error(
        "the network rules of this sandbox do not allow this address, and the connection names no \
         host: it has neither a Host header (HTTP/1) nor a server name (TLS)"
    )]
    Nameless,
    #[error("no sandbox reaches {0}")]
    Closed(Ipv4Addr),
    #[error("too many connections are open: close some first")]
    TooMany,
    #[error("{0}")]
    Request(&'static str),
    #[error("{0}")]
    Dial(String),
}

impl Refusal {
    /// The word it is counted under.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Name(_) => "name",
            Self::Nameless => "nameless",
            Self::Closed(_) => "closed",
            Self::TooMany => "too-many",
            Self::Request(_) => "request",
            Self::Dial(_) => "dial",
        }
    }

    /// The status with which a request is answered.
    pub(crate) const fn status(&self) -> http::StatusCode {
        match self {
            Self::Name(_) | Self::Nameless | Self::Closed(_) => http::StatusCode::FORBIDDEN,
            Self::TooMany => http::StatusCode::SERVICE_UNAVAILABLE,
            Self::Request(_) => http::StatusCode::BAD_REQUEST,
            Self::Dial(_) => http::StatusCode::BAD_GATEWAY,
        }
    }
}

impl From<DialError> for Refusal {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Closed(address) => Self::Closed(address),
            error => Self::Dial(observe::chain(&error).to_string()),
        }
    }
}
