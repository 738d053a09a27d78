//! TLS of one host: which authorities are trusted, and which certificate this node shows.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};

/// Certificates and keys as they were found in files. Read anew for each session, so that exchanged files count at
/// once; equal content leads to the same connections (see [`TlsMaterial::key`]).
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsMaterial {
    ca: Vec<(PathBuf, Vec<u8>)>,
    /// Certificate chain and key; the first pair that can be read is shown.
    client: Option<ClientPair>,
    pub(crate) skip_verify: bool,
}

#[derive(Clone, PartialEq, Eq)]
struct ClientPair {
    cert_path: PathBuf,
    cert: Vec<u8>,
    key_path: PathBuf,
    key: Vec<u8>,
}

impl std::fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsMaterial")
            .field("ca", &self.ca.iter().map(|(path, _)| path).collect::<Vec<_>>())
            .field("client", &self.client.as_ref().map(|pair| &pair.cert_path))
            .field("skip_verify", &self.skip_verify)
            .finish()
    }
}

impl TlsMaterial {
    /// Reads the files.
    pub(crate) fn read(ca: &[PathBuf], client: Option<(&Path, &Path)>, skip_verify: bool) -> Result<Self> {
        let ca = ca.iter().map(|path| Ok((path.clone(), read_file(path)?))).collect::<Result<Vec<_>>>()?;
        let client = match client {
            None => None,
            Some((cert_path, key_path)) => Some(ClientPair {
                cert: read_file(cert_path)?,
                cert_path: cert_path.to_owned(),
                key: read_file(key_path)?,
                key_path: key_path.to_owned(),
            }),
        };
        Ok(Self { ca, client, skip_verify })
    }

    /// For another host of the same owner (a token server, storage): the authorities only.
    pub(crate) fn authorities_only(&self) -> Self {
        Self { ca: self.ca.clone(), client: None, skip_verify: false }
    }

    /// Equal for equal content.
    pub(crate) fn key(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(&[u8::from(self.skip_verify)]);
        for (_, pem) in &self.ca {
            part(pem);
        }
        part(b"client");
        if let Some(pair) = &self.client {
            part(&pair.cert);
            part(&pair.key);
        }
        hash.finalize().into()
    }

    /// The configuration of rustls.
    pub(crate) fn build(&self) -> Result<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::config(format!("TLS cannot be set up: {e}")))?;
        let builder = if self.skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnything(provider)))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = certificates(&pair.cert_path, &pair.cert)?;
                let key = PrivateKeyDer::from_pem_slice(&pair.key).map_err(|e| {
                    Error::config(format!("{}: no private key in PEM form: {e}", pair.key_path.display()))
                })?;
                builder.with_client_auth_cert(chain, key).map_err(|e| {
                    Error::config(format!("{}: cannot be used as client certificate: {e}", pair.cert_path.display()))
                })?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = system_roots().clone();
        for (path, pem) in &self.ca {
            for cert in certificates(path, pem)? {
                roots.add(cert).map_err(|e| {
                    Error::config(format!("{}: not a usable certificate authority: {e}", path.display()))
                })?;
            }
        }
        if roots.is_empty() {
            return Err(Error::new(
                super::error::ErrorKind::Tls,
                "this machine has no certificate authorities: install the package ca-certificates, or set \"ca\" for the host",
            ));
        }
        Ok(roots)
    }
}

/// The machine's authorities, read once, when the first TLS connection is made.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a certificate authority of this machine cannot be read");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        roots
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::config(format!("{}: cannot be read: {e}", path.display())))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = |why: String| Error::config(format!("{}: {why}", path.display()));
    let certs = CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|e| wrong(format!("not PEM: {e}")))?;
    if certs.is_empty() {
        return Err(wrong("no certificate in it".to_owned()));
    }
    Ok(certs)
}

/// For `skip_verify`: the certificate is not looked at, the handshake's signature still is.
#[derive(Debug)]
struct AcceptAnything(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
