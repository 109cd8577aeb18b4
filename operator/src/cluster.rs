//! A Database after validation: what [`crate::build`] needs, in types that cannot be wrong.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{
    api::core::v1::{Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::api::ObjectMeta;
use proto::{identity::Ordinal, pod::LABEL_DATABASE, wire::config::Durability};

/// Largest number of members (and of what `replicas` may say).
pub(crate) const MAX_REPLICAS: u8 = 9;
/// Label by which people and tools find everything that this operator made.
const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`].
const MANAGED_BY: &str = "matriarch";
/// Longest name of a Database: the `StatefulSet` puts `<name>-<hash of 10>` into a label of 63 characters.
const MAX_NAME: usize = 50;

/// Name of a Database: a DNS label, short enough that the names of all children are valid too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DatabaseName(String);

/// The text is no [`DatabaseName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name {0:?} cannot be used: use at most {MAX_NAME} lower-case letters, digits and '-', beginning with a letter and not ending with '-'")]
pub(crate) struct InvalidName(String);

impl DatabaseName {
    /// Checks `text`.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidName> {
        let valid = text.len() <= MAX_NAME
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
            && !text.ends_with('-');
        match valid {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidName(text.to_owned())),
        }
    }

    /// The name as text; also the name of the `StatefulSet`, Lease, Role and so on.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// `<name>-<suffix>`.
    pub(crate) fn child(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.0)
    }

    /// Name of a member's pod.
    pub(crate) fn pod(&self, ordinal: Ordinal) -> String {
        format!("{}-{ordinal}", self.0)
    }

    /// The ordinal in a pod's name.
    pub(crate) fn ordinal_of(&self, pod: &str) -> Option<Ordinal> {
        pod.strip_prefix(&self.0)?.strip_prefix('-')?.parse().ok().map(Ordinal)
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A validated Database.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) name: DatabaseName,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    /// What `metadata.ownerReferences` of the children say.
    pub(crate) owner: OwnerReference,
    /// Wanted members, 1 to [`MAX_REPLICAS`].
    pub(crate) replicas: u8,
    /// Image of PostgreSQL.
    pub(crate) image: String,
    pub(crate) storage: Storage,
    pub(crate) settings: Settings,
    /// Of the `postgres` container.
    pub(crate) resources: ResourceRequirements,
    pub(crate) placement: Placement,
    /// Whether volumes, passwords and the Lease go with the Database.
    pub(crate) deletion: Deletion,
}

/// The data volume of each member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Storage {
    /// As written by the user, which is how Kubernetes gets it.
    pub(crate) size: String,
    /// The same in bytes.
    pub(crate) bytes: u64,
    /// `None`: the cluster's default class.
    pub(crate) class: Option<String>,
}

/// What the agents get told, as far as the user says it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) durability: Durability,
    pub(crate) min_sync_replicas: u8,
    pub(crate) profile: proto::ha::profile::Profile,
    pub(crate) sync_timeout_ms: u64,
    pub(crate) max_lag_bytes: u64,
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) hba: Vec<String>,
    /// Database to create at initdb.
    pub(crate) app_database: String,
}

/// Where pods may run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Placement {
    /// `None`: apart from each other, by preference.
    pub(crate) affinity: Option<Affinity>,
    pub(crate) tolerations: Vec<Toleration>,
    /// Empty: over zones, by preference.
    pub(crate) topology_spread: Vec<TopologySpreadConstraint>,
}

/// `spec.deletionPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deletion {
    Retain,
    Delete,
}

impl Cluster {
    /// Labels of every child.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (LABEL_DATABASE.to_owned(), self.name.to_string()),
            (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
        ])
    }

    /// Selector of the pods of this Database.
    pub(crate) fn pod_selector(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(LABEL_DATABASE.to_owned(), self.name.to_string())])
    }

    /// Metadata of a child that goes with the Database.
    pub(crate) fn owned(&self, name: String) -> ObjectMeta {
        ObjectMeta { owner_references: Some(vec![self.owner.clone()]), ..self.kept(name) }
    }

    /// Metadata of a child that outlives the Database unless `deletionPolicy` says otherwise.
    pub(crate) fn kept(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels()),
            ..ObjectMeta::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(DatabaseName::parse("orders-db").is_ok());
        let long = "a".repeat(MAX_NAME + 1);
        for text in ["", "-a", "a-", "1a", "A", "a.b", "a_b", &long] {
            assert!(DatabaseName::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn ordinals_are_read_from_pod_names_of_this_database_only() {
        let name = DatabaseName::parse("db").unwrap();
        assert_eq!(name.ordinal_of("db-2"), Some(Ordinal(2)));
        for pod in ["db", "db-", "db-x", "db-2-0", "other-2", "db-999"] {
            assert_eq!(name.ordinal_of(pod), None, "{pod}");
        }
    }
}
