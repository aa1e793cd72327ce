//! TLS for a Postgres session: rustls on ring, with the roots that the system trusts.
//! Called by `session` before it connects. Reads no file that a caller names.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::dsn::Tls;

/// Where distributions keep the certificates they trust; the first that exists is read.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A connector for this mode. `extra_roots` are trusted beside the system's (`VerifyFull` only).
///
/// # Errors
/// A sentence for [`super::PostgresError::Tls`], when there are no roots to verify with.
pub(super) fn connector(
    tls: Tls,
    extra_roots: &[CertificateDer<'static>],
) -> Result<MakeRustlsConnect, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = if tls == Tls::VerifyFull {
        builder
            .with_root_certificates(roots(extra_roots)?)
            .with_no_client_auth()
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified { provider }))
            .with_no_client_auth()
    };
    Ok(MakeRustlsConnect::new(config))
}

/// The certificates in a PEM text.
///
/// # Errors
/// A sentence when it holds none, or one that cannot be read.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("the PEM text holds no certificate".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("the PEM text cannot be read: {error}")),
    }
}

fn roots(extra: &[CertificateDer<'static>]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    if let Some(bundle) = SYSTEM_BUNDLES
        .iter()
        .map(Path::new)
        .find(|bundle| bundle.is_file())
    {
        let pem = std::fs::read(bundle)
            .map_err(|error| format!("the system's certificates cannot be read: {error}"))?;
        store.add_parsable_certificates(certificates(&pem)?);
    }
    for root in extra {
        store
            .add(root.clone())
            .map_err(|error| format!("a root cannot be used: {error}"))?;
    }
    if store.is_empty() {
        return Err(
            "the system has no trusted certificates (package `ca-certificates`)".to_owned(),
        );
    }
    Ok(store)
}

/// Encrypts without knowing to whom, as libpq's `prefer` and `require` do. The handshake's
/// signatures are still checked, so that the session belongs to the certificate shown.
#[derive(Debug)]
struct Unverified {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
