//! Epochs of one worker: which of its claims are accounted for, and what its record may say.
//!
//! A claim belongs to the epoch that was open when its request was built. An epoch closes when its time is up. It is settled
//! when it is closed, every epoch before it is settled, and none of its claims is outstanding. A claim whose release was
//! not acknowledged stays outstanding for ever. The worker then goes on under a new owner id, and what the old owner had
//! settled before stays recorded.
//!
//! Limits: the last [`MAX_OWNERS`] owner ids. Cost: one search among them for each claim that is accounted for; almost
//! always there is one.

#[cfg(feature = "mutants")]
use crate::mutation::Mutation;
use crate::random::split_mix;
use crate::value::Record;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Old owners whose records may still have news; more are forgotten, oldest first (their siblings take over).
const MAX_OWNERS: usize = 8;

/// An epoch that is not settled after so long is late: siblings have long taken over what it covers, and what comes after it.
pub const UNSETTLED_LATE: Duration = Duration::from_secs(2);

/// The oldest epoch of a worker that is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// Owner id that it belongs to.
    pub owner: u64,
    /// Its number.
    pub epoch: u32,
    /// Time since it opened.
    pub age: Duration,
    /// Claims of it that have no end yet.
    pub claims: u32,
}

impl Unsettled {
    /// It should have been settled long ago.
    pub fn is_late(&self) -> bool {
        self.age >= UNSETTLED_LATE
    }
}

/// Where a claim belongs: under which owner, in which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochPlace {
    serial: u32,
    pub(crate) owner: u64,
    pub(crate) epoch: u32,
}

pub(crate) struct Ledger {
    owners: VecDeque<Owner>,
    epoch_length: Duration,
    random: u64,
    #[cfg(feature = "mutants")]
    pub(crate) mutation: Option<Mutation>,
}

struct Owner {
    serial: u32,
    id: u64,
    /// Number of the first epoch in `epochs`.
    first: u32,
    epochs: VecDeque<Epoch>,
    settled: u32,
    released: u32,
    /// What the record said when it was last acknowledged.
    written: (u32, u32),
}

struct Epoch {
    opened: Instant,
    closed: bool,
    outstanding: u32,
    released: bool,
    /// It was found late.
    late: bool,
}

impl Ledger {
    pub(crate) fn new(epoch_length: Duration, seed: u64) -> Ledger {
        let mut ledger = Ledger {
            owners: VecDeque::new(),
            epoch_length,
            random: seed,
            #[cfg(feature = "mutants")]
            mutation: None,
        };
        ledger.renew();
        ledger
    }

    /// Owner id of claims built now.
    pub(crate) fn owner(&self) -> u64 {
        self.owners.back().map_or(0, |owner| owner.id)
    }

    /// Accounts for one claim built now.
    pub(crate) fn open_claim(&mut self, now: Instant) -> EpochPlace {
        if self.owners.back().is_some_and(|owner| owner.last() >= u32::MAX - 1) {
            self.renew();
        }
        let reuse = planted!(self, ClosedEpochReused);
        let Some(owner) = self.owners.back_mut() else { return EpochPlace { serial: 0, owner: 0, epoch: 0 } };
        let open = owner.epochs.back().is_some_and(|epoch| !epoch.closed || reuse);
        let reused = reuse && owner.last() > 0;
        if !open && !reused {
            owner.epochs.push_back(Epoch::open(now));
        }
        if let Some(epoch) = owner.epochs.back_mut() {
            epoch.outstanding += 1;
        }
        EpochPlace { serial: owner.serial, owner: owner.id, epoch: owner.last() }
    }

    /// The claim was handed over, lost, or is of no consequence any more.
    pub(crate) fn resolve(&mut self, place: EpochPlace) {
        self.account(place, false);
    }

    /// The claim was deleted and the store said so.
    pub(crate) fn release(&mut self, place: EpochPlace) {
        self.account(place, true);
    }

    /// The claim may still be in the store although its frame was not sent: it stays outstanding for ever.
    pub(crate) fn abandon(&mut self, place: EpochPlace) {
        if self.owners.back().is_some_and(|owner| owner.serial == place.serial) {
            self.renew();
        }
    }

    fn account(&mut self, place: EpochPlace, released: bool) {
        let out_of_order = planted!(self, SettledOutOfOrder);
        let Some(owner) = self.owners.iter_mut().find(|owner| owner.serial == place.serial) else { return };
        let Some(index) = place.epoch.checked_sub(owner.first) else { return };
        let Some(epoch) = owner.epochs.get_mut(index as usize) else { return };
        epoch.outstanding = epoch.outstanding.saturating_sub(1);
        epoch.released |= released;
        owner.settle(out_of_order);
    }

    /// When the open epoch closes.
    pub(crate) fn closes_at(&self) -> Option<Instant> {
        let epoch = self.owners.back()?.epochs.back()?;
        (!epoch.closed).then(|| epoch.opened + self.epoch_length)
    }

    /// Closes the open epoch if its time is up, or at once.
    pub(crate) fn close(&mut self, now: Instant, at_once: bool) {
        if self.closes_at().is_some_and(|at| at <= now || at_once)
            && let Some(owner) = self.owners.back_mut()
        {
            let out_of_order = planted!(self, SettledOutOfOrder);
            owner.close();
            if planted!(self, SettledTooEarly)
                && let Some(epoch) = owner.epochs.back_mut()
            {
                epoch.outstanding = 0;
            }
            owner.settle(out_of_order);
        }
    }

    /// A record that says more than the store was known to hold.
    pub(crate) fn unwritten_record(&self) -> Option<Record> {
        let owner = self.owners.iter().find(|owner| owner.has_news())?;
        let released = if planted!(self, RecordCoversRelease) { 0 } else { owner.released };
        Some(Record { owner: owner.id, settled: owner.settled, released })
    }

    /// The store acknowledged this record.
    pub(crate) fn written(&mut self, record: Record) {
        if let Some(owner) = self.owners.iter_mut().find(|owner| owner.id == record.owner) {
            // What was released is part of the news that `settled` brought.
            let released = if record.settled == owner.settled { owner.released } else { record.released };
            owner.written = (record.settled, released);
        }
        let current = self.owners.back().map(|owner| owner.serial);
        self.owners.retain(|owner| Some(owner.serial) == current || owner.has_news() || owner.may_settle());
    }

    /// Claims of the current owner that are not accounted for.
    pub(crate) fn outstanding(&self) -> bool {
        self.owners.back().is_some_and(|owner| !owner.epochs.is_empty())
    }

    /// The oldest epoch of the current owner that is not settled. (What former owners left will not be.)
    pub(crate) fn unsettled(&self, now: Instant) -> Option<Unsettled> {
        let owner = self.owners.back()?;
        let epoch = owner.epochs.front()?;
        let age = now.saturating_duration_since(epoch.opened);
        Some(Unsettled { owner: owner.id, epoch: owner.first, age, claims: epoch.outstanding })
    }

    /// Whether that epoch is found late: once for each.
    pub(crate) fn becomes_late(&mut self, now: Instant) -> bool {
        let is_late = self.unsettled(now).is_some_and(|unsettled| unsettled.is_late());
        let epoch = self.owners.back_mut().and_then(|owner| owner.epochs.front_mut());
        epoch.is_some_and(|epoch| is_late && !std::mem::replace(&mut epoch.late, true))
    }

    /// The newest epoch of the current owner; `None` before its first.
    pub(crate) fn newest(&self) -> Option<EpochPlace> {
        let owner = self.owners.back().filter(|owner| owner.last() > 0)?;
        Some(EpochPlace { serial: owner.serial, owner: owner.id, epoch: owner.last() })
    }

    /// The store knows that `place` is settled. What a former owner left unsettled will not be: siblings take it over.
    pub(crate) fn covers(&self, place: EpochPlace) -> bool {
        let current = self.owners.back().filter(|owner| owner.serial == place.serial);
        current.is_none_or(|owner| owner.written.0 >= place.epoch)
    }

    fn renew(&mut self) {
        if let Some(owner) = self.owners.back_mut() {
            owner.close();
            owner.settle(false);
        }
        let serial = self.owners.back().map_or(0, |owner| owner.serial.wrapping_add(1));
        let id = split_mix(&mut self.random);
        if self.owners.len() == MAX_OWNERS {
            self.owners.pop_front();
        }
        self.owners.push_back(Owner {
            serial,
            id,
            first: 1,
            epochs: VecDeque::new(),
            settled: 0,
            released: 0,
            written: (0, 0),
        });
    }
}

impl Epoch {
    fn open(now: Instant) -> Epoch {
        Epoch { opened: now, closed: false, outstanding: 0, released: false, late: false }
    }
}

impl Owner {
    /// Number of the newest epoch, open or not; zero before the first.
    #[allow(clippy::cast_possible_truncation, reason = "one epoch per 50 ms; settled ones leave")]
    fn last(&self) -> u32 {
        self.first - 1 + self.epochs.len() as u32
    }

    fn close(&mut self) {
        if let Some(epoch) = self.epochs.back_mut() {
            epoch.closed = true;
        }
    }

    fn settle(&mut self, out_of_order: bool) {
        if out_of_order {
            return self.settle_out_of_order();
        }
        while self.epochs.front().is_some_and(|epoch| epoch.closed && epoch.outstanding == 0) {
            self.settled = self.first;
            if self.epochs.pop_front().is_some_and(|epoch| epoch.released) {
                self.released = self.first;
            }
            self.first += 1;
        }
    }

    /// Only ever planted.
    fn settle_out_of_order(&mut self) {
        for (number, epoch) in (self.first..).zip(&self.epochs) {
            if epoch.closed && epoch.outstanding == 0 {
                self.settled = self.settled.max(number);
                self.released = if epoch.released { self.released.max(number) } else { self.released };
            }
        }
    }

    fn has_news(&self) -> bool {
        self.written != (self.settled, self.released)
    }

    /// Whether the first epoch can still settle: unknown, so yes while it has claims. Old owners leave by number.
    fn may_settle(&self) -> bool {
        !self.epochs.is_empty()
    }
}
