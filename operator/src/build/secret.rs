//! The Secrets of a Database, from material made elsewhere. They outlive the Database under `Retain`: the
//! passwords are in the data that stays.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use proto::pod::{APP_ROLE, POSTGRES_PORT};

use super::READ_WRITE;
use crate::{
    authority::{Authority, Issued},
    cluster::Cluster,
};

/// Key of the password, as `kubernetes.io/basic-auth` has it.
pub(crate) const KEY_PASSWORD: &str = "password";
/// Key of the CA's certificate.
pub(crate) const KEY_CA: &str = "ca.crt";
/// Key of the CA's private key.
pub(crate) const KEY_CA_KEY: &str = "ca.key";
/// Annotation: day on which the certificate ends.
pub(crate) const ANNOTATION_NOT_AFTER: &str = "db.example.com/not-after";

/// Bootstrap superuser of PostgreSQL.
const SUPERUSER: &str = "postgres";
const BASIC_AUTH: &str = "kubernetes.io/basic-auth";

/// Names of all Secrets of one Database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) superuser: String,
    pub(crate) app: String,
    pub(crate) authority: String,
    pub(crate) tls: String,
}

/// The names.
pub(crate) fn names(cluster: &Cluster) -> Names {
    Names {
        superuser: cluster.child("superuser"),
        app: cluster.child("app"),
        authority: cluster.child("ca"),
        tls: cluster.child("tls"),
    }
}

/// For administrators.
pub(crate) fn superuser_secret(cluster: &Cluster, password: &str) -> Secret {
    let fields = [("username", SUPERUSER), (KEY_PASSWORD, password)];
    kept(cluster, names(cluster).superuser, BASIC_AUTH, fields)
}

/// For applications: everything that a client needs, in parts and as a URI.
pub(crate) fn app_secret(cluster: &Cluster, password: &str) -> Secret {
    let host = format!("{}.{}.svc", cluster.child(READ_WRITE), cluster.namespace());
    let database = &cluster.spec.app_database;
    let port = POSTGRES_PORT.to_string();
    let uri = format!("postgresql://{APP_ROLE}:{password}@{host}:{port}/{database}?sslmode=require");
    let fields = [
        ("username", APP_ROLE),
        (KEY_PASSWORD, password),
        ("dbname", database),
        ("host", &host),
        ("port", &port),
        ("uri", &uri),
    ];
    kept(cluster, names(cluster).app, BASIC_AUTH, fields)
}

/// The Database's own CA. Only the operator reads it; no pod mounts it.
pub(crate) fn authority_secret(cluster: &Cluster, authority: &Authority) -> Secret {
    let fields = [(KEY_CA, authority.certificate()), (KEY_CA_KEY, authority.key())];
    kept(cluster, names(cluster).authority, "Opaque", fields)
}

/// What members present to each other and to clients.
pub(crate) fn tls_secret(cluster: &Cluster, authority: &Authority, issued: &Issued) -> Secret {
    let fields = [
        (KEY_CA, authority.certificate()),
        ("tls.crt", issued.certificate.as_str()),
        ("tls.key", issued.key.as_str()),
    ];
    let mut secret = secret("kubernetes.io/tls", fields);
    secret.metadata = cluster.owned(names(cluster).tls);
    secret.metadata.annotations =
        Some(BTreeMap::from([(ANNOTATION_NOT_AFTER.to_owned(), issued.not_after.to_string())]));
    secret
}

fn kept<const N: usize>(cluster: &Cluster, name: String, type_: &str, fields: [(&str, &str); N]) -> Secret {
    Secret { metadata: cluster.kept(name), ..secret(type_, fields) }
}

fn secret<const N: usize>(type_: &str, fields: [(&str, &str); N]) -> Secret {
    let data = fields.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec())));
    Secret { type_: Some(type_.to_owned()), data: Some(data.collect()), ..Secret::default() }
}
