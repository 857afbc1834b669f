//! Certificates of authorities that only a test knows.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A CA in a folder of its own.
pub struct Authority {
    dir: PathBuf,
}

/// Where a certificate and its key are.
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Identity {
    fn in_folder(dir: &Path, name: &str) -> Self {
        Self {
            cert: dir.join(format!("{name}.crt")),
            key: dir.join(format!("{name}.key")),
        }
    }
}

impl Authority {
    /// A new one, in this folder.
    pub fn new(dir: PathBuf) -> Self {
        std::fs::create_dir(&dir).unwrap();
        let this = Self { dir };
        this.make("ca", &["-addext", "keyUsage=critical,keyCertSign"]);
        this
    }

    /// The file with its own certificate.
    pub fn cert(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// A certificate for a server or a client of these names, such as `DNS:vault.example` or `IP:127.0.0.1`.
    pub fn issue(&self, name: &str, alternative: &str) -> Identity {
        let ca = Identity::in_folder(&self.dir, "ca");
        self.make(
            name,
            &[
                "-CA",
                ca.cert.to_str().unwrap(),
                "-CAkey",
                ca.key.to_str().unwrap(),
                "-addext",
                &format!("subjectAltName={alternative}"),
                "-addext",
                "basicConstraints=critical,CA:FALSE",
            ],
        );
        Identity::in_folder(&self.dir, name)
    }

    fn make(&self, name: &str, more: &[&str]) {
        let made = Identity::in_folder(&self.dir, name);
        let output = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "30", "-subj", &format!("/CN={name}")])
            .args(more)
            .args([
                "-keyout",
                made.key.to_str().unwrap(),
                "-out",
                made.cert.to_str().unwrap(),
            ])
            .output()
            .expect("openssl runs");
        assert!(
            output.status.success(),
            "openssl: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
