use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use rustix::net::{AddressFamily, SocketType, ipproto, socket};
use rustix::process::Gid;
use rustix::thread::set_thread_res_gid;

use super::{Slot, inside};
use crate::cgroup::Layout;
use crate::identity::Claim;
use crate::net::is_linked;
use crate::thread::testing::wait_until;

#[test]
fn programs_of_a_slot_may_ping_whatever_their_group_and_no_others_may() {
    let dir = tempfile::tempdir().unwrap();
    let claim = Claim::take(dir.path(), Ipv4Addr::new(10, 213, 0, 0)).unwrap();
    let root = Layout::detect().unwrap().unified_path().unwrap().to_path_buf();
    let cgroup = fs::File::open(root).unwrap();
    let slot = Slot::create(claim.mark(), 3, 49983, cgroup.as_fd()).unwrap();
    let base = slot.net().uid_base;
    let ping_as = |group: u32| {
        inside(slot.netns(), || {
            let gid = Gid::from_raw(group);
            set_thread_res_gid(gid, gid, gid)?;
            Ok(socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP))?)
        })
    };
    for inside in [0, 1000, 65_535] {
        ping_as(base + inside).unwrap();
    }
    let stranger = ping_as(base + 65_536).unwrap_err();
    assert_eq!(stranger.raw_os_error(), Some(libc::EACCES));
    drop(slot);
    wait_until("the link to go", || !is_linked(claim.mark(), 3));
    claim.give_back().unwrap();
}

/// The processes in a cgroup of a test's own.
#[cfg(feature = "fault-injection")]
fn processes(cgroup: &std::path::Path) -> String {
    fs::read_to_string(cgroup.join("cgroup.procs")).unwrap()
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_slot_whose_making_fails_after_any_step_leaves_nothing() {
    use crate::thread::testing::with_own_descriptors;
    use crate::{Fault, Faults};

    let dir = tempfile::tempdir().unwrap();
    let claim = Claim::take(dir.path(), Ipv4Addr::new(10, 213, 0, 0)).unwrap();
    let mark = claim.mark();
    let root = Layout::detect().unwrap().unified_path().unwrap().to_path_buf();
    let path = root.join(format!("cofferdam-test-slot-{}", std::process::id()));
    fs::create_dir(&path).unwrap();
    let cgroup = fs::File::open(&path).unwrap();
    with_own_descriptors(|| {
        let descriptors = || fs::read_dir("/proc/thread-self/fd").unwrap().count();
        let faults = Faults::default();
        let make = |index| Slot::create_with(mark, index, 49983, cgroup.as_fd(), &faults);
        let before = descriptors();
        for (index, point) in (7..).zip(Slot::POINTS) {
            for fault in [Fault::Error, Fault::Panic] {
                faults.arm(point, fault, 1);
                let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| make(index)));
                match (fault, made) {
                    (Fault::Error, Ok(Err(error))) => {
                        assert_eq!(error.source.to_string(), format!("fault injected at {point}"));
                    }
                    (Fault::Panic, Err(_panic)) => {}
                    (_, made) => panic!("{point} {fault:?}: {made:?}"),
                }
                assert!(faults.left().is_empty(), "{point} was not reached");
                assert_eq!(descriptors(), before, "{point} {fault:?}");
                assert_eq!(processes(&path), "", "{point} {fault:?}");
                // The kernel takes it away with the namespaces, which nobody holds.
                wait_until("the link to go", || !is_linked(mark, index));
            }
            // Nothing is in its way.
            drop(make(index).unwrap());
            assert_eq!(descriptors(), before, "{point}");
            wait_until("the link to go", || !is_linked(mark, index));
        }
    });
    fs::remove_dir(&path).unwrap();
    claim.give_back().unwrap();
}
