//! An outcome does not repeat what its intent tells: here the two come together again.

use std::collections::BTreeMap;

use portcullis_ledger::ReadError;

use crate::reader::{AuditReader, Stored};
use crate::record::{Intent, Outcome, Record};

/// How many intents are remembered until their outcomes come.
const MOST: usize = 16 * 1024;
/// How many records are read on from an intent that was forgotten: the next outcomes' intents stand behind it more often than not.
const AHEAD: usize = 1024;
/// How many intents are remembered of those that were read so. Their outcomes may have gone by long ago.
const MOST_AHEAD: usize = 4 * AHEAD;

/// The intents whose outcomes have not been seen yet, for whoever reads a log from front to back. Bounded: an intent that
/// was forgotten, or stands before where reading began, is read again.
#[derive(Debug, Default)]
pub struct Intents {
    seen: BTreeMap<u64, Intent>,
    ahead: BTreeMap<u64, Intent>,
}

impl Intents {
    /// Remembers a record, if it is an intent. Where there are too many, the oldest is forgotten.
    pub fn see(&mut self, stored: &Stored) {
        if let Record::Intent(intent) = &stored.entry.record {
            self.seen.insert(stored.index, intent.as_ref().clone());
            if self.seen.len() > MOST {
                self.seen.pop_first();
            }
        }
    }

    /// Whether the intent with this index is remembered.
    #[must_use]
    pub fn remembers(&self, index: u64) -> bool {
        self.seen.contains_key(&index) || self.ahead.contains_key(&index)
    }

    /// The intent that an outcome names; then it is forgotten. `place` says where in its segment it begins, if somebody knows:
    /// otherwise a segment may have to be read for it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn take(
        &mut self,
        outcome: &Outcome,
        place: Option<u64>,
        reader: &AuditReader,
    ) -> Result<Option<Intent>, ReadError> {
        let Some(index) = outcome.intent else { return Ok(None) };
        let (seen, ahead) = (self.seen.remove(&index), self.ahead.remove(&index));
        if let Some(intent) = seen.or(ahead) {
            return Ok(Some(intent));
        }
        let Some(place) = place else { return self.read_on(index, reader) };
        let stored = reader.read(index, place)?;
        Ok(stored.and_then(intent))
    }

    /// The intent with this index, and those that follow soon, so that a segment is not read for each of many.
    fn read_on(&mut self, index: u64, reader: &AuditReader) -> Result<Option<Intent>, ReadError> {
        let mut records = reader.records(index)?;
        let Some(wanted) = records.next().transpose()? else { return Ok(None) };
        while self.ahead.len() + AHEAD > MOST_AHEAD {
            self.ahead.pop_first();
        }
        // What is wrong behind it is for whoever gets there.
        let behind = records.take(AHEAD).map_while(Result::ok);
        self.ahead.extend(behind.filter_map(|stored| Some((stored.index, intent(stored)?))));
        Ok(intent(wanted))
    }
}

fn intent(stored: Stored) -> Option<Intent> {
    match stored.entry.record {
        Record::Intent(intent) => Some(*intent),
        _ => None,
    }
}
