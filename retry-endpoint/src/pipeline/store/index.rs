//! Where each number of each flow lies in the log.
//!
//! A page holds the positions of 32 consecutive numbers of one flow, 4 bytes each, relative to its origin; pages are found
//! by (HashKey, SeqNum / 32) in a table of fixed size. Numbers far apart cost a page each and not the distance between
//! them. A page dies when the log has moved past its newest frame; pages are looked at in the order of their creation, two
//! for each new one, so the dead are found as fast as they die.
//!
//! Cost: making and freeing a page is some five cache misses, spread over the frames that share it. Memory: 182 bytes a
//! page, table and queue included.

use super::log::Log;
use crate::pipeline::seeded::seeded;
use frame::{HashKey, SeqNum};
use hashbrown::HashTable;
use std::collections::VecDeque;

/// Positions of consecutive numbers of a flow.
#[derive(Clone, Copy, Debug)]
struct Page {
    hash_key: u64,
    /// SeqNum / `NUMBERS`; `u64::MAX`, which no number has, while the page is free.
    base: u64,
    /// Positions are counted from here.
    origin: u64,
    /// Tail of the log when the page was queued.
    queued: u64,
    /// Highest position that the page ever held.
    newest: u64,
    /// 8-byte steps from `origin`, plus 1; 0: no frame.
    steps: [u32; Index::NUMBERS],
}

impl Page {
    fn position(&self, at: usize) -> u64 {
        match self.steps[at] {
            0 => 0,
            step => self.origin + u64::from(step - 1) * 8,
        }
    }

    /// Moves the origin; what lies before it has left the log.
    fn rebase(&mut self, origin: u64) {
        for at in 0..Index::NUMBERS {
            self.steps[at] = step(origin, self.position(at)).unwrap_or(0);
        }
        self.origin = origin;
    }
}

/// See the module text.
pub(super) struct Index {
    table: HashTable<u32>,
    pages: Vec<Page>,
    free: Vec<u32>,
    /// Pages in use, in the order in which they will be looked at.
    queue: VecDeque<u32>,
    most: usize,
    seed: u64,
    evicted: u64,
}

impl Index {
    const NUMBERS: usize = 32;
    /// A page, its place in the queue and its share of a hash table that is at worst half full.
    pub(super) const PAGE_COST: usize = size_of::<Page>() + 4 + 10;

    /// Room for `pages` pages, reserved now and touched as it is used.
    pub(super) fn new(pages: usize, seed: u64) -> Index {
        let most = pages.clamp(64, u32::MAX as usize);
        Index {
            table: HashTable::with_capacity(most),
            pages: Vec::with_capacity(most),
            free: Vec::new(),
            queue: VecDeque::with_capacity(most),
            most,
            seed,
            evicted: 0,
        }
    }

    /// Pages in use.
    pub(super) fn used(&self) -> usize {
        self.queue.len()
    }

    /// Pages that were taken although their frames were still in the log.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The page of a number.
    pub(super) fn find(&self, hash_key: HashKey, seq: SeqNum) -> Option<u32> {
        let base = base(seq);
        let hash = seeded(self.seed, hash_key.0, base);
        self.table
            .find(hash, |&page| {
                let page = &self.pages[page as usize];
                page.hash_key == hash_key.0 && page.base == base
            })
            .copied()
    }

    /// The page of a number, made if there is none. `oldest` is the tail of the log, `hint` the page that the flow used
    /// last.
    pub(super) fn page(&mut self, hash_key: HashKey, seq: SeqNum, oldest: u64, hint: u32) -> u32 {
        let base = base(seq);
        if self.pages.get(hint as usize).is_some_and(|page| page.base == base && page.hash_key == hash_key.0)
        {
            return hint;
        }
        if let Some(page) = self.find(hash_key, seq) {
            return page;
        }
        self.reclaim(oldest);
        let fresh = Page {
            hash_key: hash_key.0,
            base,
            origin: oldest,
            queued: oldest,
            newest: 0,
            steps: [0; Index::NUMBERS],
        };
        let page = match self.free.pop() {
            Some(page) => {
                self.pages[page as usize] = fresh;
                page
            }
            None => {
                self.pages.push(fresh);
                #[allow(clippy::cast_possible_truncation, reason = "`most` fits a u32")]
                let page = (self.pages.len() - 1) as u32;
                page
            }
        };
        let (pages, seed) = (&self.pages, self.seed);
        self.table.insert_unique(seeded(seed, hash_key.0, base), page, |&page| {
            let page = &pages[page as usize];
            seeded(seed, page.hash_key, page.base)
        });
        self.queue.push_back(page);
        page
    }

    /// Frees dead pages; looks at two, so the queue never falls behind. With no room at all the oldest page goes although
    /// its frames are still there.
    fn reclaim(&mut self, oldest: u64) {
        for _ in 0..2 {
            let Some(&front) = self.queue.front() else { break };
            let page = &mut self.pages[front as usize];
            if page.queued >= oldest {
                break;
            }
            if page.newest < oldest {
                self.queue.pop_front();
                self.release(front);
            } else {
                page.queued = oldest;
                self.queue.rotate_left(1);
            }
        }
        if self.free.is_empty()
            && self.pages.len() >= self.most
            && let Some(front) = self.queue.pop_front()
        {
            self.evicted += 1;
            self.release(front);
        }
    }

    fn release(&mut self, page: u32) {
        let Page { hash_key, base, .. } = self.pages[page as usize];
        if let Ok(entry) = self.table.find_entry(seeded(self.seed, hash_key, base), |&other| other == page) {
            entry.remove();
        }
        self.pages[page as usize].base = u64::MAX;
        self.free.push(page);
    }

    /// Position of a number in its page, 0 without one.
    pub(super) fn position(&self, page: u32, seq: SeqNum) -> u64 {
        self.pages[page as usize].position(offset(seq))
    }

    /// Points a number at a position of the log.
    pub(super) fn set(&mut self, page: u32, seq: SeqNum, position: u64) {
        let page = &mut self.pages[page as usize];
        if step(page.origin, position).is_none() {
            page.rebase(position.saturating_sub(Log::MOST as u64));
        }
        page.steps[offset(seq)] = step(page.origin, position).unwrap_or(0);
        page.newest = page.newest.max(position);
    }

    /// Forgets a number.
    pub(super) fn clear(&mut self, page: u32, seq: SeqNum) {
        self.pages[page as usize].steps[offset(seq)] = 0;
    }
}

/// Steps from `origin` to `position`; `None` before it and 32 GiB after it.
fn step(origin: u64, position: u64) -> Option<u32> {
    u32::try_from(position.checked_sub(origin)? / 8 + 1).ok()
}

fn base(seq: SeqNum) -> u64 {
    seq.0 / Index::NUMBERS as u64
}

/// Place of a number in its page.
fn offset(seq: SeqNum) -> usize {
    #[allow(clippy::cast_possible_truncation, reason = "less than NUMBERS")]
    let offset = (seq.0 % Index::NUMBERS as u64) as usize;
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_outlives_its_span_keeps_what_the_log_still_holds() {
        let mut index = Index::new(64, 1);
        let flow = HashKey(9);
        let page = index.page(flow, SeqNum(1), 0, u32::MAX);
        let far = 8 * u64::from(u32::MAX);
        index.set(page, SeqNum(1), 8);
        index.set(page, SeqNum(2), far - 64);
        index.set(page, SeqNum(3), far + 64);
        let held: Vec<u64> = (1..=3).map(|seq| index.position(page, SeqNum(seq))).collect();
        assert_eq!(held, [0, far - 64, far + 64]);
    }

    #[test]
    fn a_free_page_matches_no_hint() {
        let mut index = Index::new(64, 1);
        let flow = HashKey(9);
        let first = index.page(flow, SeqNum(1), 8, u32::MAX);
        index.set(first, SeqNum(1), 8);
        // The log moved past it: the next new page finds it dead and takes its place.
        let second = index.page(flow, SeqNum(1000), 4096, first);
        assert_eq!((first, second), (0, 0));
        assert_eq!(index.find(flow, SeqNum(1)), None);
        let third = index.page(flow, SeqNum(1), 4096, second);
        assert_eq!(index.position(third, SeqNum(1)), 0);
    }
}
