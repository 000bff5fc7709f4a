//! A certificate authority of one's own, and a server certificate from it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::error::{Context as _, Result};
use crate::place::Place;
use crate::programs::{program, run};

/// A certificate for `localhost`, `127.0.0.1` and `::1`, signed by an authority that exists for it
/// alone. Nothing else trusts that authority, so a client that connects has checked it.
#[derive(Debug)]
pub struct Certificates {
    directory: PathBuf,
    // Removed with the value, unless it is in the directory of a server.
    _place: Option<Place>,
}

impl Certificates {
    /// Makes both, in a directory that goes when the value is dropped.
    ///
    /// # Errors
    ///
    /// When `openssl` is missing or refuses.
    pub fn create() -> Result<Self> {
        let place = Place::new("certificates")?;
        let made = Self::inside(&place)?;
        Ok(Self { _place: Some(place), ..made })
    }

    /// As [`Certificates::create`], for the server at `place` to keep.
    pub(crate) fn inside(place: &Place) -> Result<Self> {
        let directory = place.subdirectory("certificates")?;
        fs::write(directory.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\n")
            .context(|| "cannot write the names for a certificate".to_owned())?;
        let openssl = program("openssl")?;
        let ask = |line: &str| {
            let mut command = Command::new(&openssl);
            run(command.current_dir(&directory).args(line.split_whitespace()))
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        ask(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 30 -subj /CN=cloakroom-tests"))?;
        ask(&format!("req {key} -keyout server.key -out request -subj /CN=localhost"))?;
        ask("x509 -req -in request -CA ca.pem -CAkey ca.key -days 30 -extfile names -out server.pem")?;
        for file in ["server.pem", "server.key"] {
            place.own(&directory.join(file))?;
        }
        Ok(Self { directory, _place: None })
    }

    /// The authority's certificate, for clients.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The server's certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("server.pem")
    }

    /// The server's private key.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.directory.join("server.key")
    }
}
