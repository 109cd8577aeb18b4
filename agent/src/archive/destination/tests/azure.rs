//! Azure: the key of the account, and the identity of a workload.

use std::collections::BTreeSet;

use axum::http::HeaderName;
use base64::{Engine, prelude::BASE64_STANDARD};
use ring::hmac::{HMAC_SHA256, Key, sign};

use super::{
    super::*,
    service::{Asked, Provider, Service},
};

/// "secret" as Azure shows keys.
const KEY: [(&str, &str); 1] = [("accountKey", "c2VjcmV0")];

/// What the authorization of a request with this key is ("Authorize with Shared Key").
fn shared_key(asked: &Asked, key: &[u8]) -> String {
    let of = |name: &str| match (name, asked.header(name)) {
        ("content-length", "0") => String::new(),
        (_, value) => value.to_owned(),
    };
    let standard = [
        "content-encoding",
        "content-language",
        "content-length",
        "content-md5",
        "content-type",
        "date",
        "if-modified-since",
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "range",
    ]
    .map(of)
    .join("\n");
    let own: BTreeSet<_> = asked.headers.keys().map(HeaderName::as_str).collect();
    let own = asked.lines(own.into_iter().filter(|name| name.starts_with("x-ms-")));
    let text = format!("{}\n{standard}\n{own}/account{}", asked.method, asked.uri.path());
    let signature = sign(&Key::new(HMAC_SHA256, key), text.as_bytes());
    format!("SharedKey account:{}", BASE64_STANDARD.encode(signature))
}

#[tokio::test]
async fn what_azure_answers_is_understood() {
    let service = Service::of(Provider::Azure).await;
    service.is_understood(&service.credentials(&KEY)).await;
}

#[tokio::test]
async fn requests_are_signed_with_the_key_of_the_account() {
    let service = Service::of(Provider::Azure).await;
    let (store, prefix) = open(&service.config("bucket"), &service.credentials(&KEY)).unwrap();
    let asked = service.put(&store).await;
    assert_eq!(asked.uri.path(), "/bucket/prefix/a%20b");
    assert_eq!((asked.header("x-ms-blob-type"), asked.header("if-none-match")), ("BlockBlob", "*"));
    assert_eq!(asked.header("authorization"), shared_key(&asked, b"secret"));
    assert_ne!(asked.header("authorization"), shared_key(&asked, b"other"));
    store.put(&prefix.clone().join("b"), b"contents".to_vec()).await.unwrap();
    assert_eq!(service.last().header("if-none-match"), "");
    store.get(&prefix.join("b")).await.unwrap().expect("it was written");
    assert_eq!(service.last().header("authorization"), shared_key(&service.last(), b"secret"));
}

/// With what AKS puts into the environment of a pod.
#[tokio::test]
async fn without_a_key_the_identity_of_the_workload_is_used() {
    let service = Service::of(Provider::Azure).await;
    service.tells("/tenant/oauth2/v2.0/token", r#"{"access_token": "for an hour", "expires_in": 3599}"#);
    let token = tempfile::NamedTempFile::new().unwrap();
    fs::write(token.path(), "a.pod.token").unwrap();
    let environment = [
        ("AZURE_CLIENT_ID", "client".to_owned()),
        ("AZURE_TENANT_ID", "tenant".to_owned()),
        ("AZURE_FEDERATED_TOKEN_FILE", token.path().to_str().unwrap().to_owned()),
        ("AZURE_AUTHORITY_HOST", format!("{}/", service.url())),
    ];
    let builder = environment.into_iter().fold(MicrosoftAzureBuilder::new(), |builder, (name, value)| {
        builder.with_config(name.to_ascii_lowercase().parse().unwrap(), value)
    });
    let (config, credentials) = (service.config("bucket"), service.credentials(&[]));
    let store = Store::new(azure(builder, &config, &credentials, "account", "bucket").unwrap());
    let asked = service.put(&store).await;
    assert_eq!(asked.header("authorization"), "Bearer for an hour");
    let [question] = &service.asked_at("/tenant/oauth2/v2.0/token")[..] else { panic!("asked once") };
    let parameters: BTreeMap<_, _> = url::form_urlencoded::parse(&question.body).into_owned().collect();
    assert_eq!(parameters["client_id"], "client");
    assert_eq!(parameters["client_assertion"], "a.pod.token");
    assert_eq!(parameters["scope"], "https://storage.azure.com/.default");
}

#[test]
fn a_key_that_is_none_is_told_without_it() {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let credentials = Credentials(BTreeMap::from([("accountKey".to_owned(), "not base64".to_owned())]));
    let error = open(&super::config("az://account/bucket"), &credentials).map(drop).unwrap_err();
    let said = crate::chain::Chain(&error).to_string();
    assert!(said.contains("Invalid Access Key") && !said.contains("not base64"), "{said}");
}
