//! The key that signs grants: ES256, made at the first start, kept in one file.

use std::{
    fmt,
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// What is wrong with a key file. Never says what is in it.
#[derive(Debug, thiserror::Error)]
#[error("the signing key {path}: {problem}")]
pub struct KeyError {
    path: String,
    problem: String,
}

/// A P-256 key that signs and verifies grants (RFC 7518 §3.4). `Debug` prints its id only.
pub struct SigningKey {
    id: String,
    x: String,
    y: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl SigningKey {
    /// Reads the key from a PKCS#8 PEM file, or makes one there, readable by its owner only. Of several processes that find no
    /// file at the same moment, one makes it, and all have the same key.
    ///
    /// # Errors
    ///
    /// [`KeyError`] when the file cannot be read, made or understood, or can be read by others than its owner.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let wrong = |problem: &dyn fmt::Display| KeyError {
            path: path.display().to_string(),
            problem: problem.to_string(),
        };
        let pem = match read_private(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let pkcs8 = generate().map_err(|problem| wrong(&problem))?;
                match write_private(path, to_pem(&pkcs8).as_bytes()) {
                    // Another process was faster.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    written => written.map_err(|error| wrong(&error))?,
                }
                read_private(path)
            }
            read => read,
        };
        let pem = pem.map_err(|error| wrong(&error))?;
        let pkcs8 = from_pem(&pem).ok_or_else(|| wrong(&"is no PKCS#8 PEM file"))?;
        Self::from_pkcs8(&pkcs8).map_err(|problem| wrong(&problem))
    }

    /// A key that lives as long as the process: for tests and demos. After a restart, no grant of before is believed.
    ///
    /// # Errors
    ///
    /// [`KeyError`] when the system has no randomness.
    pub fn ephemeral() -> Result<Self, KeyError> {
        generate()
            .and_then(|pkcs8| Self::from_pkcs8(&pkcs8))
            .map_err(|problem| KeyError { path: "(in memory)".into(), problem: problem.into() })
    }

    /// The key's id: its JWK thumbprint (RFC 7638).
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public key as a JWK set (RFC 7517 §5), for others who want to verify grants.
    pub fn jwks(&self) -> Value {
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "x": self.x, "y": self.y, "kid": self.id, "alg": "ES256", "use": "sig",
        }]})
    }

    /// Whether the token says that this key signed it. Says nothing about whether it did.
    pub(crate) fn claims_to_have_signed(&self, token: &str) -> bool {
        jsonwebtoken::decode_header(token).is_ok_and(|header| header.kid.as_deref() == Some(&self.id))
    }

    pub(crate) fn sign(&self, claims: &impl Serialize) -> Result<String, jsonwebtoken::errors::Error> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some("at+jwt".into());
        header.kid = Some(self.id.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding)
    }

    /// The claims, if the signature is right. Times and audience are the caller's business: it has the clock.
    pub(crate) fn verify<T: DeserializeOwned>(&self, token: &str) -> Option<T> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let data = jsonwebtoken::decode::<T>(token, &self.decoding, &validation).ok()?;
        (data.header.typ.as_deref() == Some("at+jwt")).then_some(data.claims)
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, &'static str> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
            .map_err(|_| "is no P-256 key")?;
        // An uncompressed point: 0x04, x, y (SEC 1 §2.3.3).
        let (Some(x), Some(y)) =
            (pair.public_key().as_ref().get(1..33), pair.public_key().as_ref().get(33..65))
        else {
            return Err("has no uncompressed public key");
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let thumbprint = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let decoding = DecodingKey::from_ec_components(&x, &y).map_err(|_| "has no usable public key")?;
        Ok(Self {
            id: URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, thumbprint.as_bytes())),
            encoding: EncodingKey::from_ec_der(pkcs8),
            decoding,
            x,
            y,
        })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

fn generate() -> Result<Vec<u8>, &'static str> {
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map(|document| document.as_ref().to_vec())
        .map_err(|_| "no key could be made")
}

fn read_private(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "is no regular file"));
    }
    if metadata.mode() & 0o077 != 0 {
        let problem = "can be read by others than its owner, who may have forged grants; `chmod 600` it if you \
             are sure nobody did, or else remove it, which ends all grants";
        return Err(io::Error::new(ErrorKind::PermissionDenied, problem));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Puts a new file in its place whole and synced, or not at all; never over another.
fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let beside = directory.join(format!(".{}.new", uuid::Uuid::new_v4()));
    let linked = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::hard_link(&beside, path));
    // Whether it was written or not: it is of no more use.
    let _ = fs::remove_file(&beside);
    linked?;
    // The name must survive a power cut, too.
    File::open(directory)?.sync_all()
}

fn to_pem(pkcs8: &[u8]) -> String {
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(pkcs8))
}

fn from_pem(pem: &str) -> Option<Vec<u8>> {
    let body =
        pem.trim().strip_prefix("-----BEGIN PRIVATE KEY-----")?.strip_suffix("-----END PRIVATE KEY-----")?;
    STANDARD.decode(body.split_whitespace().collect::<String>()).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants.pem");
        let made = SigningKey::open(&path).unwrap();
        let token = made.sign(&json!({ "sub": "x" })).unwrap();
        let read = SigningKey::open(&path).unwrap();
        assert_eq!(made.id(), read.id());
        assert_eq!(read.verify::<Value>(&token).unwrap()["sub"], "x");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Nothing is left beside it.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::write(&path, "nonsense").unwrap();
        assert!(SigningKey::open(&path).unwrap_err().to_string().contains("grants.pem"));
        assert!(SigningKey::open(dir.path()).unwrap_err().to_string().contains("no regular file"));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants.pem");
        SigningKey::open(&path).unwrap();
        let before = fs::read(&path).unwrap();
        for (mode, accepted) in [(0o640, false), (0o604, false), (0o620, false), (0o400, true), (0o600, true)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match SigningKey::open(&path) {
                Ok(_) => assert!(accepted, "{mode:o}"),
                Err(error) => assert!(!accepted && error.to_string().contains("chmod 600"), "{error}"),
            }
            assert_eq!(fs::read(&path).unwrap(), before);
        }
    }

    #[test]
    fn of_several_that_make_the_key_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants.pem");
        let begin = std::sync::Barrier::new(8);
        let open = || {
            begin.wait();
            SigningKey::open(&path).unwrap().id
        };
        let ids: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // A file that is there is never written over.
        assert_eq!(write_private(&path, b"other").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(SigningKey::open(&path).unwrap().id, ids[0]);
    }

    #[test]
    fn only_what_this_key_signed_is_believed() {
        let (key, other) = (SigningKey::ephemeral().unwrap(), SigningKey::ephemeral().unwrap());
        let token = other.sign(&json!({ "sub": "x" })).unwrap();
        assert_eq!(key.verify::<Value>(&token), None);
        let mine = key.sign(&json!({ "sub": "x" })).unwrap();
        let (head, rest) = mine.split_once('.').unwrap();
        let (_, signature) = rest.split_once('.').unwrap();
        let forged = format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(r#"{"sub":"root"}"#));
        assert!(key.claims_to_have_signed(&forged));
        assert_eq!(key.verify::<Value>(&forged), None);
        // The same claims, signed by HMAC with the public key, or by nobody.
        for alg in ["HS256", "none"] {
            let head = json!({ "alg": alg, "typ": "at+jwt", "kid": key.id() }).to_string();
            let forged =
                format!("{}.{}.{signature}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode("{}"));
            assert_eq!(key.verify::<Value>(&forged), None);
        }
    }
}
