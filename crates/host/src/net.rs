//! The network of sandboxes: one slot each, and one constant firewall table of the node.

mod channel;
mod connections;
mod conntrack;
mod firewall;
mod netlink;
mod redirect;
mod resolvers;
mod slot;
mod way;

pub use firewall::{Firewall, FirewallError};
pub use redirect::{Handover, Inlets, Ports, Redirect};
pub use resolvers::resolvers;
pub use slot::{Slot, SlotNet, remove_link};
pub use way::Subnet;

use std::collections::BTreeSet;
use std::fs;

use crate::error::Tried;
use crate::{HostError, Mark};

/// A directory for each link of the calling thread's network namespace, there until the kernel is done
/// with the link. `/sys/class/net` has those of the namespace in which it was mounted, and to ask for a
/// link by its name has the kernel look for a module of that name when there is none.
const LINKS: &str = "/proc/sys/net/ipv4/conf";

/// The slots whose links exist on the host, whoever holds them.
///
/// # Errors
/// When the links cannot be listed.
pub fn linked_slots(mark: Mark) -> Result<Vec<u16>, HostError> {
    let mut slots = Vec::new();
    for entry in fs::read_dir(LINKS).tried("list", "network links")? {
        let name = entry.tried("list", "network links")?.file_name();
        slots.extend(mark.slot_of_link(&name.to_string_lossy()));
    }
    Ok(slots)
}

/// Whether the link of `slot` exists.
#[must_use]
pub fn is_linked(mark: Mark, slot: u16) -> bool {
    fs::exists(format!("{LINKS}/{}", mark.link(slot))).unwrap_or(true)
}

/// Has the host forget every connection from and to the addresses of `slots`, and says how many it
/// remembered. Their links must be gone: a packet on its way would bring back what was forgotten. From
/// then on the [`Firewall`] keeps the host from remembering any until a link is there again.
///
/// Looks through all that the host remembers, once: blocks for some 10 ms per ten thousand. May be
/// repeated.
///
/// # Errors
/// What the kernel says.
pub fn forget_connections(mark: Mark, slots: &BTreeSet<u16>) -> Result<usize, HostError> {
    let is_meant =
        |address| mark.slot_of_address(address).is_some_and(|slot| slots.contains(&slot));
    conntrack::forget(is_meant).tried("forget connections of", mark.network().to_string())
}
