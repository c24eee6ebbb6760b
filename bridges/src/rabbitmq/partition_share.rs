//! Policy: which parts of a keyed input a process gives to others.
//!
//! Every process consumes every part and waits in its line. The broker activates the consumer that
//! waits longest, so the first process of an app has all parts. From time to time a process compares
//! its parts with its fair share, gives those beyond it up, and joins their lines again, at the end.
//! A part passes on until it reaches a process with room: the shares together have room for all parts.

use std::time::Duration;

/// Interval at which a process compares its parts with its share.
pub(super) const PERIOD: Duration = Duration::from_secs(5);

/// A part that this process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) number: usize,
    /// How long this process has had it.
    pub(super) held_for: Duration,
}

/// Looks for which a part stays that could not be given up.
const STUCK_LOOKS: u8 = 6;

/// The parts that a process gives up.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// The number of processes at the last look.
    processes: u64,
    /// Parts that could not be given up, and the looks for which they stay.
    stuck: Vec<(usize, u8)>,
}

impl Share {
    /// Returns the parts to give up: the newest ones, so that a part passes on until it reaches a
    /// process with room. Parts move only when the number of processes is the same at two looks: a
    /// process that starts again must not move them twice. A part moves only after it was held for a
    /// period.
    pub(super) fn surplus(&mut self, held: &[Held], parts: usize, processes: u64) -> Vec<usize> {
        self.stuck.retain_mut(|(_, looks)| {
            *looks -= 1;
            *looks > 0
        });
        let is_steady = std::mem::replace(&mut self.processes, processes) == processes;
        if !is_steady || processes < 2 {
            return Vec::new();
        }
        let share = (parts as u64).div_ceil(processes) as usize;
        let beyond = held.len().saturating_sub(share);
        let is_stuck = |part: usize| self.stuck.iter().any(|(stuck, _)| *stuck == part);
        let free = held.iter().filter(|held| !is_stuck(held.number));
        let mut newest: Vec<Held> = free.copied().collect();
        newest.sort_by_key(|held| (held.held_for, held.number));
        newest.truncate(beyond);
        newest.retain(|held| held.held_for >= PERIOD);
        newest.into_iter().map(|held| held.number).collect()
    }

    /// Records that a part could not be given up: others go instead.
    pub(super) fn stuck(&mut self, part: usize) {
        self.stuck.push((part, STUCK_LOOKS));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// A broker: the line of each part, its holder first, and when the holder got the part.
    struct Lines {
        lines: Vec<VecDeque<usize>>,
        since: Vec<u32>,
        shares: Vec<Share>,
        /// Moves of each part, by time.
        moves: Vec<Vec<u32>>,
        now: u32,
    }

    impl Lines {
        fn new(parts: usize) -> Self {
            Self {
                lines: vec![VecDeque::new(); parts],
                since: vec![0; parts],
                shares: Vec::new(),
                moves: vec![Vec::new(); parts],
                now: 0,
            }
        }

        fn join(&mut self) {
            let process = self.shares.len();
            self.shares.push(Share::default());
            for line in &mut self.lines {
                line.push_back(process);
            }
        }

        fn leave(&mut self, process: usize) {
            for (part, line) in self.lines.iter_mut().enumerate() {
                if line.front() == Some(&process) {
                    self.since[part] = self.now;
                }
                line.retain(|other| *other != process);
            }
        }

        fn held(&self, process: usize) -> Vec<Held> {
            let mine = |part: &usize| self.lines[*part].front() == Some(&process);
            let held = (0..self.lines.len()).filter(mine);
            held.map(|number| Held {
                number,
                held_for: PERIOD * (self.now - self.since[number]),
            })
            .collect()
        }

        /// Each process looks once.
        fn period(&mut self) {
            self.now += 1;
            for process in 0..self.shares.len() {
                let held = self.held(process);
                let processes = self.lines[0].len() as u64;
                let parts = self.lines.len();
                for part in self.shares[process].surplus(&held, parts, processes) {
                    self.lines[part].rotate_left(1);
                    self.since[part] = self.now;
                    self.moves[part].push(self.now);
                }
            }
        }
    }

    proptest! {
        /// From any history, the parts are shared out within two periods for each process and some, and
        /// then stay. No part moves twice in a period.
        #[test]
        fn parts_are_shared_out_and_stay(
            parts in 1_usize..40,
            steps in prop::collection::vec(0_u8..4, 1..30),
        ) {
            let mut lines = Lines::new(parts);
            let mut live = vec![0];
            lines.join();
            for step in steps {
                match step {
                    0 if live.len() < 9 => {
                        live.push(lines.shares.len());
                        lines.join();
                    }
                    1 if live.len() > 1 => {
                        let process = live.remove(live.len() / 2);
                        lines.leave(process);
                    }
                    _ => lines.period(),
                }
            }
            for _ in 0..2 * live.len() + 4 {
                lines.period();
            }
            let share = parts.div_ceil(live.len());
            for process in &live {
                prop_assert!(lines.held(*process).len() <= share);
            }
            let moved: usize = lines.moves.iter().map(Vec::len).sum();
            for _ in 0..5 {
                lines.period();
            }
            prop_assert_eq!(lines.moves.iter().map(Vec::len).sum::<usize>(), moved);
            for moves in &lines.moves {
                prop_assert!(moves.windows(2).all(|two| two[0] < two[1]));
            }
        }
    }

    #[test]
    fn a_part_that_is_stuck_stays_and_another_one_goes() {
        let held = |number| Held {
            number,
            held_for: PERIOD,
        };
        let held: Vec<Held> = (0..4).map(held).collect();
        let mut share = Share::default();
        assert!(share.surplus(&held, 4, 3).is_empty());
        assert_eq!(share.surplus(&held, 4, 3), [0, 1]);
        share.stuck(0);
        assert_eq!(share.surplus(&held, 4, 3), [1, 2]);
    }

    #[test]
    fn a_process_that_starts_again_moves_no_part_at_once() {
        let held: Vec<Held> = (0..4)
            .map(|number| Held {
                number,
                held_for: PERIOD,
            })
            .collect();
        let mut share = Share::default();
        assert!(share.surplus(&held, 4, 1).is_empty());
        assert!(share.surplus(&held, 4, 2).is_empty());
        assert!(share.surplus(&held, 4, 1).is_empty());
        assert!(share.surplus(&held, 4, 2).is_empty());
        assert_eq!(share.surplus(&held, 4, 2), [0, 1]);
    }
}
