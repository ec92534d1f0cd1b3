//! The certificate of a TLS server, read again when its files change: a renewed Secret needs no restart.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::telemetry::chain;

/// How often the files are looked at.
const REREAD: Duration = Duration::from_secs(10);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("could not read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should, in PEM form.
    #[error("could not find {what} in {path}", path = path.display())]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The key cannot sign, or is not the certificate's.
    #[error("could not use the private key in {path} with the certificate", path = path.display())]
    Key {
        /// The key's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The TLS library refuses the settings.
    #[error("could not set up TLS")]
    Setup(#[from] rustls::Error),
}

/// A server's certificate and private key, from two PEM files. Clones are the same thing.
#[derive(Clone)]
pub struct Certificate {
    config: Arc<ServerConfig>,
    current: Arc<Current>,
    files: Files,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("certificate", &self.files.certificate)
            .field("key", &self.files.key)
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

struct Current(RwLock<Loaded>);

struct Loaded {
    pair: Arc<CertifiedKey>,
    text: (Vec<u8>, Vec<u8>),
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.0.read().unwrap_or_else(PoisonError::into_inner).pair,
        ))
    }
}

impl Certificate {
    /// Reads the certificate chain, leaf first, and its key.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let files = Files {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        };
        let text = files.text()?;
        Self::of(files, text)
    }

    /// Takes a certificate chain, leaf first, and its key as PEM texts that are in no file; [`replace`](Self::replace) renews it.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn of_pem(certificate: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let files = Files {
            certificate: PathBuf::from("the given certificate"),
            key: PathBuf::from("the given key"),
        };
        Self::of(files, (certificate.to_vec(), key.to_vec()))
    }

    /// Serves another certificate from now on.
    ///
    /// # Errors
    /// [`CertificateError`]; the certificate before stays in use.
    pub fn replace(&self, certificate: &[u8], key: &[u8]) -> Result<(), CertificateError> {
        self.take((certificate.to_vec(), key.to_vec()))
    }

    fn of(files: Files, text: (Vec<u8>, Vec<u8>)) -> Result<Self, CertificateError> {
        let pair = Arc::new(files.pair(&text)?);
        let current = Arc::new(Current(RwLock::new(Loaded { pair, text })));
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Current>::clone(&current);
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            current,
            files,
        })
    }

    /// Looks whether the files have changed, and takes them over if they are in order; true if it did.
    ///
    /// # Errors
    /// [`CertificateError`]; the certificate that was read before stays in use.
    pub fn refresh(&self) -> Result<bool, CertificateError> {
        let text = self.files.text()?;
        if self.current.0.read().unwrap_or_else(PoisonError::into_inner).text == text {
            return Ok(false);
        }
        self.take(text)?;
        Ok(true)
    }

    fn take(&self, text: (Vec<u8>, Vec<u8>)) -> Result<(), CertificateError> {
        let pair = Arc::new(self.files.pair(&text)?);
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = Loaded { pair, text };
        Ok(())
    }

    /// Keeps the certificate as its files are, until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        let mut last_error = String::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(REREAD) => {}
                () = stop.cancelled() => return,
            }
            match self.refresh() {
                Ok(true) => {
                    last_error.clear();
                    tracing::info!(file = %self.files.certificate.display(), "Read the renewed certificate");
                }
                Ok(false) => last_error.clear(),
                Err(error) => {
                    let error = chain(&error);
                    // Half of a renewal can be seen between its two files; what stays wrong is told once.
                    if error != last_error {
                        tracing::warn!(error = %error, "Could not read the certificate again; the one before stays in use");
                        last_error = error;
                    }
                }
            }
        }
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

impl Files {
    fn text(&self) -> Result<(Vec<u8>, Vec<u8>), CertificateError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| CertificateError::Read {
                path: path.to_owned(),
                source,
            })
        };
        Ok((read(&self.certificate)?, read(&self.key)?))
    }

    fn pair(&self, (certificate, key): &(Vec<u8>, Vec<u8>)) -> Result<CertifiedKey, CertificateError> {
        let missing = |what, path: &Path, source| CertificateError::Pem {
            what,
            path: path.to_owned(),
            source,
        };
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .and_then(|chain| {
                if chain.is_empty() {
                    Err(pem::Error::NoItemsFound)
                } else {
                    Ok(chain)
                }
            })
            .map_err(|source| missing("a certificate", &self.certificate, source))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|source| missing("a private key", &self.key, source))?;
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|source| {
            CertificateError::Key {
                path: self.key.clone(),
                source,
            }
        })
    }
}
