//! Proofs that leave the machine.

use super::*;
use crate::{Proof, ProofError, SigningKey};

fn key(dir: &Path) -> crate::VerifyingKey {
    fs::read_to_string(dir.join("key.pub")).unwrap().parse().unwrap()
}

#[test]
fn a_record_is_proven_without_the_log() {
    let dir = written(300);
    let key = key(dir.path());
    for index in [0, 1, 255, 256, 299] {
        let text = Reader::new(dir.path()).prove(index).unwrap().to_string();
        assert!(text.starts_with("c2sp.org/tlog-proof@v1\nextra "), "{text}");
        let proof: Proof = text.parse().unwrap();
        assert_eq!((proof.index, &proof.record), (index, &record(index)));
        assert_eq!(proof.verify(&key).unwrap().size, 300);
        assert_eq!(proof.to_string(), text);
    }
    let error = Reader::new(dir.path()).prove(300).unwrap_err();
    assert!(matches!(error, ReadError::Io { .. }), "{error}");
    let proof = Reader::new(dir.path()).prove(7).unwrap();
    let other = SigningKey::generate(ORIGIN).unwrap();
    assert!(matches!(proof.verify(other.verifying_key()), Err(ProofError::Checkpoint(_))));
    let mut moved = proof.clone();
    moved.index = 8;
    assert_eq!(moved.verify(&key), Err(ProofError::NotIncluded));
}

#[test]
fn nothing_is_proven_of_a_log_that_is_not_what_it_was() {
    let dir = written(300);
    rewrite(&dir.path().join("tile/0/000"), |bytes| bytes[0] ^= 1);
    let reader = Reader::new(dir.path());
    // The hash of record 0 is no part of its own proof, but of its neighbour's.
    reader.prove(0).unwrap();
    assert!(reader.prove(1).unwrap_err().to_string().contains("do not fit together"));
}

#[test]
fn malformed_proofs_say_what_is_wrong() {
    let dir = written(3);
    let good = Reader::new(dir.path()).prove(1).unwrap().to_string();
    let check = |from: &str, to: &str, why: &str| {
        let error = good.replacen(from, to, 1).parse::<Proof>().unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    };
    check("@v1", "@v2", "does not begin with");
    check("extra ", "other ", "no `extra` line");
    check("index 1", "index 01", "no number");
    check("index 1", "at 1", "no `index` line");
    check("index 1\n", "index 1\nAAAA\n", "no SHA-256");
    let many = format!("index 1\n{}", format!("{}\n", Hash::of(b"x").to_base64()).repeat(65));
    check("index 1\n", &many, "too many hashes");
    assert!("".parse::<Proof>().is_err());
    assert!("x".repeat(1_000_000).parse::<Proof>().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_changed_character_of_a_proof_is_noticed(at in any::<usize>(), with in any::<u8>()) {
        static GOOD: std::sync::LazyLock<(String, crate::VerifyingKey)> = std::sync::LazyLock::new(|| {
            let dir = written(300);
            (Reader::new(dir.path()).prove(123).unwrap().to_string(), key(dir.path()))
        });
        let (good, key) = &*GOOD;
        let mut bytes = good.clone().into_bytes();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != with);
        bytes[at] = with;
        let proof = String::from_utf8(bytes).ok().and_then(|text| text.parse::<Proof>().ok());
        prop_assert!(proof.is_none_or(|proof| proof.verify(key).is_err()));
    }

    #[test]
    fn arbitrary_proofs_never_panic(text in "c2sp.org/tlog-proof@v1\n(extra [A-Za-z0-9+/]{0,12}\n)?index [0-9]{0,30}\n([A-Za-z0-9+/]{43}=\n){0,3}\n\\PC*") {
        if let Ok(proof) = text.parse::<Proof>() {
            prop_assert_eq!(proof.to_string(), text);
        }
    }
}
