//! The API over real HTTP, against a node that behaves and fails as told.

#[cfg(test)]
mod auth;
#[cfg(test)]
mod client;
#[cfg(test)]
mod create;
#[cfg(test)]
mod ends;
#[cfg(test)]
mod events;
#[cfg(test)]
mod fake_node;
#[cfg(test)]
mod fake_routes;
#[cfg(test)]
mod http_rules;
#[cfg(test)]
mod idempotency;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod node_status;
#[cfg(test)]
mod nodes;
#[cfg(test)]
mod placing;
#[cfg(test)]
mod service;
#[cfg(test)]
mod watch;
