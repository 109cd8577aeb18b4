//! The certificate of the S3 server, which an authority of its own has signed: stores with such a one exist.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use super::NAME;

/// Holds it.
pub(super) const SECRET: &str = "s3-tls";

/// Makes the certificate in `namespace`, or finds the one that is there; returns the authority's.
pub(super) async fn ensure(client: &kube::Client, namespace: &str) -> Result<String> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = match secrets.get_opt(SECRET).await? {
        Some(secret) => secret,
        None => secrets.create(&PostParams::default(), &made(namespace)?).await?,
    };
    let authority = secret.data.unwrap_or_default().remove("ca.crt").context("the Secret has no ca.crt")?;
    Ok(String::from_utf8(authority.0)?)
}

fn made(namespace: &str) -> Result<Secret> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name = named("tests' store");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    let signed_by_itself = authority.self_signed(&key)?.pem();
    let issuer = Issuer::new(authority, key);

    let host = format!("{NAME}.{namespace}.svc");
    let mut own = CertificateParams::new([host.clone()])?;
    own.distinguished_name = named(&host);
    own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let secret = json!({
        "metadata": {"name": SECRET},
        "type": "kubernetes.io/tls",
        "stringData": {
            "tls.crt": own.signed_by(&key, &issuer)?.pem(),
            "tls.key": key.serialize_pem(),
            "ca.crt": signed_by_itself,
        },
    });
    Ok(serde_json::from_value(secret)?)
}

fn named(name: &str) -> DistinguishedName {
    let mut whole = DistinguishedName::new();
    whole.push(DnType::CommonName, name);
    whole
}
