//! TLS of the listener: certificates by the name that a client asks for, and certificates of clients.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};

use crate::settings::TlsSettings;

/// The certificate of a client, which the configured authorities vouch for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub fingerprint: String,
    /// Names of hosts in it.
    pub names: Vec<String>,
}

impl ClientCertificate {
    pub fn of(certificate: &CertificateDer<'_>) -> ClientCertificate {
        let fingerprint = Sha256::digest(certificate).iter().map(|b| format!("{b:02x}")).collect();
        ClientCertificate { fingerprint, names: names(certificate) }
    }
}

fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    parsed.map(|c| c.valid_dns_names().map(str::to_ascii_lowercase).collect()).unwrap_or_default()
}

/// Reads everything that TLS needs.
///
/// # Errors
/// What cannot be read, or does not fit.
pub(crate) fn server(settings: &TlsSettings) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificates = Certificates::read(settings, &provider)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be set up: {e}"))?;
    let builder = match &settings.client_ca {
        None if settings.client_required => return Err("`client_required` needs `client_ca`".into()),
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in chain(path)? {
                roots.add(certificate).map_err(|e| format!("{}: {e}", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if settings.client_required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|e| format!("{}: {e}", path.display()))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Certificates by the names in them.
#[derive(Debug)]
struct Certificates {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    /// For clients that ask for no name, or for one that is not there.
    first: Arc<CertifiedKey>,
}

impl Certificates {
    fn read(settings: &TlsSettings, provider: &CryptoProvider) -> Result<Certificates, String> {
        let mut by_name = HashMap::new();
        let mut first = None;
        for pair in &settings.certificates {
            let chain = chain(&pair.certificate)?;
            let names = chain.first().map(names).unwrap_or_default();
            let certified = CertifiedKey::from_der(chain, key(&pair.key)?, provider)
                .map_err(|e| format!("{} and {}: {e}", pair.certificate.display(), pair.key.display()))?;
            let certified = Arc::new(certified);
            first.get_or_insert_with(|| certified.clone());
            for name in names {
                by_name.entry(name).or_insert_with(|| certified.clone());
            }
        }
        let first = first.ok_or("`certificates` is empty")?;
        Ok(Certificates { by_name, first })
    }

    fn of(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let name = name.unwrap_or_default().to_ascii_lowercase();
        let below = || name.split_once('.').and_then(|(_, parent)| self.by_name.get(&format!("*.{parent}")));
        self.by_name.get(&name).or_else(below).unwrap_or(&self.first).clone()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.of(hello.server_name()))
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fail = |why: String| format!("{}: {why}", path.display());
    let pem = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let certificates: Result<Vec<_>, _> = rustls_pemfile::certs(&mut pem.as_slice()).collect();
    let certificates = certificates.map_err(|e| fail(e.to_string()))?;
    if certificates.is_empty() { Err(fail("it holds no certificate in PEM".into())) } else { Ok(certificates) }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let fail = |why: String| format!("{}: {why}", path.display());
    let pem = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let key = rustls_pemfile::private_key(&mut pem.as_slice()).map_err(|e| fail(e.to_string()))?;
    key.ok_or_else(|| fail("it holds no private key in PEM".into()))
}
