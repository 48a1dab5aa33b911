//! Signed checkpoints: what the log commits to, in the formats of C2SP
//! [signed-note](https://c2sp.org/signed-note) and [tlog-checkpoint](https://c2sp.org/tlog-checkpoint), so that
//! third-party verifiers and witnesses can check them.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::Hash;

/// The signed-note algorithm byte of Ed25519.
const ED25519_NOTE: u8 = 0x01;

/// What a log had at one moment: so many entries, with this root. One line each: origin, size, root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's unique name, by convention a schema-less URL such as `gateway.example.com/audit`.
    pub origin: String,
    /// How many entries the log had.
    pub size: u64,
    /// The Merkle tree's root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The signed note: text, blank line, signature line.
    ///
    /// # Errors
    /// When the cryptographic library fails, which a healthy process never sees.
    pub fn sign(&self, key: &SigningKey) -> Result<String, NoteError> {
        let text = self.text();
        let line = key.sign(&text)?;
        Ok(format!("{text}\n{line}"))
    }

    /// The three lines that are signed.
    pub(crate) fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, self.root.to_base64())
    }

    /// Reads a signed note and checks that `key` signed it. Signatures of other keys (witnesses) are passed over, and
    /// extension lines are covered by the signature but not interpreted, as the specification asks.
    ///
    /// # Errors
    /// When the note is malformed, carries no signature of this key, or a wrong one.
    pub fn verify(note: &str, key: &VerifyingKey) -> Result<Self, NoteError> {
        let signed = Signed::parse(note)?;
        signed.verify(key)?;
        Self::parse(signed.text)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.lines();
        let mut line = || lines.next().filter(|line| !line.is_empty());
        let origin = line().ok_or(NoteError::Malformed("no origin line"))?.to_owned();
        let size = line().ok_or(NoteError::Malformed("no size line"))?;
        let canonical = size.bytes().all(|c| c.is_ascii_digit()) && (size == "0" || !size.starts_with('0'));
        let size =
            size.parse().ok().filter(|_| canonical).ok_or(NoteError::Malformed("the size is no number"))?;
        let root =
            line().and_then(Hash::from_base64).ok_or(NoteError::Malformed("the root is no SHA-256"))?;
        Ok(Self { origin, size, root })
    }
}

/// The longest note that is read, in bytes, and the most signatures: sixteen must be accepted, of nearly 5 kB each.
pub(crate) const MAX_NOTE: usize = 128 * 1024;
const MAX_SIGNATURES: usize = 32;

/// A signed note, taken apart and not believed yet.
pub(crate) struct Signed<'a> {
    /// What is signed, with its last newline.
    pub(crate) text: &'a str,
    pub(crate) signatures: Vec<Signature<'a>>,
}

/// One signature line.
pub(crate) struct Signature<'a> {
    pub(crate) name: &'a str,
    pub(crate) id: u32,
    /// What follows the key's ID.
    pub(crate) bytes: Vec<u8>,
    /// The line as it stands there, without its newline.
    pub(crate) line: &'a str,
}

impl<'a> Signed<'a> {
    pub(crate) fn parse(note: &'a str) -> Result<Self, NoteError> {
        if note.len() > MAX_NOTE {
            return Err(NoteError::Malformed("it is too long"));
        }
        if note.bytes().any(|c| c < b' ' && c != b'\n') {
            return Err(NoteError::Malformed("it has control characters in it"));
        }
        let split = note.rfind("\n\n").ok_or(NoteError::Malformed("no blank line before the signatures"))?;
        let (text, lines) = (&note[..=split], &note[split + 2..]);
        if lines.is_empty() || !lines.ends_with('\n') {
            return Err(NoteError::Malformed("no signature line"));
        }
        let signatures: Vec<_> = lines.lines().map(Signature::parse).collect::<Result<_, _>>()?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::Malformed("it has too many signatures"));
        }
        Ok(Self { text, signatures })
    }

    /// That this key signed it. Signatures of other keys are passed over.
    pub(crate) fn verify(&self, key: &VerifyingKey) -> Result<(), NoteError> {
        let mut signed = false;
        for signature in self.signatures.iter().filter(|line| key.is(line.name, line.id)) {
            verify(&key.public, self.text.as_bytes(), &signature.bytes)?;
            signed = true;
        }
        if signed { Ok(()) } else { Err(NoteError::Unsigned) }
    }
}

impl<'a> Signature<'a> {
    fn parse(line: &'a str) -> Result<Self, NoteError> {
        let (name, blob) = line
            .strip_prefix("— ")
            .and_then(|rest| rest.split_once(' '))
            .ok_or(NoteError::Malformed("a signature line is `— NAME BASE64`"))?;
        let blob = BASE64.decode(blob).map_err(|_| NoteError::Malformed("a signature is not base64"))?;
        let (id, bytes) =
            blob.split_first_chunk::<4>().ok_or(NoteError::Malformed("a signature is too short"))?;
        Ok(Self { name, id: u32::from_be_bytes(*id), bytes: bytes.to_vec(), line })
    }
}

pub(crate) fn verify(public: &[u8; 32], message: &[u8], signature: &[u8]) -> Result<(), NoteError> {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).map_err(|_| NoteError::WrongSignature)
}

/// A key's ID, as signed-note recommends: of its name, its type and itself.
pub(crate) fn key_id(name: &str, kind: u8, public: &[u8; 32]) -> Result<u32, NoteError> {
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+') {
        return Err(NoteError::Key(
            "a key's name has no spaces, control characters or plus signs, and is not empty",
        ));
    }
    let mut context = Context::new(&SHA256);
    context.update(name.as_bytes());
    context.update(&[b'\n', kind]);
    context.update(public);
    Ok(context.finish().as_ref().first_chunk().copied().map_or(0, u32::from_be_bytes))
}

/// `NAME+KEYID+BASE64`, for a key of this type.
pub(crate) fn write_vkey(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    id: u32,
    kind: u8,
    public: &[u8; 32],
) -> fmt::Result {
    let typed = [&[kind], public.as_slice()].concat();
    write!(f, "{name}+{id:08x}+{}", BASE64.encode(typed))
}

/// The name, ID and bytes of a key of this type.
pub(crate) fn parse_vkey(text: &str, kind: u8) -> Result<(String, u32, [u8; 32]), NoteError> {
    let mut parts = text.trim().splitn(3, '+');
    let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(NoteError::Key("a verifying key is `NAME+KEYID+BASE64`"));
    };
    let typed = BASE64.decode(key).map_err(|_| NoteError::Key("the key is not base64"))?;
    let public = match typed.split_first() {
        Some((found, public)) if *found == kind => {
            public.try_into().map_err(|_| NoteError::Key("not 32 bytes"))?
        }
        _ => return Err(NoteError::Key("not an Ed25519 key of this type")),
    };
    let expected = key_id(name, kind, &public)?;
    if format!("{expected:08x}") == id {
        Ok((name.to_owned(), expected, public))
    } else {
        Err(NoteError::Key("the key ID is not the key's"))
    }
}

/// Why a checkpoint was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// It is no signed note or no checkpoint.
    #[error("malformed checkpoint: {0}")]
    Malformed(&'static str),
    /// It has no signature of the expected key.
    #[error("the checkpoint carries no signature of this key")]
    Unsigned,
    /// It names the expected key, but the signature is not the key's.
    #[error("the checkpoint's signature is wrong")]
    WrongSignature,
    /// The key that signed it is one of the log's, but had been replaced by then.
    #[error("the checkpoint is signed by a key that had been replaced")]
    Retired,
    /// A key could not be parsed.
    #[error("malformed key: {0}")]
    Key(&'static str),
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Crypto,
}

/// The log's private key. `Debug` shows only the public half.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: VerifyingKey,
}

impl SigningKey {
    /// A new key, named `name` (a log uses its origin).
    ///
    /// # Errors
    /// When the name is empty or has a space or a plus sign in it, or no randomness can be had.
    pub fn generate(name: &str) -> Result<Self, NoteError> {
        Self::from_pair(name, Ed25519KeyPair::generate().map_err(|_| NoteError::Crypto)?)
    }

    /// The key in a PKCS#8 PEM file, as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    /// When it is no such file, or the name is unusable.
    pub fn from_pem(name: &str, pem: &str) -> Result<Self, NoteError> {
        let body: String = pem
            .trim()
            .strip_prefix(PEM_BEGIN)
            .and_then(|rest| rest.strip_suffix(PEM_END))
            .ok_or(NoteError::Key("not a PKCS#8 PEM private key"))?
            .split_ascii_whitespace()
            .collect();
        let der = BASE64.decode(body).map_err(|_| NoteError::Key("not a PKCS#8 PEM private key"))?;
        let pair = Ed25519KeyPair::from_pkcs8(&der)
            .or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der))
            .map_err(|_| NoteError::Key("not an Ed25519 private key"))?;
        Self::from_pair(name, pair)
    }

    /// The key as PKCS#8 PEM. Keep it as secret as it is.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn to_pem(&self) -> Result<String, NoteError> {
        let der = self.pair.to_pkcs8v1().map_err(|_| NoteError::Crypto)?;
        Ok(format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", BASE64.encode(der.as_ref())))
    }

    /// The public half, for whoever verifies.
    #[must_use]
    pub const fn verifying_key(&self) -> &VerifyingKey {
        &self.public
    }

    /// The signature line of this text, with its newline.
    pub(crate) fn sign(&self, text: &str) -> Result<String, NoteError> {
        let signature = self.pair.try_sign(text.as_bytes()).map_err(|_| NoteError::Crypto)?;
        let mut blob = self.public.id.to_be_bytes().to_vec();
        blob.extend_from_slice(signature.as_ref());
        Ok(format!("— {} {}\n", self.public.name, BASE64.encode(blob)))
    }

    fn from_pair(name: &str, pair: Ed25519KeyPair) -> Result<Self, NoteError> {
        let public = pair.public_key().as_ref().try_into().map_err(|_| NoteError::Crypto)?;
        Ok(Self { public: VerifyingKey::new(name, public)?, pair })
    }
}

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public).finish()
    }
}

/// A log's public key, written `NAME+KEYID+BASE64` (the vkey of C2SP signed-note and Go's `sumdb/note`).
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    name: String,
    id: u32,
    public: [u8; 32],
}

impl VerifyingKey {
    fn new(name: &str, public: [u8; 32]) -> Result<Self, NoteError> {
        Ok(Self { name: name.to_owned(), id: key_id(name, ED25519_NOTE, &public)?, public })
    }

    /// The key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is(&self, name: &str, id: u32) -> bool {
        self.name == name && self.id == id
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_vkey(f, &self.name, self.id, ED25519_NOTE, &self.public)
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifyingKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, id, public) = parse_vkey(text, ED25519_NOTE)?;
        Ok(Self { name, id, public })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "gateway.example.com/audit".into(), size: 42, root: Hash::of(b"root") }
    }

    #[test]
    fn a_published_note_verifies() {
        // The example of golang.org/x/mod/sumdb/note: its key and the signature line are not ours.
        let key: VerifyingKey =
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse().unwrap();
        let note = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n\
                    — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        // The signature is right, so what is wrong is only that the text is no checkpoint.
        assert_eq!(Checkpoint::verify(note, &key), Err(NoteError::Malformed("the size is no number")));
        assert_eq!(
            Checkpoint::verify(&note.replace("answer", "Answer"), &key),
            Err(NoteError::WrongSignature)
        );
    }

    #[test]
    fn keys_round_trip() {
        let key = SigningKey::generate("log.example").unwrap();
        let again = SigningKey::from_pem("log.example", &key.to_pem().unwrap()).unwrap();
        assert_eq!(again.verifying_key(), key.verifying_key());
        assert_eq!(key.verifying_key().to_string().parse::<VerifyingKey>().as_ref(), Ok(key.verifying_key()));
        assert!(!format!("{key:?}").contains("PRIVATE"));
        for name in ["", "a b", "a+b", "a\nb"] {
            assert!(SigningKey::generate(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn only_the_key_s_own_signature_counts() {
        let key = SigningKey::generate("log.example").unwrap();
        let witness = SigningKey::generate("witness.example").unwrap();
        let note = checkpoint().sign(&key).unwrap();
        assert_eq!(Checkpoint::verify(&note, key.verifying_key()), Ok(checkpoint()));
        assert_eq!(Checkpoint::verify(&note, witness.verifying_key()), Err(NoteError::Unsigned));
        let cosignature = checkpoint().sign(&witness).unwrap();
        let both = format!("{note}{}\n", cosignature.lines().last().unwrap());
        assert_eq!(Checkpoint::verify(&both, key.verifying_key()), Ok(checkpoint()));
        assert_eq!(Checkpoint::verify(&both, witness.verifying_key()), Ok(checkpoint()));
    }

    proptest! {
        #[test]
        fn any_change_is_noticed(at in any::<usize>(), with in any::<u8>()) {
            let key = SigningKey::generate("log.example").unwrap();
            let mut note = checkpoint().sign(&key).unwrap().into_bytes();
            let at = at % note.len();
            prop_assume!(note[at] != with);
            note[at] = with;
            if let Ok(note) = String::from_utf8(note) {
                prop_assert!(Checkpoint::verify(&note, key.verifying_key()).is_err());
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*(\n\\PC*){0,5}\n\n(— \\PC* [A-Za-z0-9+/=]*\n){0,2}") {
            let key = SigningKey::generate("log.example").unwrap();
            prop_assert!(Checkpoint::verify(&text, key.verifying_key()).is_err());
            let _ = text.parse::<VerifyingKey>();
        }
    }
}
