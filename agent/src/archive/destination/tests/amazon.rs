//! S3: signatures, encryption by the store, and the role of a pod.

use axum::http::StatusCode;
use ring::{
    digest::{SHA256, digest},
    hmac::{HMAC_SHA256, Key, sign},
};

use super::{
    super::*,
    service::{Asked, Provider, Service},
};
use crate::archive::{
    hexadecimal,
    store::{StoreError, Written},
};

const KEYS: [(&str, &str); 2] = [("accessKeyId", "AKIA1"), ("secretAccessKey", "secret")];
const ENCRYPTION: &str = "x-amz-server-side-encryption";
const ENCRYPTION_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";

fn sha256(text: &[u8]) -> String {
    hexadecimal(digest(&SHA256, text).as_ref())
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    sign(&Key::new(HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// What the authorization says behind `name`.
fn part<'a>(asked: &'a Asked, name: &str) -> &'a str {
    let mut parts = asked.header("authorization").split([' ', ',']);
    parts.find_map(|part| part.strip_prefix(name)).unwrap_or_default()
}

/// Signed with this key in all that it says (Signature Version 4).
fn is_signed_with(asked: &Asked, id: &str, secret: &str) -> bool {
    let (key_id, scope) = part(asked, "Credential=").split_once('/').unwrap();
    let names = part(asked, "SignedHeaders=");
    let headers = asked.lines(names.split(';'));
    let (path, body) = (asked.uri.path(), sha256(&asked.body));
    assert_eq!((asked.header("x-amz-content-sha256"), asked.uri.query()), (body.as_str(), None));
    let request = format!("{}\n{path}\n\n{headers}\n{names}\n{body}", asked.method);
    let date = asked.header("x-amz-date");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(request.as_bytes()));
    let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part));
    key_id == id && part(asked, "Signature=") == hexadecimal(&hmac(&key, &text))
}

fn is_signed(asked: &Asked, header: &str) -> bool {
    part(asked, "SignedHeaders=").split(';').any(|name| name == header)
}

#[tokio::test]
async fn what_s3_answers_is_understood() {
    let service = Service::of(Provider::Amazon).await;
    service.is_understood(&service.credentials(&KEYS)).await;
}

#[tokio::test]
async fn requests_are_signed_with_the_keys_of_the_secret() {
    let service = Service::of(Provider::Amazon).await;
    let config = ArchiveConfig { region: Some("eu-central-1".to_owned()), ..service.config("bucket") };
    let (store, _) = open(&config, &service.credentials(&KEYS)).unwrap();
    let asked = service.put(&store).await;
    assert!(is_signed_with(&asked, "AKIA1", "secret") && !is_signed_with(&asked, "AKIA1", "other"));
    assert!(part(&asked, "Credential=").contains("/eu-central-1/s3/"));
    assert_eq!((asked.header("if-none-match"), asked.header("x-amz-security-token")), ("*", ""));
    assert_eq!(asked.uri.path(), "/bucket/prefix/a%20b");

    let keys = [KEYS[0], KEYS[1], ("sessionToken", "for an hour")];
    let (store, prefix) = open(&config, &service.credentials(&keys)).unwrap();
    store.put(&prefix.join("b"), b"contents".to_vec()).await.unwrap();
    let asked = service.last();
    assert!(is_signed_with(&asked, "AKIA1", "secret") && is_signed(&asked, "x-amz-security-token"));
    assert_eq!((asked.header("x-amz-security-token"), asked.header("if-none-match")), ("for an hour", ""));
}

/// Reading must not ask for it: S3 refuses that.
#[tokio::test]
async fn the_store_is_asked_to_encrypt_what_it_gets() {
    let kms = ServerSideEncryption::Kms { key_id: "arn:aws:kms:eu-central-1:1:key/2".to_owned() };
    for (wanted, method, key) in [
        (None, "", ""),
        (Some(ServerSideEncryption::Aes256), "AES256", ""),
        (Some(kms), "aws:kms", "arn:aws:kms:eu-central-1:1:key/2"),
    ] {
        let service = Service::of(Provider::Amazon).await;
        let config = ArchiveConfig { server_side_encryption: wanted, ..service.config("bucket") };
        let (store, _) = open(&config, &service.credentials(&KEYS)).unwrap();
        let asked = service.put(&store).await;
        assert_eq!((asked.header(ENCRYPTION), asked.header(ENCRYPTION_KEY)), (method, key));
        assert!(is_signed_with(&asked, "AKIA1", "secret"));
        let signed = [ENCRYPTION, ENCRYPTION_KEY].map(|header| is_signed(&asked, header));
        assert_eq!(signed, [method, key].map(|value| !value.is_empty()));
        store.get(&Path::from("prefix/a b")).await.unwrap().expect("it was written");
        assert_eq!((service.last().header(ENCRYPTION), service.last().header(ENCRYPTION_KEY)), ("", ""));
    }
}

/// A pod with a role: what EKS puts into its environment, and the file with its token.
struct Pod {
    service: Service,
    token: tempfile::NamedTempFile,
}

impl Pod {
    async fn new() -> Self {
        let pod = Self {
            service: Service::of(Provider::Amazon).await,
            token: tempfile::NamedTempFile::new().unwrap(),
        };
        pod.write("a.pod.token");
        pod
    }

    fn write(&self, token: &str) {
        fs::write(self.token.path(), token).unwrap();
    }

    /// The role's keys are these, and end then.
    fn tells(&self, id: &str, expiration: &str) {
        let text = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">
               <AssumeRoleWithWebIdentityResult>
                 <SubjectFromWebIdentityToken>system:serviceaccount:prod:db</SubjectFromWebIdentityToken>
                 <Credentials>
                   <AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{id} secret</SecretAccessKey>
                   <SessionToken>{id} session</SessionToken><Expiration>{expiration}</Expiration>
                 </Credentials>
               </AssumeRoleWithWebIdentityResult>
             </AssumeRoleWithWebIdentityResponse>"
        );
        self.service.tells("/", &text);
    }

    fn opened(&self) -> Store {
        let token = self.token.path().to_str().unwrap().to_owned();
        let environment = [
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/backups".to_owned()),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token),
            ("AWS_STS_REGIONAL_ENDPOINTS", "regional".to_owned()),
            ("AWS_ENDPOINT_URL_STS", self.service.url()),
        ];
        let builder =
            environment.into_iter().fold(AmazonS3Builder::new(), |builder, (name, value)| {
                match name.to_ascii_lowercase().parse() {
                    Ok(key) => builder.with_config(key, value),
                    Err(_) => builder,
                }
            });
        let (config, credentials) = (self.service.config("bucket"), self.service.credentials(&[]));
        Store::new(s3(builder, &config, &credentials, "bucket").unwrap())
    }

    /// Parameters of the requests for keys.
    fn questions(&self) -> Vec<BTreeMap<String, String>> {
        let parameters = |asked: &Asked| {
            let url = Url::parse(&format!("https://sts{}", asked.uri)).unwrap();
            url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
        };
        self.service.asked_at("/").iter().map(parameters).collect()
    }
}

#[tokio::test]
async fn without_keys_the_role_of_the_pod_signs() {
    let pod = Pod::new().await;
    pod.tells("ASIA1", "2100-01-01T00:00:00Z");
    let store = pod.opened();
    for _ in 0..2 {
        store.put(&Path::from("prefix/a"), b"contents".to_vec()).await.unwrap();
        let asked = pod.service.last();
        assert!(is_signed_with(&asked, "ASIA1", "ASIA1 secret") && is_signed(&asked, "x-amz-security-token"));
        assert_eq!(asked.header("x-amz-security-token"), "ASIA1 session");
    }
    let questions = pod.questions();
    assert_eq!(questions.len(), 1, "the keys are good for long");
    for (name, value) in [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("RoleArn", "arn:aws:iam::1:role/backups"),
        ("WebIdentityToken", "a.pod.token"),
        ("Version", "2011-06-15"),
    ] {
        assert_eq!(questions[0].get(name).map(String::as_str), Some(value), "{name}");
    }
}

/// Kubernetes writes another token from time to time.
#[tokio::test]
async fn keys_of_a_role_that_end_are_replaced_with_the_token_of_now() {
    let pod = Pod::new().await;
    pod.tells("ASIA1", "2000-01-01T00:00:00Z");
    let store = pod.opened();
    store.put(&Path::from("prefix/a"), b"contents".to_vec()).await.unwrap();
    pod.write("another.pod.token");
    pod.tells("ASIA2", "2100-01-01T00:00:00Z");
    store.put(&Path::from("prefix/a"), b"contents".to_vec()).await.unwrap();
    assert!(is_signed_with(&pod.service.last(), "ASIA2", "ASIA2 secret"));
    assert_eq!(pod.questions().last().unwrap()["WebIdentityToken"], "another.pod.token");
}

#[tokio::test]
async fn a_role_that_the_pod_may_not_take_is_told_without_its_token() {
    let pod = Pod::new().await;
    pod.service.refuses(Some((StatusCode::FORBIDDEN, "AccessDenied")));
    let refused = pod.opened().put(&Path::from("prefix/a"), b"contents".to_vec()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused { .. }), "{refused}");
    let said = refused.to_string();
    assert!(said.contains("AccessDenied") && !said.contains("a.pod.token"), "{said}");
}

/// Keys of a session that has ended: S3 says 400, and not 403.
#[tokio::test]
async fn a_request_that_the_store_does_not_accept_is_no_outage() {
    let service = Service::of(Provider::Amazon).await;
    let (store, prefix) = open(&service.config("bucket"), &service.credentials(&KEYS)).unwrap();
    for (code, lasts) in [("ExpiredToken", true), ("RequestTimeout", false)] {
        service.refuses(Some((StatusCode::BAD_REQUEST, code)));
        let error = store.put(&prefix.clone().join("a"), b"contents".to_vec()).await.unwrap_err();
        assert_eq!(matches!(error, StoreError::NotAccepted { .. }), lasts, "{error}");
        assert!(error.to_string().contains(code), "{error}");
    }
}

/// Of two writes at once one is told to try again: that the other has ended well is not said.
#[tokio::test]
async fn a_write_that_another_one_crosses_is_no_new_object() {
    let service = Service::of(Provider::Amazon).await;
    let (store, prefix) = open(&service.config("bucket"), &service.credentials(&KEYS)).unwrap();
    service.refuses(Some((StatusCode::CONFLICT, "ConditionalRequestConflict")));
    let written = store.put_new(&prefix.join("a"), b"contents".to_vec()).await;
    assert!(matches!(written, Ok(Written::AlreadyThere)), "{written:?}");
}
