//! The node's calls over the network: a node with real semantics behind a real listener, asked by
//! our own client and by another gRPC library.

#[cfg(test)]
mod dynamic;
#[cfg(test)]
mod fake_node;
#[cfg(test)]
mod harness;

#[cfg(test)]
mod auth;
#[cfg(test)]
mod e2b_builds;
#[cfg(test)]
mod e2b_info;
#[cfg(test)]
mod e2b_pause;
#[cfg(test)]
mod e2b_sandboxes;
#[cfg(test)]
mod e2b_wire;
#[cfg(test)]
mod other_client;
#[cfg(test)]
mod other_server;
#[cfg(test)]
mod own_client;
#[cfg(test)]
mod pause;
#[cfg(test)]
mod reconnect;
#[cfg(test)]
mod stop;
