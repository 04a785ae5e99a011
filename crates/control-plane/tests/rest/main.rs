//! The API over real HTTP, against a node that behaves and fails as told.

#[cfg(test)]
mod adoption;
#[cfg(test)]
mod auth;
#[cfg(test)]
mod away;
#[cfg(test)]
mod client;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod create;
#[cfg(test)]
mod endings;
#[cfg(test)]
mod ends;
#[cfg(test)]
mod events;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod fake_node;
#[cfg(test)]
mod fake_routes;
#[cfg(test)]
mod fork;
#[cfg(test)]
mod http_rules;
#[cfg(test)]
mod idempotency;
#[cfg(test)]
mod intents;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod kept;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod network;
#[cfg(test)]
mod node_sandboxes;
#[cfg(test)]
mod node_status;
#[cfg(test)]
mod nodes;
#[cfg(test)]
mod openapi;
#[cfg(test)]
mod over_grpc;
#[cfg(test)]
mod pause;
#[cfg(test)]
mod pause_cuts;
#[cfg(test)]
mod placing;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod service;
#[cfg(test)]
mod silent;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod team_limits;
#[cfg(test)]
mod teams;
#[cfg(test)]
mod templates;
#[cfg(test)]
mod tenants;
#[cfg(test)]
mod wake;
#[cfg(test)]
mod watch;
