//! Proofs that leave the machine: C2SP [tlog-proof](https://c2sp.org/tlog-proof).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::note::MAX_NOTE;
use crate::{Checkpoint, Hash, MAX_RECORD, NoteError, VerifyingKey, verify_inclusion};

const HEAD: &str = "c2sp.org/tlog-proof@v1";
/// A tree of 2⁶⁴ leaves has no longer proofs.
const MAX_HASHES: usize = 64;
/// The longest file that is read, in bytes: a record and a note in base64, and some lines.
const MAX_PROOF: usize = 2 * MAX_RECORD + MAX_NOTE;

/// That a record is in a log, verifiable by whoever has the log's public key, and nothing else of it.
///
/// Its text is a C2SP tlog-proof whose `extra` line is the record itself. [`Reader::prove`](crate::Reader::prove) makes
/// one; `Display` and `FromStr` write and read the file, which by convention ends in `.tlog-proof`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proof {
    /// Where the record stands in the log.
    pub index: u64,
    /// The record's bytes. Believe them when [`Proof::verify`] does.
    pub record: Vec<u8>,
    pub(crate) hashes: Vec<Hash>,
    pub(crate) checkpoint: String,
}

impl Proof {
    /// Checks that the record stands in the log that `key` signs for, and answers the checkpoint that says so.
    ///
    /// # Errors
    /// When the checkpoint is not signed by this key, or its tree does not have this record at this index.
    pub fn verify(&self, key: &VerifyingKey) -> Result<Checkpoint, ProofError> {
        let checkpoint = Checkpoint::verify(&self.checkpoint, key)?;
        if checkpoint.origin != key.name() {
            return Err(ProofError::OtherLog(checkpoint.origin));
        }
        let leaf = Hash::leaf(&self.record);
        if verify_inclusion(leaf, self.index, checkpoint.size, &self.hashes, checkpoint.root) {
            Ok(checkpoint)
        } else {
            Err(ProofError::NotIncluded)
        }
    }
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The file is no proof.
    #[error("malformed proof: {0}")]
    Malformed(&'static str),
    /// Its checkpoint is not acceptable.
    #[error(transparent)]
    Checkpoint(#[from] NoteError),
    /// The key signed it, for a log of another name.
    #[error("the checkpoint is of the log {0}")]
    OtherLog(String),
    /// The checkpoint is the log's, but its tree does not have this record at this index.
    #[error("the record is not in the log at this index")]
    NotIncluded,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}\nextra {}\nindex {}", BASE64.encode(&self.record), self.index)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{}", hash.to_base64()))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for Proof {
    type Err = ProofError;

    fn from_str(text: &str) -> Result<Self, ProofError> {
        use ProofError::Malformed;
        if text.len() > MAX_PROOF {
            return Err(Malformed("it is too long"));
        }
        let (head, checkpoint) = text.split_once("\n\n").ok_or(Malformed("no checkpoint"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(HEAD) {
            return Err(Malformed("it does not begin with `c2sp.org/tlog-proof@v1`"));
        }
        let record = lines.next().and_then(|line| line.strip_prefix("extra "));
        let record = record.ok_or(Malformed("no `extra` line, which would have the record"))?;
        let record = BASE64.decode(record).map_err(|_| Malformed("the record is not base64"))?;
        if record.is_empty() || record.len() > MAX_RECORD {
            return Err(Malformed("no record is that long"));
        }
        let index =
            lines.next().and_then(|line| line.strip_prefix("index ")).ok_or(Malformed("no `index` line"))?;
        let index = index.parse().ok().filter(|number: &u64| number.to_string() == index);
        let index = index.ok_or(Malformed("the index is no number"))?;
        let hashes: Option<Vec<Hash>> = lines.take(MAX_HASHES + 1).map(Hash::from_base64).collect();
        let hashes = hashes.ok_or(Malformed("a line is no SHA-256 in base64"))?;
        if hashes.len() > MAX_HASHES {
            return Err(Malformed("it has too many hashes"));
        }
        Ok(Self { index, record, hashes, checkpoint: checkpoint.to_owned() })
    }
}
