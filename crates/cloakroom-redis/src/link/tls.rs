//! TLS to a server: its certificate and name are always verified.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::fault::{Fault, chain};
use crate::options::TlsFiles;

/// Reads the files. The provider is named here, so that it does not matter which others the
/// application has compiled in or made the default.
pub(super) fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, Fault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::misconfigured(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots(files.ca.as_deref())?);
    let config = match &files.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain_of = certificates(certificate)?;
            let key_of = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unreadable(key, "the private key of the client certificate", &error))?;
            builder.with_client_auth_cert(chain_of, key_of).map_err(|error| {
                Fault::misconfigured(format!(
                    "the client certificate {} and the key {} do not go together: {error}",
                    certificate.display(),
                    key.display()
                ))
            })?
        }
    };
    Ok(Arc::new(config))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| unreadable(file, "an authority's certificate", &error))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err(Fault::misconfigured(
                    "the system has no certificate authorities (is the package ca-certificates installed?): install \
                     them, or name a file with `?ca=/path/of/ca.pem`",
                ));
            }
        }
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(Fault::misconfigured(format!("{} holds no certificate in PEM form", file.display())))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unreadable(file, "a certificate", &error)),
    }
}

fn unreadable(file: &Path, what: &str, error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::misconfigured(format!("{what} cannot be read from {}: {}", file.display(), chain(error)))
}
