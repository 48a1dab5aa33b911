//! A certificate authority of one's own, for loopback.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{
    RootCertStore, ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::TestkitError;

/// A certificate authority that lives as long as the process: nothing of it is written anywhere. Clones share it.
#[derive(Clone)]
pub struct CertificateAuthority(Arc<Inner>);

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate, as PEM.
    pub certificate_pem: String,
    /// Its private key, as PEM (PKCS #8).
    pub key_pem: String,
}

impl CertificateAuthority {
    /// A new authority with a new key.
    ///
    /// # Errors
    ///
    /// [`TestkitError::Certificate`] if the system has no randomness to give.
    pub fn new(name: &str) -> Result<Self, TestkitError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let (pem, certificate) = (certificate.pem(), certificate.der().clone());
        Ok(Self(Arc::new(Inner { issuer: Issuer::new(params, key), certificate, pem })))
    }

    /// The authority's certificate, as PEM: what clients must trust.
    pub fn certificate_pem(&self) -> &str {
        &self.0.pem
    }

    /// The authority's certificate, as DER.
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.0.certificate
    }

    /// A server certificate for `names` (DNS names or IP addresses), as PEM: for a gateway that stands beside the doubles.
    ///
    /// # Errors
    ///
    /// [`TestkitError::Certificate`] for a name that is neither.
    pub fn issue_server(&self, names: &[&str]) -> Result<ClientCertificate, TestkitError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("localhost"));
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into()?),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Ok(self.sign(params)?.1)
    }

    /// A client certificate in Kubernetes' form: the user is the common name, the groups are organisations.
    pub(crate) fn issue_client(
        &self,
        user: &str,
        groups: &[&str],
    ) -> Result<(CertificateDer<'static>, ClientCertificate), TestkitError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        // rcgen keeps one value of each type, so several groups share one; the server that issued it knows them.
        if let Some(group) = groups.first() {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
    ) -> Result<(CertificateDer<'static>, ClientCertificate), TestkitError> {
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0.issuer)?;
        let pem = ClientCertificate { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() };
        Ok((certificate.der().clone(), pem))
    }

    /// What a loopback listener serves: HTTP/2 and HTTP/1.1; client certificates of this authority are asked for, not
    /// demanded.
    pub(crate) fn server_config(&self) -> Result<Arc<ServerConfig>, TestkitError> {
        let tls = |error: &dyn std::fmt::Display| TestkitError::Tls(error.to_string());
        let server = self.issue_server(&["127.0.0.1", "::1", "localhost"])?;
        let mut roots = RootCertStore::empty();
        roots.add(self.0.certificate.clone()).map_err(|error| tls(&error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|error| tls(&error))?;
        let (chain, key) = server.to_der()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| tls(&error))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .map_err(|error| tls(&error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority").finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// The same as DER, for rustls.
    ///
    /// # Errors
    ///
    /// [`TestkitError::Tls`] if the PEM was tampered with.
    pub fn to_der(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TestkitError> {
        use rustls_pki_types::pem::PemObject;
        let certificate = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes());
        match (certificate, key) {
            (Ok(certificate), Ok(key)) => Ok((vec![certificate], key)),
            _ => Err(TestkitError::Tls("not a certificate and key in PEM".into())),
        }
    }
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}
