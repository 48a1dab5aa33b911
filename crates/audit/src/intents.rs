//! An outcome does not repeat what its intent tells: here the two come together again.

use std::collections::HashMap;

use portcullis_ledger::ReadError;

use crate::reader::{AuditReader, Stored};
use crate::record::{Intent, Outcome, Record};

/// How many intents are remembered until their outcomes come.
const MOST: usize = 16 * 1024;
/// How many records are read on from an intent that was forgotten: the next outcomes' intents stand behind it more often than not.
const AHEAD: usize = 1024;

/// The intents whose outcomes have not been seen yet, for whoever reads a log from front to back. Bounded: an intent that
/// was forgotten, or stands before where reading began, is read again.
#[derive(Debug, Default)]
pub struct Intents(HashMap<u64, Intent>);

impl Intents {
    /// Remembers a record, if it is an intent.
    pub fn see(&mut self, stored: &Stored) {
        if let Record::Intent(intent) = &stored.entry.record {
            if self.0.len() >= MOST {
                self.0.clear();
            }
            self.0.insert(stored.index, intent.as_ref().clone());
        }
    }

    /// Whether the intent with this index is remembered.
    #[must_use]
    pub fn remembers(&self, index: u64) -> bool {
        self.0.contains_key(&index)
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
        if let Some(intent) = self.0.remove(&index) {
            return Ok(Some(intent));
        }
        let Some(place) = place else { return self.read_on(index, reader) };
        let stored = reader.read(index, place)?;
        Ok(stored.and_then(|stored| match stored.entry.record {
            Record::Intent(intent) => Some(*intent),
            _ => None,
        }))
    }

    /// The intent with this index, and those that follow soon, so that a segment is not read for each of many.
    fn read_on(&mut self, index: u64, reader: &AuditReader) -> Result<Option<Intent>, ReadError> {
        for stored in reader.records(index)?.take(AHEAD) {
            self.see(&stored?);
        }
        Ok(self.0.remove(&index))
    }
}
