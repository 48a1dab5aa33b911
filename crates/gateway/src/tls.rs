//! The listener's TLS: rustls with aws-lc-rs, and certificates that are read again when their files change.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs::{default_provider, sign::any_supported_type},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// How often certificate files are looked at. Mounted Secrets are swapped by symlink, which file notifications miss.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is wrong with a certificate, key or authority file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// The file cannot be read, or is no PEM of the kind.
    #[error("{path}: {problem}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The parts do not make a server.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// A certificate and its key, on disk.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFiles {
    /// The chain, leaf first, PEM.
    pub(crate) certificate: PathBuf,
    /// The private key, PEM (PKCS#8, PKCS#1 or SEC1).
    pub(crate) key: PathBuf,
}

impl CertificateFiles {
    fn load(&self) -> Result<CertifiedKey, TlsError> {
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| file_error(&self.key, e))?;
        let key = any_supported_type(&key).map_err(|e| file_error(&self.key, e))?;
        let pair = CertifiedKey::new(chain, key);
        pair.keys_match().map_err(|e| file_error(&self.key, e))?;
        Ok(pair)
    }
}

/// The certificate in use; replaced whole when its files change into something valid.
#[derive(Debug)]
pub(crate) struct ReloadingCertificate {
    files: CertificateFiles,
    current: ArcSwap<CertifiedKey>,
}

impl ReloadingCertificate {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`TlsError`] naming the file that is wrong.
    pub(crate) fn open(files: CertificateFiles) -> Result<Arc<Self>, TlsError> {
        let pair = files.load()?;
        Ok(Arc::new(Self { files, current: ArcSwap::from_pointee(pair) }))
    }

    /// Looks at the files for ever, and takes what is new and valid. What is not valid is logged; the old one stays.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.reload();
        }
    }

    fn reload(&self) {
        match self.files.load() {
            Ok(pair) if pair.cert != self.current.load().cert => {
                tracing::info!(file = %self.files.certificate.display(), "certificate replaced");
                self.current.store(Arc::new(pair));
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "certificate not replaced; the one in use stays"),
        }
    }
}

impl ResolvesServerCert for ReloadingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// A TLS configuration for the listener: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
///
/// With `client_authority`, clients *may* show a certificate signed by it (grants can be bound to it, RFC 8705).
///
/// # Errors
///
/// [`TlsError`] when the authority file is wrong.
pub(crate) fn server_config(
    certificate: Arc<ReloadingCertificate>,
    client_authority: Option<&Path>,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match client_authority {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|e| file_error(path, e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|e| file_error(path, e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificates of a PEM file; at least one.
///
/// # Errors
///
/// [`TlsError`] naming the file.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|e| file_error(path, e))?
        .collect::<Result<_, _>>()
        .map_err(|e| file_error(path, e))?;
    if found.is_empty() {
        return Err(file_error(path, "no certificate in it"));
    }
    Ok(found)
}

fn file_error(path: &Path, problem: impl ToString) -> TlsError {
    TlsError::File { path: path.to_owned(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(files: &CertificateFiles, name: &str) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    }

    #[test]
    fn a_new_certificate_is_taken_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let files =
            CertificateFiles { certificate: dir.path().join("tls.crt"), key: dir.path().join("tls.key") };
        write(&files, "one");
        let reloading = ReloadingCertificate::open(files.clone()).unwrap();
        let first = reloading.current.load_full();

        std::fs::write(&files.certificate, "nonsense").unwrap();
        reloading.reload();
        assert_eq!(reloading.current.load().cert, first.cert);

        write(&files, "two");
        reloading.reload();
        assert_ne!(reloading.current.load().cert, first.cert);
    }

    #[test]
    fn a_key_of_another_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let files =
            CertificateFiles { certificate: dir.path().join("tls.crt"), key: dir.path().join("tls.key") };
        write(&files, "one");
        let other = CertificateFiles { certificate: dir.path().join("b.crt"), key: dir.path().join("b.key") };
        write(&other, "two");
        let mixed = CertificateFiles { certificate: files.certificate, key: other.key };
        assert!(ReloadingCertificate::open(mixed).unwrap_err().to_string().contains("b.key"));
    }
}
