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
    /// One more sandbox falls asleep at its end, and is woken.
    Doze {
        seconds: u64,
        waking: Waking,
        content: Content,
    },
}

/// How a sandbox is woken that has fallen asleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waking {
    /// Somebody asks for a file of it.
    Traffic,
    /// Two connect to it at once.
    Race,
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
/// And so many of a thousand fall asleep by themselves. Their dice are their own, for the same reason.
const DOZES_PERMILLE: u64 = 15;
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
    let mut dozes = Dice::new(seed, &[5, u64::from(worker), number]);
    if pauses && dozes.below(1000) < DOZES_PERMILLE {
        return doze(dozes);
    }
    let mut halts = Dice::new(seed, &[4, u64::from(worker), number]);
    if pauses && halts.below(100) < PAUSES_PCT {
        return one_of(&PAUSES, halts);
    }
    one_of(&WEIGHTS, Dice::new(seed, &[1, u64::from(worker), number]))
}

fn doze(mut dice: Dice) -> Step {
    let seconds = dice.between(1, 2);
    let waking = if dice.below(2) == 0 { Waking::Traffic } else { Waking::Race };
    let content = Content { seed: dice.roll(), len: length(&mut dice) };
    Step { op: Op::Doze { seconds, waking, content }, pick: 0 }
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
            // One of its own, gone at the end of the step.
            Op::Create(_) | Op::HangUp { .. } | Op::Doze { .. } => self.op,
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
mod tests;
