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
    /// The program has believed that it speaks to `0` alone.
    #[error(
        "this connection is for {0}, whose requests are given headers by the network rules of this \
         sandbox: send those to another host on a connection of their own"
    )]
    Misdirected(HostName),
    #[error("the server of {name} cannot be believed, so nothing was sent to it: {why}")]
    Certificate { name: HostName, why: String },
    /// It has no sense to tell it: it was not listening.
    #[error("the program has not taken part in the TLS handshake: {0}")]
    Handshake(String),
    #[error("requests of HTTPS cannot be given headers now: {0}")]
    Unready(&'static str),
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
            Self::Misdirected(_) => "misdirected",
            Self::Certificate { .. } => "certificate",
            Self::Handshake(_) => "handshake",
            Self::Unready(_) => "unready",
        }
    }

    /// The status with which a request is answered.
    pub(crate) const fn status(&self) -> http::StatusCode {
        match self {
            Self::Name(_) | Self::Nameless | Self::Closed(_) => http::StatusCode::FORBIDDEN,
            Self::TooMany | Self::Unready(_) => http::StatusCode::SERVICE_UNAVAILABLE,
            Self::Request(_) | Self::Handshake(_) => http::StatusCode::BAD_REQUEST,
            Self::Misdirected(_) => http::StatusCode::MISDIRECTED_REQUEST,
            Self::Dial(_) | Self::Certificate { .. } => http::StatusCode::BAD_GATEWAY,
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
