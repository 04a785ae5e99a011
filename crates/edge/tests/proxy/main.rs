//! The edge over real sockets: clients on one side, servers that stand for sandboxes on the other.

#[cfg(test)]
mod grpc;
#[cfg(test)]
mod https;
#[cfg(test)]
mod kit;
#[cfg(test)]
mod lanes;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod listener;
#[cfg(test)]
mod plain;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod reuse;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod terms;
#[cfg(test)]
mod upgrades;
#[cfg(test)]
mod wake;
