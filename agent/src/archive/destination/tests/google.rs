//! Google Cloud Storage: tokens that a service account signs itself.

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use jiff::Timestamp;
use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};

use super::{
    super::*,
    service::{Provider, Service},
};

/// Made for these tests: `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048`.
const KEY: &[u8] = include_bytes!("service_account.der");

/// A key as `gcloud iam service-accounts keys create` writes it.
fn account() -> String {
    let key =
        format!("-----BEGIN {0}-----\n{1}\n-----END {0}-----\n", "PRIVATE KEY", BASE64_STANDARD.encode(KEY));
    json!({
        "type": "service_account", "project_id": "project", "private_key_id": "key 1", "private_key": key,
        "client_email": "backups@project.iam.gserviceaccount.com", "client_id": "1",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth", "token_uri": "https://oauth2.googleapis.com/token",
    })
    .to_string()
}

/// What a token says that this key signed.
fn verified(token: &str) -> (Value, Value) {
    let (text, signature) = token.rsplit_once('.').unwrap();
    let key = RsaKeyPair::from_pkcs8(KEY).unwrap();
    let decoded = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key())
        .verify(text.as_bytes(), &decoded(signature))
        .expect("another key signed it");
    let (header, claims) = text.split_once('.').unwrap();
    let read = |text: &str| serde_json::from_slice(&decoded(text)).unwrap();
    (read(header), read(claims))
}

#[tokio::test]
async fn what_google_answers_is_understood() {
    let service = Service::of(Provider::Google).await;
    service.is_understood(&service.credentials(&[("serviceAccount.json", &account())])).await;
}

/// Google takes such a token itself: no other service has to be asked for one.
#[tokio::test]
async fn requests_carry_a_token_that_the_account_signed() {
    let service = Service::of(Provider::Google).await;
    let credentials = service.credentials(&[("serviceAccount.json", &account())]);
    let (store, prefix) = open(&service.config("bucket"), &credentials).unwrap();
    let asked = service.put(&store).await;
    assert_eq!(asked.path(), "/bucket/prefix/a%20b");
    assert_eq!(asked.header("x-goog-if-generation-match"), "0");
    let (header, claims) = verified(asked.header("authorization").strip_prefix("Bearer ").unwrap());
    assert_eq!((&header["alg"], &header["kid"]), (&json!("RS256"), &json!("key 1")));
    for name in ["iss", "sub"] {
        assert_eq!(claims[name], "backups@project.iam.gserviceaccount.com", "{name}");
    }
    assert_eq!(claims["scope"], "https://www.googleapis.com/auth/cloud-platform");
    let now = Timestamp::now().as_second();
    assert!((now - 60..=now).contains(&claims["iat"].as_i64().unwrap()), "{claims}");
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3600);

    store.put(&prefix.join("b"), b"contents".to_vec()).await.unwrap();
    assert_eq!(service.last().header("x-goog-if-generation-match"), "");
}

#[test]
fn a_key_that_is_none_is_told_without_it() {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let cut = account().replace("PRIVATE KEY", "SECRET");
    let credentials = Credentials(BTreeMap::from([("serviceAccount.json".to_owned(), cut)]));
    let error = open(&super::config("gs://bucket"), &credentials).map(drop).unwrap_err();
    let said = crate::chain::Chain(&error).to_string();
    assert!(said.contains("cannot use the destination") && !said.contains("MII"), "{said}");
}
