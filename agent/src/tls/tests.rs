//! Certificates for tests, made as the operator makes them.

use rcgen::{CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use super::*;

/// A CA.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn files(&self, host: &str) -> Files {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Files {
            authority: self.0.pem().into_bytes(),
            certificate: certificate.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
        }
    }

    /// Writes the files as the mounted Secret has them.
    pub(crate) fn write(&self, directory: &Path, host: &str) {
        let files = self.files(host);
        for (name, bytes) in
            [("ca.crt", files.authority), ("tls.crt", files.certificate), ("tls.key", files.key)]
        {
            std::fs::write(directory.join(name), bytes).unwrap();
        }
    }
}

/// Credentials of a member with this name.
pub(crate) fn credentials(authority: &Authority, host: &str) -> Credentials {
    // Whichever test comes first installs it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    parse(&authority.files(host), Path::new("test")).unwrap()
}

/// Credentials of somebody who trusts `trusted`, but whose certificate is another CA's.
pub(crate) fn impostor(trusted: &Authority, host: &str) -> Credentials {
    let files = Files { authority: trusted.0.pem().into_bytes(), ..Authority::new().files(host) };
    parse(&files, Path::new("test")).unwrap()
}

#[tokio::test]
async fn a_rotation_is_taken_over_and_a_broken_one_is_not() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().unwrap();
    Authority::new().write(directory.path(), "db-0");
    let (mut rotation, mut credentials) = Rotation::start(directory.path()).await.unwrap();
    rotation.reread().await.unwrap();
    assert!(!credentials.has_changed().unwrap(), "nothing changed");
    std::fs::write(directory.path().join("tls.crt"), "half").unwrap();
    assert!(rotation.reread().await.is_err());
    assert!(!credentials.has_changed().unwrap(), "the earlier ones stay");
    Authority::new().write(directory.path(), "db-0");
    rotation.reread().await.unwrap();
    assert!(credentials.has_changed().unwrap());
    credentials.mark_unchanged();
}
