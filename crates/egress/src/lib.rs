//! The way out of sandboxes whose rules are about names: every connection that the sandbox's own
//! network hands over is looked into, and goes on to where its name leads, or nowhere.
//!
//! The address a program connects to is not believed: what counts is the name it asks for, in the
//! `Host` of HTTP/1 or the server name of TLS, and the addresses that the node's own name servers
//! have for that. Knows the protocols and no Linux: who makes the sockets is told by [`Sockets`].
//!
//! Questions to name servers are handed over as well, and only those for names that are allowed go on:
//! a name is carried to whoever has it, and could be a message to him.
//!
//! TLS goes through untouched, end to end, but for names whose requests the rules have headers for:
//! there the proxy stands in for the server, by a certificate of the node's own [`Authority`], and
//! believes the server only by the [`Roots`] it was given.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod beside;
mod carry;
mod decision;
mod dial;
mod http;
mod https;
mod intercept;
mod line;
mod names;
mod opening;
mod outside;
mod proxy;
mod question;
mod refusal;
mod requests;
mod resolve;
mod socks;
mod tls;

pub use dial::{DialError, Sockets};
pub use intercept::{Authority, AuthorityError, Interceptor, KeptAuthority, Roots};
pub use opening::{OPENING_MAX, Opening};
pub use proxy::{
    CONNECTIONS_MAX, Closing, Inlets, NODE_CONNECTIONS_MAX, NODE_QUESTIONS_MAX, Node, Proxy,
    QUESTIONS_MAX,
};
pub use question::{Code, Message, Question};
pub use refusal::Refusal;
pub use resolve::{LookupError, Resolver};
pub use socks::SocksError;

#[cfg(test)]
mod tests;
