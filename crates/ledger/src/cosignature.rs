//! Witnesses: C2SP [tlog-cosignature](https://c2sp.org/tlog-cosignature), version 1, Ed25519.
//!
//! A witness has seen that each checkpoint it cosigns continues the one before. So a log that shows different people different
//! histories is found out, even when it signs both.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::files::{private, replace};
use crate::ledger::COSIGNED;
use crate::note::{Signature, Signed, key_id, parse_vkey, verify, write_vkey};
use crate::replay::ReadError;
use crate::rotation::KeyChain;
use crate::verify::{checkpoint_fault, read_note};
use crate::{Checkpoint, NoteError, VerifyingKey};

/// The signed-note algorithm byte of a timestamped Ed25519 cosignature.
const COSIGNATURE: u8 = 0x04;

/// A witness's public key, written `NAME+KEYID+BASE64` like a log's, but of type 0x04.
#[derive(Clone, PartialEq, Eq)]
pub struct WitnessKey {
    name: String,
    id: u32,
    public: [u8; 32],
}

impl WitnessKey {
    /// The key of a witness of this name, from its 32 bytes.
    ///
    /// # Errors
    /// When the name is empty, or has a space or a plus sign in it.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, NoteError> {
        Ok(Self { name: name.to_owned(), id: key_id(name, COSIGNATURE, &public)?, public })
    }

    /// The witness's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a line says that it is this key's. What it says of the checkpoint is not looked at.
    pub(crate) fn made(&self, line: &Signature<'_>) -> bool {
        self.name == line.name && self.id == line.id
    }
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_vkey(f, &self.name, self.id, COSIGNATURE, &self.public)
    }
}

impl fmt::Debug for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for WitnessKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, id, public) = parse_vkey(text, COSIGNATURE)?;
        Ok(Self { name, id, public })
    }
}

/// What a witness says of a checkpoint: that it continues all that it has seen of this log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cosignature {
    /// The witness's name.
    pub witness: String,
    /// When it said so, by its own clock: seconds since 1970.
    pub timestamp: u64,
}

impl Checkpoint {
    /// Checks that `key` signed the note, and what of these witnesses is on it. Cosignatures of others are passed over.
    ///
    /// # Errors
    /// When the note is malformed or not the log's, or a cosignature is not the witness's that it names.
    pub fn cosigned(
        note: &str,
        key: &VerifyingKey,
        witnesses: &[WitnessKey],
    ) -> Result<(Self, Vec<Cosignature>), NoteError> {
        let checkpoint = Self::verify(note, key)?;
        Ok((checkpoint, cosignatures(&Signed::parse(note)?, witnesses)?))
    }
}

pub(crate) fn cosignatures(
    signed: &Signed<'_>,
    witnesses: &[WitnessKey],
) -> Result<Vec<Cosignature>, NoteError> {
    let mut found = Vec::new();
    for line in &signed.signatures {
        let known = witnesses.iter().find(|witness| witness.made(line));
        let Some(witness) = known else { continue };
        let (timestamp, signature) =
            line.bytes.split_first_chunk::<8>().ok_or(NoteError::Malformed("a cosignature is too short"))?;
        let timestamp = u64::from_be_bytes(*timestamp);
        if timestamp > i64::MAX.unsigned_abs() {
            return Err(NoteError::Malformed("a cosignature's time is impossible"));
        }
        let message = message(timestamp, signed.text);
        verify(&witness.public, message.as_bytes(), signature)?;
        found.push(Cosignature { witness: witness.name.clone(), timestamp });
    }
    Ok(found)
}

/// Why cosignatures were not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CosignError {
    /// The note is not one that this log signed, a cosignature is not the witness's that it names, or there are too many.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The log's keys, or what has been kept so far, cannot be read or are not what they were. Nothing was changed.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// They could not be stored.
    #[error("cannot write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Keeps a cosigned note: see [`Reader::keep_cosignatures`](crate::Reader::keep_cosignatures). Of several processes and threads,
/// one at a time.
pub(crate) fn keep(
    dir: &Path,
    note: &str,
    witnesses: &[WitnessKey],
) -> Result<Vec<Cosignature>, CosignError> {
    let chain = KeyChain::read(dir)?;
    let checkpoint = chain.verify(note)?;
    let signed = Signed::parse(note)?;
    let found = cosignatures(&signed, witnesses)?;
    if found.is_empty() {
        return Ok(found);
    }
    let path = dir.join(COSIGNED);
    let cannot = |source| CosignError::Io { path: path.clone(), source };
    let lock = dir.join("checkpoint.cosigned.lock");
    let lock = private(File::options().write(true).create(true).truncate(false)).open(lock);
    let lock = lock.map_err(cannot)?;
    lock.lock().map_err(cannot)?;

    // What is damaged may be evidence: it is not for us to overwrite.
    let damaged =
        |detail: &str| checkpoint_fault(&path, format!("{detail}: move it away, then cosign again"));
    let before = read_note(&path).map_err(|error| match error {
        ReadError::Fault(fault) => damaged(&fault.detail).into(),
        error => error,
    })?;
    let before = before.as_deref().map(|before| Ok((chain.verify(before)?, Signed::parse(before)?)));
    let before =
        before.transpose().map_err(|error: NoteError| ReadError::from(damaged(&error.to_string())))?;
    let mut kept = Kept::default();
    let ours = |line: &Signature<'_>| chain.has(line.name, line.id);
    let known = |line: &Signature<'_>| ours(line) || witnesses.iter().any(|witness| witness.made(line));
    kept.extend(signed.signatures.iter().filter(|line| known(line)), ours);
    match &before {
        // A witness that was slow: there are newer words already.
        Some((newer, _)) if newer.size > checkpoint.size => return Ok(found),
        Some((same, _)) if same.size == checkpoint.size && same.root != checkpoint.root => {
            let detail = "it is of as many records as the note, and of others: verify the log".to_owned();
            return Err(ReadError::from(checkpoint_fault(&path, detail)).into());
        }
        // What others have said of it was looked at when it came.
        Some((_, same)) if same.text == signed.text => kept.extend(&same.signatures, ours),
        _ => {}
    }
    // What is stored can be read, or it is not stored.
    let note = kept.note(signed.text);
    chain.verify(&note)?;
    replace(&path, note.as_bytes()).map_err(cannot)?;
    Ok(found)
}

/// A note in the making: of each key one line. Of a witness's that with its latest time, whichever was given first or is stored:
/// one that was held back and comes late says less. Of the log's own the first.
#[derive(Default)]
struct Kept<'l> {
    lines: Vec<(u64, &'l str)>,
    places: HashMap<(&'l str, u32), usize>,
}

impl<'l> Kept<'l> {
    /// `ours` says which lines are the log's, which have no time.
    fn extend(
        &mut self,
        lines: impl IntoIterator<Item = &'l Signature<'l>>,
        ours: impl Fn(&Signature<'_>) -> bool,
    ) {
        for line in lines {
            let time = line.bytes.first_chunk().filter(|_| !ours(line));
            let time = time.map_or(0, |time| u64::from_be_bytes(*time));
            match self.places.entry((line.name, line.id)) {
                Entry::Vacant(place) => {
                    place.insert(self.lines.len());
                    self.lines.push((time, line.line));
                }
                Entry::Occupied(place) => {
                    let kept = &mut self.lines[*place.get()];
                    if time > kept.0 {
                        *kept = (time, line.line);
                    }
                }
            }
        }
    }

    fn note(&self, text: &str) -> String {
        let mut note = format!("{text}\n");
        self.lines.iter().flat_map(|(_, line)| [line, "\n"]).for_each(|part| note.push_str(part));
        note
    }
}

fn message(timestamp: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {timestamp}\n{text}")
}

#[cfg(test)]
pub(crate) mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::*;
    use crate::{Hash, SigningKey};

    /// A witness that cosigns whatever it is shown.
    pub(crate) struct Witness(Ed25519KeyPair, pub(crate) WitnessKey);

    impl Witness {
        pub(crate) fn new(name: &str) -> Self {
            let pair = Ed25519KeyPair::generate().unwrap();
            let key = WitnessKey::new(name, pair.public_key().as_ref().try_into().unwrap()).unwrap();
            Self(pair, key)
        }

        /// The note with its line.
        pub(crate) fn cosign(&self, note: &str, timestamp: u64) -> String {
            let signature = self.0.sign(message(timestamp, Signed::parse(note).unwrap().text).as_bytes());
            let blob =
                [&self.1.id.to_be_bytes(), timestamp.to_be_bytes().as_slice(), signature.as_ref()].concat();
            format!("{note}— {} {}\n", self.1.name, BASE64.encode(blob))
        }
    }

    #[test]
    fn a_witness_is_heard_and_nobody_else_in_its_name() {
        let key = SigningKey::generate("log.example").unwrap();
        let checkpoint = Checkpoint { origin: "log.example".into(), size: 3, root: Hash::of(b"root") };
        let note = checkpoint.sign(&key).unwrap();
        let (first, second) = (Witness::new("w1.example"), Witness::new("w2.example"));
        let cosigned = second.cosign(&first.cosign(&note, 1_700_000_000), 1_700_000_001);
        let check =
            |note: &str, witnesses: &[WitnessKey]| Checkpoint::cosigned(note, key.verifying_key(), witnesses);
        let heard = |names: &[(&str, u64)]| {
            names
                .iter()
                .map(|(name, time)| Cosignature { witness: (*name).into(), timestamp: *time })
                .collect::<Vec<_>>()
        };
        let both = [first.1.clone(), second.1.clone()];
        let found = check(&cosigned, &both).unwrap();
        assert_eq!(
            found,
            (checkpoint.clone(), heard(&[("w1.example", 1_700_000_000), ("w2.example", 1_700_000_001)]))
        );
        assert_eq!(check(&cosigned, &both[1..]).unwrap().1, heard(&[("w2.example", 1_700_000_001)]));
        assert_eq!(check(&note, &both).unwrap().1, []);
        assert_eq!(Checkpoint::verify(&cosigned, key.verifying_key()), Ok(checkpoint.clone()));

        // Of another tree, and by somebody else under the same name and ID.
        let other = Checkpoint { size: 4, ..checkpoint }.sign(&key).unwrap();
        let line = cosigned.lines().last().unwrap();
        assert_eq!(check(&format!("{other}{line}\n"), &both), Err(NoteError::WrongSignature));
        let mut impostor = Witness::new("w1.example");
        impostor.1 = first.1.clone();
        assert_eq!(check(&impostor.cosign(&note, 7), &both), Err(NoteError::WrongSignature));
    }

    #[test]
    fn keys_of_witnesses_and_of_logs_are_not_mixed_up() {
        let witness = Witness::new("w.example").1;
        assert_eq!(witness.to_string().parse::<WitnessKey>().as_ref(), Ok(&witness));
        assert!(witness.to_string().parse::<VerifyingKey>().is_err());
        let log = SigningKey::generate("w.example").unwrap();
        assert!(log.verifying_key().to_string().parse::<WitnessKey>().is_err());
    }
}
