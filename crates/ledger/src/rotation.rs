//! One key after another: how a log comes to a new key, and how a verifier that knows an old one follows.
//!
//! When the key is changed, the log gets a record that says so, and both keys sign one checkpoint that covers this record. Its
//! extension lines name the two keys, so that the old key's signature is what vouches for the new one:
//!
//! ```text
//! gateway.example.com/audit
//! 1742
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
//! previous-key gateway.example.com/audit+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k
//! next-key gateway.example.com/audit+7f2ab91c+ATtJHy…
//!
//! — gateway.example.com/audit Uw2QO…
//! — gateway.example.com/audit fyq5H…
//! ```
//!
//! These notes are kept in `rotations/`, numbered from one, and `key.pub` lists all keys, the newest first. What an old key signs
//! of more records than its note covers counts for nothing: whoever steals it later can add nothing to the log.

use std::io;
use std::path::{Path, PathBuf};

use crate::files::{private_dir, replace, sync_dir};
use crate::ledger::PUBLIC_KEY;
use crate::note::{MAX_NOTE, Signed};
use crate::replay::ReadError;
use crate::verify::{checkpoint_fault, read_note, unacceptable};
use crate::{Checkpoint, NoteError, SigningKey, VerifyingKey, tiles};

/// A log's key has been replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rotation {
    /// How many records the log had before the one that tells of it.
    pub size: u64,
    /// The key until now.
    pub previous: VerifyingKey,
    /// The key from now on.
    pub next: VerifyingKey,
}

impl Rotation {
    /// The default record: a JSON object of type `ledger.keyRotated`.
    #[must_use]
    pub fn to_record(&self) -> Vec<u8> {
        let (previous, next) = (self.previous.to_string(), self.next.to_string());
        serde_json::json!({"v": 1, "type": "ledger.keyRotated", "size": self.size, "previous": previous, "next": next})
            .to_string()
            .into_bytes()
    }
}

/// All keys that a log has had.
#[derive(Debug, Clone)]
pub(crate) struct KeyChain {
    /// The oldest first; never empty.
    keys: Vec<VerifyingKey>,
    /// What each key but the last signed last.
    handed_over: Vec<Checkpoint>,
}

impl KeyChain {
    /// The chain of a log whose only key this is.
    pub(crate) fn of(key: VerifyingKey) -> Self {
        Self { keys: vec![key], handed_over: Vec::new() }
    }

    /// Reads `key.pub` and `rotations/`, and checks that each key was named by the one before. `NotFound` when there is no
    /// `key.pub`.
    pub(crate) fn read(dir: &Path) -> Result<Self, ReadError> {
        let path = dir.join(PUBLIC_KEY);
        let text = read_note(&path)?.ok_or_else(|| ReadError::io(&path)(io::ErrorKind::NotFound.into()))?;
        let listed: Result<Vec<VerifyingKey>, NoteError> = text.lines().map(str::parse).collect();
        let mut listed = listed.map_err(|error| unacceptable(&path, &error))?;
        if listed.is_empty() || list(&listed) != text {
            return Err(checkpoint_fault(&path, "it is not as a ledger writes it".into()).into());
        }
        listed.reverse();
        let mut chain = Self::of(listed.remove(0));
        // One note more than keys: a rotation that has been begun, and is finished when the ledger is opened.
        let most = listed.len() as u64 + 1;
        let mut listed = listed.into_iter();
        for nth in 1.. {
            let file = rotation_file(dir, nth);
            let Some(note) = read_note(&file)? else { break };
            if nth > most {
                let detail = "it follows on a key that key.pub does not list".to_owned();
                return Err(checkpoint_fault(&file, detail).into());
            }
            chain.follow(&note).map_err(|error| unacceptable(&file, &error))?;
            if listed.next().is_some_and(|listed| Some(&listed) != chain.keys.last()) {
                return Err(checkpoint_fault(&path, format!("{} names another key", file.display())).into());
            }
        }
        if let Some(unknown) = listed.next() {
            let detail = format!("nothing says how the log came to the key {unknown}");
            return Err(checkpoint_fault(&rotation_file(dir, chain.keys.len() as u64), detail).into());
        }
        let rotations = dir.join("rotations");
        let names = tiles::names(&rotations).map_err(ReadError::io(&rotations))?;
        let expected = |name: &String| (1..chain.keys.len()).any(|nth| *name == format!("{nth:06}"));
        match names.iter().find(|name| !expected(name) && !name.ends_with(".tmp")) {
            Some(name) => Err(checkpoint_fault(&rotations.join(name), "it follows on no key".into()).into()),
            None => Ok(chain),
        }
    }

    /// Goes on to the next key, if the last one says so.
    fn follow(&mut self, note: &str) -> Result<(), NoteError> {
        let signed = Signed::parse(note)?;
        let (checkpoint, previous, next) = parse(signed.text)?;
        signed.verify(&previous)?;
        signed.verify(&next)?;
        if Some(&previous) != self.keys.last() || checkpoint.origin != next.name() {
            return Err(NoteError::Malformed("it does not continue the keys before it"));
        }
        if self.handed_over.last().is_some_and(|before| before.size >= checkpoint.size) {
            return Err(NoteError::Malformed("it is of fewer records than the one before it"));
        }
        self.keys.push(next);
        self.handed_over.push(checkpoint);
        Ok(())
    }

    /// The key that signs now.
    pub(crate) fn newest(&self) -> &VerifyingKey {
        self.keys.last().unwrap_or(&self.keys[0])
    }

    pub(crate) fn contains(&self, key: &VerifyingKey) -> bool {
        self.keys.contains(key)
    }

    /// Whether a signature of this name and ID is one of the log's own.
    pub(crate) fn has(&self, name: &str, id: u32) -> bool {
        self.keys.iter().any(|key| key.is(name, id))
    }

    /// The checkpoints with which keys were handed over.
    pub(crate) fn handed_over(&self) -> &[Checkpoint] {
        &self.handed_over
    }

    /// The checkpoint in a note that one of the keys signed while it was the log's.
    pub(crate) fn verify(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let signed = Signed::parse(note)?;
        let mut error = NoteError::Unsigned;
        for (nth, key) in self.keys.iter().enumerate().rev() {
            match signed.verify(key) {
                Ok(()) => {
                    let checkpoint = Checkpoint::parse(signed.text)?;
                    let late = self.handed_over.get(nth).is_some_and(|last| checkpoint.size > last.size);
                    if !late {
                        return Ok(checkpoint);
                    }
                    error = NoteError::Retired;
                }
                Err(NoteError::Unsigned) => {}
                Err(wrong) => return Err(wrong),
            }
        }
        Err(error)
    }

    /// What `key.pub` says.
    pub(crate) fn to_text(&self) -> String {
        list(&self.newest_first())
    }

    pub(crate) fn newest_first(&self) -> Vec<VerifyingKey> {
        self.keys.iter().rev().cloned().collect()
    }

    /// Writes down that the log goes on with another key: the note first, by which everything else can be finished.
    pub(crate) fn hand_over(
        &mut self,
        dir: &Path,
        checkpoint: &Checkpoint,
        (previous, next): (&SigningKey, &SigningKey),
    ) -> io::Result<()> {
        let text = format!(
            "{}previous-key {}\nnext-key {}\n",
            checkpoint.text(),
            previous.verifying_key(),
            next.verifying_key()
        );
        let sign = |key: &SigningKey| key.sign(&text).map_err(io::Error::other);
        let note = format!("{text}\n{}{}", sign(previous)?, sign(next)?);
        self.follow(&note).map_err(io::Error::other)?;
        if self.to_text().len() > MAX_NOTE {
            return Err(io::Error::other("the log has had too many keys: begin a new one"));
        }
        let file = rotation_file(dir, self.handed_over.len() as u64);
        private_dir(&dir.join("rotations"))?;
        sync_dir(dir)?;
        replace(&file, note.as_bytes())
    }
}

fn list(newest_first: &[VerifyingKey]) -> String {
    newest_first.iter().map(|key| format!("{key}\n")).collect()
}

fn rotation_file(dir: &Path, nth: u64) -> PathBuf {
    dir.join("rotations").join(format!("{nth:06}"))
}

/// The checkpoint, and the keys that its extension lines name.
fn parse(text: &str) -> Result<(Checkpoint, VerifyingKey, VerifyingKey), NoteError> {
    let checkpoint = Checkpoint::parse(text)?;
    let mut extensions = text.lines().skip(3);
    let mut key = |name: &str| {
        let line = extensions.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.ok_or(NoteError::Malformed("it does not name the two keys"))?.parse::<VerifyingKey>()
    };
    let (previous, next) = (key("previous-key")?, key("next-key")?);
    match extensions.next() {
        None => Ok((checkpoint, previous, next)),
        Some(_) => Err(NoteError::Malformed("it says more than it should")),
    }
}
