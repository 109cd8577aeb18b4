//! What configurations come to, and what is on the wire to each of the providers.

use super::*;
use crate::archive::age::tests::FIRST;

mod amazon;
mod azure;
mod google;
pub(crate) mod service;

fn config(destination: &str) -> ArchiveConfig {
    ArchiveConfig {
        destination: destination.to_owned(),
        endpoint: None,
        region: None,
        path_style: false,
        allow_http: false,
        custom_ca: false,
        server_side_encryption: None,
        encrypted: false,
    }
}

fn prefix(destination: &str) -> Result<String, DestinationError> {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let key = Credentials(BTreeMap::from([
        ("accountKey".to_owned(), "c2VjcmV0".to_owned()),
        ("accessKeyId".to_owned(), "id".to_owned()),
        ("secretAccessKey".to_owned(), "secret".to_owned()),
    ]));
    open(&config(destination), &key).map(|(_, prefix)| prefix.to_string())
}

#[test]
fn the_prefix_is_what_follows_the_bucket() {
    assert_eq!(prefix("s3://bucket/a/b/").unwrap(), "a/b");
    assert_eq!(prefix("s3://bucket").unwrap(), "");
    assert_eq!(prefix("gs://bucket/a").unwrap(), "a");
    assert_eq!(prefix("az://account/container/a/b").unwrap(), "a/b");
    assert_eq!(prefix("file:///tmp").unwrap(), "");
}

#[test]
fn other_destinations_are_refused() {
    for text in ["", "bucket", "s3:///a", "az://account", "file://host/a", "file:///", "https://a/b"] {
        assert!(matches!(prefix(text), Err(DestinationError::Form(_))), "{text:?}");
    }
}

#[test]
fn a_promised_authority_must_be_there() {
    let promised = ArchiveConfig { custom_ca: true, ..config("s3://bucket") };
    assert!(matches!(open(&promised, &Credentials::default()), Err(DestinationError::Authority)));
}

#[test]
fn nothing_is_opened_plainly_that_is_to_be_encrypted() {
    let encrypted = ArchiveConfig { encrypted: true, ..config("file:///tmp") };
    let with = |text: &str| {
        let files = BTreeMap::from([(IDENTITIES_FILE.to_owned(), text.to_owned())]);
        open(&encrypted, &Credentials(files)).map(|(store, _)| store.encrypts())
    };
    assert!(matches!(open(&encrypted, &Credentials::default()), Err(DestinationError::NoIdentities)));
    assert!(matches!(with(""), Err(DestinationError::NoIdentities)));
    assert!(matches!(with("secret"), Err(DestinationError::Identities(InvalidIdentities::Line(1)))));
    assert!(with(FIRST).unwrap());
    let plain = open(&config("file:///tmp"), &Credentials::default()).unwrap().0;
    assert!(!plain.encrypts());
}

#[test]
fn credentials_are_files_without_what_kubernetes_keeps_beside_them() {
    let directory = tempfile::tempdir().unwrap();
    assert!(Credentials::read(&directory.path().join("absent")).unwrap() == Credentials::default());
    fs::write(directory.path().join("accessKeyId"), "id\n").unwrap();
    fs::create_dir(directory.path().join("..2026")).unwrap();
    fs::write(directory.path().join("..data"), "x").unwrap();
    let read = Credentials::read(directory.path()).unwrap();
    assert_eq!((read.get("accessKeyId"), read.0.len()), (Some("id"), 1));
}
