//! Whose objects are whose: every node on a host claims a block of names, addresses and user ids
//! for its data directory, and nothing outside the block is ever touched.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::HostError;
use crate::error::Tried;

/// How many nodes one host can have: each has 2^27 user ids of the 2^31 that are safe to use.
pub const BLOCKS: u8 = 15;
/// How many slots one node can have.
pub const SLOTS: u16 = 2048;
/// User ids per slot.
pub const UIDS_PER_SLOT: u32 = 65_536;

const UIDS_PER_BLOCK: u32 = 0x0800_0000;
/// Addresses per slot: one of the host, one of the sandbox.
const ADDRESSES_PER_SLOT: u32 = 2;
/// Length of the network prefix that one block covers: 2048 slots of two addresses.
pub const BLOCK_PREFIX: u8 = 20;

/// Where claims are recorded. Gone after a reboot, as is everything they name.
const CLAIMS: &str = "/run/cofferdam";

/// The names, addresses and user ids of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    block: u8,
    network: Ipv4Addr,
}

impl Mark {
    /// `network` is the first address of a /16 that all blocks share.
    #[must_use]
    pub fn new(block: u8, network: Ipv4Addr) -> Self {
        Self { block, network }
    }

    #[must_use]
    pub fn block(self) -> u8 {
        self.block
    }

    /// The node's directory in every cgroup hierarchy.
    #[must_use]
    pub fn cgroup_root(self) -> String {
        format!("cofferdam-{}", self.block)
    }

    /// What the name of every link of the node begins with.
    #[must_use]
    pub fn link_prefix(self) -> String {
        format!("cd{}-", self.block)
    }

    /// The host's end of a slot. At most 9 of the 15 bytes a link's name may have.
    #[must_use]
    pub fn link(self, slot: u16) -> String {
        format!("cd{}-{slot}", self.block)
    }

    /// The slot a link belongs to, when it is one of ours.
    #[must_use]
    pub fn slot_of_link(self, link: &str) -> Option<u16> {
        link.strip_prefix(&self.link_prefix())?.parse().ok().filter(|slot| *slot < SLOTS)
    }

    /// The node's one firewall table.
    #[must_use]
    pub fn table(self) -> String {
        format!("cofferdam_{}", self.block)
    }

    /// The user id outside that is root inside the sandbox in `slot`.
    #[must_use]
    pub fn uid_base(self, slot: u16) -> u32 {
        (u32::from(self.block) + 1) * UIDS_PER_BLOCK + u32::from(slot) * UIDS_PER_SLOT
    }

    /// The first address of the node's network, prefix length [`BLOCK_PREFIX`].
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        let offset = u32::from(self.block) << (32 - BLOCK_PREFIX);
        Ipv4Addr::from_bits(self.network.to_bits() + offset)
    }

    /// The host's address on the link of `slot`.
    #[must_use]
    pub fn host_address(self, slot: u16) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network().to_bits() + u32::from(slot) * ADDRESSES_PER_SLOT)
    }

    /// The sandbox's address in `slot`.
    #[must_use]
    pub fn guest_address(self, slot: u16) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.host_address(slot).to_bits() + 1)
    }
}

/// Why a node cannot have a mark.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(
        "{} is in use by another cofferdam on this host; stop it, or choose another --data-dir",
        dir.display()
    )]
    InUse { dir: PathBuf },
    #[error(
        "this host runs {BLOCKS} cofferdam nodes already, or their networks below {network}/16 are \
         taken; stop one, remove its record in {CLAIMS}, or set another network base"
    )]
    NoBlock { network: Ipv4Addr },
    #[error(transparent)]
    Host(#[from] HostError),
}

/// A mark, held for a data directory as long as this value lives. The lock files stay: a lock that
/// is unlinked can be held twice.
#[derive(Debug)]
pub struct Claim {
    mark: Mark,
    _data_dir: File,
    block: File,
}

impl Claim {
    /// Claims the block that `data_dir` had before, or a free one.
    ///
    /// # Errors
    /// [`ClaimError::InUse`] when another process holds the data directory.
    pub fn take(data_dir: &Path, network: Ipv4Addr) -> Result<Self, ClaimError> {
        let dir = fs::canonicalize(data_dir).tried("resolve", data_dir.to_string_lossy())?;
        let own = open_lock(&dir.join("node.lock"))?;
        if !try_lock(&own)? {
            return Err(ClaimError::InUse { dir });
        }
        fs::create_dir_all(CLAIMS).tried("make", CLAIMS)?;
        // One at a time chooses.
        let choosing = open_lock(&Path::new(CLAIMS).join("lock"))?;
        flock(&choosing, FlockOperation::LockExclusive).tried("lock", CLAIMS)?;
        let before = recorded(&dir);
        let candidates = before.into_iter().chain((0..BLOCKS).filter(|b| Some(*b) != before));
        for block in candidates {
            let mark = Mark::new(block, network);
            if let Some(mut file) = free_block(block, &dir, mark)? {
                record(&mut file, &dir).tried("record claim of", dir.to_string_lossy())?;
                return Ok(Self { mark, _data_dir: own, block: file });
            }
        }
        Err(ClaimError::NoBlock { network })
    }

    #[must_use]
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Gives the block back: nothing on the host bears its mark any more. Without this a stopped
    /// node keeps its block, for it may have objects to reclaim.
    ///
    /// # Errors
    /// When the record cannot be cleared; the block stays with the data directory then.
    pub fn give_back(&self) -> Result<(), HostError> {
        self.block.set_len(0).tried("clear claim of block", self.mark.block.to_string())
    }
}

/// The mark that `data_dir` has on this host, from a process that does not hold it.
#[must_use]
pub fn mark_of(data_dir: &Path, network: Ipv4Addr) -> Option<Mark> {
    let dir = fs::canonicalize(data_dir).ok()?;
    recorded(&dir).map(|block| Mark::new(block, network))
}

/// Whether a live process holds `data_dir`.
///
/// # Errors
/// When its lock cannot be asked.
pub fn is_held(data_dir: &Path) -> Result<bool, HostError> {
    match File::open(data_dir.join("node.lock")) {
        Ok(file) => Ok(!try_lock(&file)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).tried("open", "node.lock"),
    }
}

fn block_path(block: u8) -> PathBuf {
    Path::new(CLAIMS).join(format!("block-{block}"))
}

/// The block recorded for `dir`, if any.
fn recorded(dir: &Path) -> Option<u8> {
    let is_own =
        |block: &u8| fs::read(block_path(*block)).is_ok_and(|t| t == dir.as_os_str().as_bytes());
    (0..BLOCKS).find(is_own)
}

/// The lock file of `block`, locked, if `dir` may have it.
fn free_block(block: u8, dir: &Path, mark: Mark) -> Result<Option<File>, HostError> {
    let path = block_path(block);
    let mut file = open_lock(&path)?;
    if !try_lock(&file)? {
        return Ok(None);
    }
    let mut holder = Vec::new();
    file.read_to_end(&mut holder).tried("read", path.to_string_lossy())?;
    let holder = Path::new(std::ffi::OsStr::from_bytes(&holder));
    // A stopped node may still have objects under its marks; they are its own to reclaim as long
    // as its data directory exists.
    let belongs_to_other = holder != dir && !holder.as_os_str().is_empty() && holder.exists();
    if belongs_to_other || network_is_taken(mark) {
        return Ok(None);
    }
    Ok(Some(file))
}

/// Whether a route of somebody else leads into the block's network.
fn network_is_taken(mark: Mark) -> bool {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    routes.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (Some(link), Some(to), Some(mask)) = (fields.next(), fields.next(), fields.nth(5))
        else {
            return false;
        };
        let hex = |text| u32::from_str_radix(text, 16).map(u32::from_be).unwrap_or_default();
        let (to, mask) = (hex(to), hex(mask));
        let block_mask = u32::MAX << (32 - BLOCK_PREFIX);
        let shared = mask & block_mask;
        mask != 0
            && mark.slot_of_link(link).is_none()
            && (to & shared) == (mark.network().to_bits() & shared)
    })
}

fn record(file: &mut File, dir: &Path) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(dir.as_os_str().as_bytes())
}

fn open_lock(path: &Path) -> Result<File, HostError> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).tried("open lock", path.to_string_lossy())
}

fn try_lock(file: &File) -> Result<bool, HostError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error).tried("lock", "claim file"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{BLOCKS, Claim, ClaimError, Mark, SLOTS, UIDS_PER_SLOT, is_held, mark_of};

    const BASE: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 0);

    #[test]
    fn no_two_slots_of_a_host_share_a_user_id_or_an_address() {
        let marks: Vec<Mark> = (0..BLOCKS).map(|block| Mark::new(block, BASE)).collect();
        let mut last_uid = 0;
        let mut last_address = 0;
        for mark in marks {
            for slot in 0..SLOTS {
                assert!(mark.uid_base(slot) >= last_uid);
                last_uid = mark.uid_base(slot) + UIDS_PER_SLOT;
                assert!(mark.host_address(slot).to_bits() > last_address || last_address == 0);
                last_address = mark.guest_address(slot).to_bits();
                assert_eq!(mark.host_address(slot).to_bits() + 1, last_address);
            }
        }
        assert!(last_uid <= 0x8000_0000, "user ids stay below 2^31");
        assert!(Ipv4Addr::from_bits(last_address) <= Ipv4Addr::new(10, 213, 255, 255));
    }

    #[test]
    fn a_link_name_fits_and_names_its_slot() {
        let mark = Mark::new(6, BASE);
        assert!(mark.link(SLOTS - 1).len() <= 15);
        assert_eq!(mark.slot_of_link(&mark.link(77)), Some(77));
        assert_eq!(mark.slot_of_link("cd5-77"), None);
        assert_eq!(mark.slot_of_link("cd6-x"), None);
    }

    #[test]
    fn two_nodes_have_different_marks_and_one_directory_is_claimed_once() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Claim::take(one.path(), BASE).unwrap();
        let second = Claim::take(two.path(), BASE).unwrap();
        assert_ne!(first.mark(), second.mark());
        assert!(matches!(Claim::take(one.path(), BASE), Err(ClaimError::InUse { .. })));
        assert!(is_held(one.path()).unwrap());
        let mark = first.mark();
        drop(first);
        assert!(!is_held(one.path()).unwrap());
        assert_eq!(mark_of(one.path(), BASE), Some(mark), "a stopped node keeps its block");
        let again = Claim::take(one.path(), BASE).unwrap();
        assert_eq!(again.mark(), mark);
        again.give_back().unwrap();
        drop(again);
        assert_eq!(mark_of(one.path(), BASE), None, "a clean stop frees the block");
    }
}
