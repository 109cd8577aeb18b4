//! Passwords and certificates (client): made when missing, renewed when due, never overwritten otherwise.

use jiff::{ToSpan, civil::Date};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use proto::pod::REPLICATION_ROLE;
use rand::distr::{Alphanumeric, SampleString};

use super::{context::Context, observe::Secrets};
use crate::{
    authority::{Authority, AuthorityError, Subject},
    build,
    cluster::Cluster,
    deadline::{CallError, within},
};

/// 32 letters and digits are 190 bits, and need no quoting in a URI or a connection string.
const PASSWORD_LENGTH: usize = 32;
/// Short enough that renewal is exercised by everybody, long enough to survive a month without an operator.
const MEMBER_DAYS: i64 = 90;
/// Renewed this long before its end.
const RENEW_BEFORE_DAYS: i64 = 30;

/// A credential could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    /// No certificate.
    #[error("could not make the certificates of the Database")]
    Authority(#[source] AuthorityError),
    /// The Secret was not written.
    #[error("could not write Secret {name}")]
    Write {
        name: String,
        #[source]
        source: CallError,
    },
    /// The Secret with the CA lacks a key.
    #[error("Secret {0} has no ca.crt and ca.key; delete it and a new CA is made")]
    IncompleteAuthority(String),
    /// Another operator was faster; the next reconcile reads what it made.
    #[error("Secret {0} was made by somebody else just now")]
    Raced(String),
}

/// Makes what is missing.
pub(crate) async fn ensure(
    context: &Context,
    cluster: &Cluster,
    secrets: &Secrets,
    today: Date,
) -> Result<(), CredentialError> {
    let writer = Writer { context, cluster };
    if secrets.superuser.is_none() {
        writer.create(&build::superuser_secret(cluster, &password())).await?;
    }
    if secrets.app.is_none() {
        writer.create(&build::app_secret(cluster, &password())).await?;
    }
    let authority = writer.authority(secrets, today).await?;
    if let Renewal::Due = renewal(secrets.tls.as_ref(), &authority, today) {
        let subject =
            Subject { common_name: REPLICATION_ROLE, hosts: build::hosts(cluster), days: MEMBER_DAYS };
        let issued = authority.issue(subject, today).map_err(CredentialError::Authority)?;
        writer.renew(build::tls_secret(cluster, &authority, &issued), secrets.tls.as_ref()).await?;
    }
    Ok(())
}

fn password() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_LENGTH)
}

#[derive(Debug, PartialEq, Eq)]
enum Renewal {
    Due,
    NotYet,
}

/// Due when missing, near its end, or of another CA.
fn renewal(tls: Option<&Secret>, authority: &Authority, today: Date) -> Renewal {
    let Some(tls) = tls else { return Renewal::Due };
    let ends = tls.annotations().get(build::ANNOTATION_NOT_AFTER).and_then(|text| text.parse::<Date>().ok());
    let fresh = ends.is_some_and(|ends| today.saturating_add(RENEW_BEFORE_DAYS.days()) < ends);
    let stored = tls.data.as_ref().and_then(|data| data.get(build::KEY_CA));
    let same_authority = stored.is_some_and(|stored| stored.0 == authority.certificate().as_bytes());
    match fresh && same_authority {
        true => Renewal::NotYet,
        false => Renewal::Due,
    }
}

struct Writer<'a> {
    context: &'a Context,
    cluster: &'a Cluster,
}

impl Writer<'_> {
    fn api(&self) -> Api<Secret> {
        Api::namespaced(self.context.client.clone(), self.cluster.namespace())
    }

    /// Creates it. A conflict means that it exists by now, and what exists stays.
    async fn create(&self, secret: &Secret) -> Result<bool, CredentialError> {
        match within(self.api().create(&PostParams::default(), secret)).await {
            Ok(_) => {
                self.context.metrics.wrote("Secret");
                Ok(true)
            }
            Err(error) if error.is_conflict() => Ok(false),
            Err(source) => Err(CredentialError::Write { name: secret.name_any(), source }),
        }
    }

    async fn authority(&self, secrets: &Secrets, today: Date) -> Result<Authority, CredentialError> {
        let name = build::secret_names(self.cluster).authority;
        if secrets.authority.is_some() {
            return secrets.stored_authority().ok_or(CredentialError::IncompleteAuthority(name));
        }
        let made = Authority::generate(self.cluster.name(), today).map_err(CredentialError::Authority)?;
        if self.create(&build::authority_secret(self.cluster, &made)).await? {
            return Ok(made);
        }
        Err(CredentialError::Raced(name))
    }

    /// Changes exactly the version that was judged.
    async fn renew(&self, mut secret: Secret, seen: Option<&Secret>) -> Result<(), CredentialError> {
        let Some(seen) = seen else { return self.create(&secret).await.map(drop) };
        secret.metadata.resource_version = seen.resource_version();
        let name = secret.name_any();
        within(self.api().patch(&name, &PatchParams::default(), &Patch::Merge(&secret)))
            .await
            .map_err(|source| CredentialError::Write { name, source })?;
        self.context.metrics.wrote("Secret");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::fixtures;

    #[test]
    fn a_certificate_is_renewed_when_missing_old_or_foreign() {
        let cluster = fixtures::cluster();
        let today = date(2026, 3, 1);
        let authority = Authority::generate("orders-db", today).unwrap();
        let subject =
            Subject { common_name: REPLICATION_ROLE, hosts: build::hosts(&cluster), days: MEMBER_DAYS };
        let issued = authority.issue(subject, today).unwrap();
        let tls = build::tls_secret(&cluster, &authority, &issued);
        assert_eq!(renewal(None, &authority, today), Renewal::Due);
        assert_eq!(renewal(Some(&tls), &authority, today), Renewal::NotYet);
        assert_eq!(renewal(Some(&tls), &authority, date(2026, 4, 28)), Renewal::NotYet);
        assert_eq!(renewal(Some(&tls), &authority, date(2026, 4, 30)), Renewal::Due);
        let other = Authority::generate("orders-db", today).unwrap();
        assert_eq!(renewal(Some(&tls), &other, today), Renewal::Due);
    }

    #[test]
    fn passwords_differ_and_need_no_quoting() {
        let (one, two) = (password(), password());
        assert_ne!(one, two);
        assert!(one.len() == PASSWORD_LENGTH && one.bytes().all(|b| b.is_ascii_alphanumeric()));
    }
}
