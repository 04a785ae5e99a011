//! Whose objects are whose: every node on a host claims a block of names, addresses and user ids
//! for its data directory, and nothing outside the block is ever touched.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::HostError;
use crate::error::Tried;

mod retire;

pub use retire::retire;

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

    /// The slot one of whose two addresses this is.
    #[must_use]
    pub fn slot_of_address(self, address: Ipv4Addr) -> Option<u16> {
        let offset = address.to_bits().checked_sub(self.network().to_bits())?;
        u16::try_from(offset / ADDRESSES_PER_SLOT).ok().filter(|slot| *slot < SLOTS)
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
    #[error(
        "{} has the addresses {network}/{BLOCK_PREFIX} on this host, and by now {route} leads into \
         them; remove that route, or set another network base",
        dir.display()
    )]
    NetworkTaken { dir: PathBuf, network: Ipv4Addr, route: Route },
    #[error(transparent)]
    Host(#[from] HostError),
}

/// A route of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub to: Ipv4Addr,
    pub prefix_len: u32,
    pub link: String,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the route to {}/{} on link {}", self.to, self.prefix_len, self.link)
    }
}

/// A mark, held for a data directory as long as this value lives. The lock files stay as long as
/// anybody has a claim: a lock that is unlinked can be held twice. [`retire`] removes the last.
#[derive(Debug)]
pub struct Claim {
    mark: Mark,
    _data_dir: File,
    block: File,
}

impl Claim {
    /// Claims the block that `data_dir` had before, and no other: what is left of its last run has
    /// that one's names. Else a free one. Blocks for half a second at most where somebody is just
    /// asking whether the directory is held.
    ///
    /// # Errors
    /// [`ClaimError::InUse`] when another process holds the data directory.
    pub fn take(data_dir: &Path, network: Ipv4Addr) -> Result<Self, ClaimError> {
        let dir = fs::canonicalize(data_dir).tried("resolve", data_dir.to_string_lossy())?;
        let own = open_lock(&dir.join("node.lock"))?;
        if !lock_soon(&own)? {
            return Err(ClaimError::InUse { dir });
        }
        let _choosing = choose(Path::new(CLAIMS))?;
        if let Some(block) = recorded(&dir) {
            let mark = Mark::new(block, network);
            let file = open_lock(&block_path(block))?;
            if !lock_soon(&file)? {
                return Err(ClaimError::InUse { dir });
            }
            if let Some(route) = route_into(mark) {
                return Err(ClaimError::NetworkTaken { dir, network: mark.network(), route });
            }
            return Ok(Self { mark, _data_dir: own, block: file });
        }
        for block in 0..BLOCKS {
            let mark = Mark::new(block, network);
            if let Some(mut file) = free_block(block, mark)? {
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
        // Shared: those who ask do not keep each other from an answer.
        Ok(file) => Ok(!try_lock(&file, FlockOperation::NonBlockingLockShared)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).tried("open", "node.lock"),
    }
}

/// Waits until it is this one's turn to choose a block, or to remove the directory of them all.
fn choose(claims: &Path) -> Result<File, HostError> {
    loop {
        match fs::create_dir_all(claims) {
            // It was there, and removed before that was looked at.
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists
                    && (claims.is_dir() || !claims.exists()) =>
            {
                continue;
            }
            made => made.tried("make", claims.to_string_lossy())?,
        }
        let path = claims.join("lock");
        let choosing = match open_lock(&path) {
            // Removed between the two, by one whose turn is over then.
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        flock(&choosing, FlockOperation::LockExclusive).tried("lock", path.to_string_lossy())?;
        // Waited for while its file was removed, it keeps nobody else away.
        if is_at(&choosing, &path) {
            return Ok(choosing);
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let same = |here: fs::Metadata, there: fs::Metadata| {
        (here.dev(), here.ino()) == (there.dev(), there.ino())
    };
    file.metadata().is_ok_and(|here| fs::metadata(path).is_ok_and(|there| same(here, there)))
}

fn block_path(block: u8) -> PathBuf {
    block_in(Path::new(CLAIMS), block)
}

fn block_in(claims: &Path, block: u8) -> PathBuf {
    claims.join(format!("block-{block}"))
}

/// The block recorded for `dir`, if any.
fn recorded(dir: &Path) -> Option<u8> {
    let is_own =
        |block: &u8| fs::read(block_path(*block)).is_ok_and(|t| t == dir.as_os_str().as_bytes());
    (0..BLOCKS).find(is_own)
}

/// The lock file of `block`, locked, if a directory without a block may have it.
fn free_block(block: u8, mark: Mark) -> Result<Option<File>, HostError> {
    let path = block_path(block);
    let mut file = open_lock(&path)?;
    if !try_lock(&file, FlockOperation::NonBlockingLockExclusive)? {
        return Ok(None);
    }
    let mut holder = Vec::new();
    file.read_to_end(&mut holder).tried("read", path.to_string_lossy())?;
    let holder = Path::new(std::ffi::OsStr::from_bytes(&holder));
    // A stopped node may still have objects under its marks; they are its own to reclaim as long
    // as its data directory exists.
    let belongs_to_other = !holder.as_os_str().is_empty() && holder.exists();
    if belongs_to_other || route_into(mark).is_some() {
        return Ok(None);
    }
    Ok(Some(file))
}

/// The routes of this thread's network, as the process's first thread may be in another.
const ROUTES: &str = "/proc/thread-self/net/route";

/// A route of somebody else that leads into the block's network.
fn route_into(mark: Mark) -> Option<Route> {
    let routes = fs::read_to_string(ROUTES).unwrap_or_default();
    routes.lines().skip(1).filter_map(parse_route).find(|route| {
        let mask = |len: u32| u32::MAX.checked_shl(32 - len).unwrap_or(0);
        let shared = mask(route.prefix_len.min(u32::from(BLOCK_PREFIX)));
        route.prefix_len != 0
            && mark.slot_of_link(&route.link).is_none()
            && (route.to.to_bits() & shared) == (mark.network().to_bits() & shared)
    })
}

/// A line of [`ROUTES`]: link, destination, then, fifth from there, the mask; addresses are
/// in hexadecimal as they are in memory.
fn parse_route(line: &str) -> Option<Route> {
    let mut fields = line.split_ascii_whitespace();
    let (link, to, mask) = (fields.next()?, fields.next()?, fields.nth(5)?);
    let address = |text| u32::from_str_radix(text, 16).ok().map(u32::from_be);
    let to = Ipv4Addr::from_bits(address(to)?);
    Some(Route { to, prefix_len: address(mask)?.leading_ones(), link: link.to_owned() })
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

fn try_lock(file: &File, how: FlockOperation) -> Result<bool, HostError> {
    match flock(file, how) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error).tried("lock", "claim file"),
    }
}

/// Locks `file` for one alone, unless somebody keeps it for longer than a question or the start of
/// a program takes: a child has copies of its parent's locks until it execs.
#[expect(clippy::disallowed_methods, reason = "there is no event for a lock that is let go")]
fn lock_soon(file: &File) -> Result<bool, HostError> {
    let end = Instant::now() + LOCK_LIMIT;
    loop {
        if try_lock(file, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        std::thread::sleep(LOCK_RETRY);
    }
}

const LOCK_LIMIT: Duration = Duration::from_millis(500);
const LOCK_RETRY: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::Ipv4Addr;
    use std::os::fd::AsFd;

    use crate::net::Slot;
    use crate::thread::testing::{in_new_network, wait_until};

    use super::{
        BLOCK_PREFIX, BLOCKS, Claim, ClaimError, Mark, SLOTS, UIDS_PER_SLOT, is_held, mark_of,
    };

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
                for address in [mark.host_address(slot), mark.guest_address(slot)] {
                    let owners =
                        (0..BLOCKS).map(|block| Mark::new(block, BASE).slot_of_address(address));
                    assert_eq!(owners.flatten().collect::<Vec<_>>(), [slot]);
                }
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
        // A child that another test starts at this moment has a copy of the lock until it execs.
        wait_until("the lock to be let go", || !is_held(one.path()).unwrap());
        assert_eq!(mark_of(one.path(), BASE), Some(mark), "a stopped node keeps its block");
        let again = Claim::take(one.path(), BASE).unwrap();
        assert_eq!(again.mark(), mark);
        again.give_back().unwrap();
        drop(again);
        assert_eq!(mark_of(one.path(), BASE), None, "a clean stop frees the block");
    }

    #[test]
    fn asking_who_holds_a_directory_keeps_nobody_from_taking_it() {
        let dir = tempfile::tempdir().unwrap();
        drop(Claim::take(dir.path(), BASE).unwrap());
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    is_held(dir.path()).unwrap();
                }
            });
            let taken = (0..200).try_for_each(|_| Claim::take(dir.path(), BASE).map(drop));
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            taken.unwrap();
        });
        Claim::take(dir.path(), BASE).unwrap().give_back().unwrap();
    }

    #[test]
    fn a_directory_whose_addresses_were_taken_meanwhile_gets_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let mark = Claim::take(dir.path(), BASE).unwrap().mark();
        // The link of a slot with another node's mark and our addresses.
        let block = (mark.block() + 1) % BLOCKS;
        let base = mark.network().to_bits() - (u32::from(block) << (32 - BLOCK_PREFIX));
        let stranger = Mark::new(block, Ipv4Addr::from_bits(base));
        in_new_network(|| {
            let root = crate::cgroup::Layout::detect().unwrap();
            let cgroup = File::open(root.unified_path().unwrap()).unwrap();
            let slot = Slot::create(stranger, 5, 49983, cgroup.as_fd()).unwrap();
            let error = Claim::take(dir.path(), BASE).unwrap_err();
            let ClaimError::NetworkTaken { route, .. } = &error else { panic!("{error}") };
            assert_eq!((route.to, route.prefix_len), (slot.net().host, 31));
            assert!(error.to_string().contains(&stranger.link(5)), "{error}");
        });
        let again = Claim::take(dir.path(), BASE).unwrap();
        assert_eq!(again.mark(), mark, "it comes back when they are free");
        again.give_back().unwrap();
    }
}
