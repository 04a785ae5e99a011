//! What is done and when: all of it follows from the seed, none of it from what happened before.

/// `SplitMix64`: small, and the same on every machine and in every release.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// A sequence of its own for each of `stream`.
    pub(crate) fn new(seed: u64, stream: &[u64]) -> Self {
        let mut dice = Self(seed);
        for part in stream {
            dice.0 = dice.roll() ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93);
        }
        dice
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 up to `end`, which is not reached.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }

    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }
}

/// How a create is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Once,
    /// Again with the same key after the answer.
    Again,
    /// Twice at the same time with the same key.
    Twice,
}

/// One thing a worker does. Which sandbox it is done to is decided by [`Step::pick`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Create(Asked),
    /// A create whose client hangs up after so long.
    HangUp {
        after_us: u64,
    },
    /// A short command with its own exit code and output.
    Command {
        code: u8,
        word: u64,
    },
    /// The long-running program is attached to again, and answers.
    Attach,
    Write {
        file: u8,
        content: Content,
    },
    Read {
        file: u8,
    },
    ListFiles,
    /// So little time left that it ends by itself.
    Expire {
        seconds: u64,
    },
    Extend {
        seconds: u64,
    },
    /// So many DELETEs at the same time.
    Kill {
        racers: u8,
    },
    /// The API's view of it, alone and in the list.
    Look,
    Metrics,
    Pause {
        memory: bool,
    },
    /// A paused one goes on.
    Resume,
    /// A template is made of it, and a sandbox of that.
    Snapshot,
}

/// Bytes that follow from a number, so that nobody has to keep them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    pub seed: u64,
    pub len: u32,
}

impl Content {
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut dice = Dice::new(self.seed, &[]);
        let mut bytes = Vec::with_capacity(self.len as usize + 8);
        while bytes.len() < self.len as usize {
            bytes.extend(dice.roll().to_le_bytes());
        }
        bytes.truncate(self.len as usize);
        bytes
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub op: Op,
    /// Which of the worker's sandboxes, modulo how many it has.
    pub pick: u64,
}

/// Longer than a step takes by itself, much shorter than anybody here waits.
const DELAY_MS: u64 = 1500;
/// Files of one sandbox.
const FILES: u64 = 4;
/// Makes an operation of one kind.
type Make = fn(&mut Dice) -> Op;

/// How often each comes up, out of the sum of all.
const WEIGHTS: [(u64, Make); 12] = [
    (20, |dice| {
        Op::Create(match dice.below(10) {
            0 => Asked::Again,
            1 => Asked::Twice,
            _ => Asked::Once,
        })
    }),
    (3, |dice| Op::HangUp { after_us: dice.between(50, 15_000) }),
    (16, |dice| Op::Command { code: byte(dice, 4), word: dice.roll() }),
    (8, |_| Op::Attach),
    (12, |dice| Op::Write {
        file: byte(dice, FILES),
        content: Content { seed: dice.roll(), len: length(dice) },
    }),
    (10, |dice| Op::Read { file: byte(dice, FILES) }),
    (4, |_| Op::ListFiles),
    (3, |dice| Op::Expire { seconds: dice.between(1, 5) }),
    (3, |dice| Op::Extend { seconds: dice.between(43_200, 86_400) }),
    (14, |dice| Op::Kill { racers: if dice.below(4) == 0 { byte(dice, 3) + 2 } else { 1 } }),
    (5, |_| Op::Look),
    (2, |_| Op::Metrics),
];

/// Of a hundred steps so many are one of [`PAUSES`], when there are pauses at all. The schedules without
/// them stay what they were.
const PAUSES_PCT: u64 = 30;
const PAUSES: [(u64, Make); 3] = [
    (5, |dice| Op::Pause { memory: dice.below(4) > 0 }),
    (5, |_| Op::Resume),
    (2, |_| Op::Snapshot),
];

fn byte(dice: &mut Dice, end: u64) -> u8 {
    u8::try_from(dice.below(end)).unwrap_or(u8::MAX)
}

/// Empty now and then, mostly small, up to 64 KiB.
fn length(dice: &mut Dice) -> u32 {
    let end = 1 << dice.below(17);
    u32::try_from(dice.below(end)).unwrap_or(0)
}

/// What `worker` does as its `number`th step.
pub(crate) fn step(seed: u64, worker: u32, number: u64, pauses: bool) -> Step {
    let mut halts = Dice::new(seed, &[4, u64::from(worker), number]);
    if pauses && halts.below(100) < PAUSES_PCT {
        return one_of(&PAUSES, halts);
    }
    one_of(&WEIGHTS, Dice::new(seed, &[1, u64::from(worker), number]))
}

fn one_of(table: &[(u64, Make)], mut dice: Dice) -> Step {
    let mut left = dice.below(table.iter().map(|(weight, _)| weight).sum());
    let pick = dice.roll();
    for (weight, make) in table {
        if left < *weight {
            return Step { op: make(&mut dice), pick };
        }
        left -= weight;
    }
    Step { op: Op::Look, pick }
}

impl Step {
    /// What it comes to for a worker with `lasting` sandboxes that something can be done to and
    /// `paused` ones, out of `has` it has and `most` it may have.
    pub(crate) fn with(self, lasting: usize, paused: usize, has: usize, most: usize) -> Self {
        let op = match self.op {
            Op::Resume if paused > 0 => Op::Resume,
            Op::Create(_) | Op::HangUp { .. } if has >= most => Op::Kill { racers: 1 },
            Op::Create(_) | Op::HangUp { .. } => self.op,
            _ if lasting == 0 && has < most => Op::Create(Asked::Once),
            Op::Resume => Op::Pause { memory: true },
            op => op,
        };
        Self { op, ..self }
    }
}

/// A way in which a daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Kill,
    /// And once more while the next one starts.
    KillTwice {
        gap_ms: u64,
    },
    /// The next one takes everything over from one that runs.
    HandOver,
    /// A signal, upon which it goes and its sandboxes stay.
    Leave,
}

/// How often a daemon ends in which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    pub kills: u64,
    pub handovers: u64,
    pub leaves: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Break {
    /// Thousandths of the run.
    pub at: u64,
    /// And then so long, so that it hits any instant of what is under way.
    pub wait_us: u64,
    pub end: End,
}

/// When the daemon is ended, spread over the run.
pub(crate) fn breaks(seed: u64, ends: Ends) -> Vec<Break> {
    let mut dice = Dice::new(seed, &[2]);
    let sum = |ends: Ends| ends.kills + ends.handovers + ends.leaves;
    let (count, mut left) = (sum(ends), ends);
    let mut found = Vec::new();
    while sum(left) > 0 {
        let wait_us = dice.below(50_000);
        let number = count - sum(left);
        // Not in the very first and last moments: there must be something to lose.
        let at = 50 + (number * 1000 + dice.below(1000)) * 900 / (count * 1000);
        let which = dice.below(sum(left));
        let end = if which < left.leaves {
            left.leaves -= 1;
            End::Leave
        } else if which < left.leaves + left.handovers {
            left.handovers -= 1;
            End::HandOver
        } else if left.kills > 1 && dice.below(5) == 0 {
            // The second kill counts, too.
            left.kills -= 2;
            End::KillTwice { gap_ms: dice.below(400) }
        } else {
            left.kills -= 1;
            End::Kill
        };
        found.push(Break { at, wait_us, end });
    }
    found
}

/// The faults of the `number`th start: up to three of `words`.
pub(crate) fn faults(seed: u64, number: u64, words: &[String]) -> Option<String> {
    let mut dice = Dice::new(seed, &[3, number]);
    let mut left: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut chosen = Vec::new();
    for _ in 0..dice.between(1, 3) {
        if left.is_empty() {
            break;
        }
        let at = usize::try_from(dice.below(left.len() as u64)).unwrap_or(0);
        chosen.push(left.swap_remove(at));
    }
    (!chosen.is_empty()).then(|| chosen.join(","))
}

/// A fault as the daemon is told it: one that keeps a step up does so for [`DELAY_MS`]. All the time
/// a step has is up to a minute, in which a run of minutes gets nowhere.
pub(crate) fn bounded(word: &str) -> String {
    match word.split_once("=delay") {
        Some((point, rest)) if !rest.starts_with(':') => format!("{point}=delay:{DELAY_MS}{rest}"),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(with_pauses.len(), kinds.len() + super::PAUSES.len(), "{with_pauses:?}");
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
}
