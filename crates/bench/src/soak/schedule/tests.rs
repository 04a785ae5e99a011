use std::collections::BTreeSet;

use super::{Asked, Content, End, Ends, Op, Step, breaks, faults, step};

fn steps(seed: u64, worker: u32) -> Vec<Step> {
    (0..2000).map(|number| step(seed, worker, number, false)).collect()
}

#[test]
fn the_same_seed_gives_the_same_schedule_and_another_one_does_not() {
    assert_eq!(steps(7, 1), steps(7, 1));
    assert_ne!(steps(7, 1), steps(8, 1));
    assert_ne!(steps(7, 1), steps(7, 2));
    let ends = Ends { kills: 50, handovers: 3, leaves: 2 };
    assert_eq!(breaks(7, ends), breaks(7, ends));
    assert_ne!(breaks(7, ends), breaks(8, ends));
}

/// A schedule that was published can be run again years later.
#[test]
fn the_schedule_of_a_seed_never_changes() {
    let first: Vec<u64> = (0..3).map(|number| step(1, 0, number, false).pick).collect();
    let published = [0x532e_16a0_cdde_f5c0, 0xf008_f950_f4a8_fbd4, 0x4adc_3f0f_1744_8d71];
    assert_eq!(first, published);
}

#[test]
fn every_kind_of_operation_comes_up() {
    let kinds: BTreeSet<_> =
        steps(3, 0).iter().map(|step| super::super::ops::kind(step.op)).collect();
    assert_eq!(kinds.len(), super::WEIGHTS.len(), "{kinds:?}");
    let with_pauses: BTreeSet<_> =
        (0..2000).map(|number| super::super::ops::kind(step(3, 0, number, true).op)).collect();
    assert_eq!(with_pauses.len(), kinds.len() + super::PAUSES.len() + 1, "{with_pauses:?}");
}

#[test]
fn who_has_no_sandbox_makes_one_and_who_has_enough_ends_one() {
    let at = |op| Step { op, pick: 0 };
    assert_eq!(at(Op::Attach).with(0, 0, 3, 4).op, Op::Create(Asked::Once));
    assert_eq!(at(Op::Attach).with(1, 0, 1, 4).op, Op::Attach);
    // All it may have are about to end: it waits for that.
    assert_eq!(at(Op::Attach).with(0, 0, 4, 4).op, Op::Attach);
    assert_eq!(at(Op::Create(Asked::Twice)).with(1, 0, 4, 4).op, Op::Kill { racers: 1 });
    assert_eq!(at(Op::Create(Asked::Twice)).with(3, 0, 3, 4).op, Op::Create(Asked::Twice));
}

#[test]
fn who_has_no_paused_sandbox_pauses_one_instead_of_resuming_it() {
    let resume = |lasting, paused| Step { op: Op::Resume, pick: 0 }.with(lasting, paused, 3, 4);
    assert_eq!(resume(0, 3).op, Op::Resume);
    assert_eq!(resume(3, 0).op, Op::Pause { memory: true });
    assert_eq!(resume(0, 0).op, Op::Create(Asked::Once));
}

#[test]
fn a_fault_that_delays_does_so_for_a_bounded_time() {
    assert_eq!(super::bounded("a.b=delay"), "a.b=delay:1500");
    assert_eq!(super::bounded("a.b=delay*3"), "a.b=delay:1500*3");
    for as_it_is in ["a.b=delay:50", "a.b=delay:50*2", "a.b=error*2", "delay=kill"] {
        assert_eq!(super::bounded(as_it_is), as_it_is);
    }
}

#[test]
fn as_many_ends_as_asked_for_in_order_and_within_the_run() {
    for (kills, handovers, leaves) in
        [(0, 0, 0), (1, 0, 0), (50, 0, 0), (0, 4, 0), (0, 0, 1), (50, 7, 9)]
    {
        let ends = Ends { kills, handovers, leaves };
        let breaks = breaks(11, ends);
        let mut sum = Ends { kills: 0, handovers: 0, leaves: 0 };
        for one in &breaks {
            match one.end {
                End::Kill => sum.kills += 1,
                End::KillTwice { .. } => sum.kills += 2,
                End::HandOver => sum.handovers += 1,
                End::Leave => sum.leaves += 1,
            }
        }
        assert_eq!(sum, ends);
        assert!(breaks.is_sorted_by_key(|one| one.at), "{breaks:?}");
        assert!(breaks.iter().all(|one| (50..950).contains(&one.at)), "{breaks:?}");
    }
}

#[test]
fn content_is_as_long_as_it_says_and_differs() {
    let content = |seed| Content { seed, len: 13 }.bytes();
    assert_eq!(content(1).len(), 13);
    assert_eq!(content(1), content(1));
    assert_ne!(content(1), content(2));
}

#[test]
fn each_start_has_faults_of_the_list() {
    let words = ["a=error", "b=kill", "c=panic"].map(str::to_owned);
    assert_eq!(faults(1, 1, &words), faults(1, 1, &words));
    let all: BTreeSet<String> = (0..50)
        .flat_map(|n| faults(1, n, &words))
        .flat_map(|text| text.split(',').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert_eq!(all.len(), 3);
    assert_eq!(faults(1, 1, &[]), None);
}
