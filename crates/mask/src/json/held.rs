//! What cannot be sent yet: a value whose fate depends on what comes later, and everything after it.

use std::collections::VecDeque;

use super::leaf::Waiting;
use crate::Piece;

/// A queue of pieces, some of which are undecided. Nothing passes an undecided one.
#[derive(Default)]
pub(super) struct Held {
    slots: VecDeque<Slot>,
    /// The number of the first slot.
    first: u64,
    bytes: usize,
}

enum Slot {
    Ready(Piece),
    Waiting(Box<Waiting>),
    /// Decided: what it became.
    Decided(Vec<Piece>),
}

/// What a slot costs besides its bytes, so that many small ones are bounded, too.
const SLOT_COST: usize = 128;

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How much is held: bytes, and what keeping them costs.
    pub(super) fn cost(&self) -> usize {
        self.bytes + self.slots.len() * SLOT_COST
    }

    pub(super) fn push(&mut self, piece: Piece) {
        self.bytes += piece.bytes().len();
        self.slots.push_back(Slot::Ready(piece));
    }

    /// The number that [`wait`](Self::wait) will give next.
    pub(super) fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(super) fn wait(&mut self, waiting: Waiting) {
        self.bytes += waiting.cost();
        self.slots.push_back(Slot::Waiting(Box::new(waiting)));
    }

    pub(super) fn take(&mut self, number: u64) -> Option<Box<Waiting>> {
        let slot = self.slots.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)?;
        match std::mem::replace(slot, Slot::Decided(Vec::new())) {
            Slot::Waiting(waiting) => Some(waiting),
            other => {
                *slot = other;
                None
            }
        }
    }

    pub(super) fn put_back(&mut self, number: u64, waiting: Box<Waiting>) {
        self.set(number, Slot::Waiting(waiting));
    }

    pub(super) fn decide(&mut self, number: u64, cost: usize, pieces: Vec<Piece>) {
        self.bytes -= cost;
        self.bytes += pieces.iter().map(|piece| piece.bytes().len()).sum::<usize>();
        self.set(number, Slot::Decided(pieces));
    }

    fn set(&mut self, number: u64, slot: Slot) {
        let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        if let Some(place) = index.and_then(|index| self.slots.get_mut(index)) {
            *place = slot;
        }
    }

    /// Hands on all that stands before the first undecided value.
    pub(super) fn release(&mut self, out: &mut Vec<Piece>) {
        while let Some(slot) = self.slots.pop_front() {
            let before = out.len();
            match slot {
                Slot::Waiting(_) => {
                    self.slots.push_front(slot);
                    return;
                }
                Slot::Ready(piece) => out.push(piece),
                Slot::Decided(pieces) => out.extend(pieces),
            }
            self.first += 1;
            self.bytes -= out[before..].iter().map(|piece| piece.bytes().len()).sum::<usize>();
        }
    }
}
