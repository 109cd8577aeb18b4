//! A validated Database with the names and labels of what belongs to it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt, api::ObjectMeta};
use proto::{
    api::{
        database::Database,
        valid::{InvalidDatabase, ValidDatabase},
    },
    identity::Ordinal,
    pod::LABEL_DATABASE,
};

/// Largest number of members.
pub(crate) const MAX_REPLICAS: u8 = 9;
/// Label by which people and tools find everything that this operator made.
const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label on pods of Jobs; its value is the Database's name.
const LABEL_HELPS: &str = "db.example.com/helps";
/// Value of [`LABEL_MANAGED_BY`].
const MANAGED_BY: &str = "matriarch";

/// What children are built from.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) spec: ValidDatabase,
    /// What `metadata.ownerReferences` of the children say.
    owner: OwnerReference,
}

impl Cluster {
    /// Checks `database`.
    pub(crate) fn parse(database: &Database) -> Result<Self, InvalidDatabase> {
        let spec = ValidDatabase::parse(database)?;
        let owner = database.controller_owner_ref(&()).ok_or(InvalidDatabase::Metadata("uid"))?;
        Ok(Self { spec, owner })
    }

    /// The Database's name; also that of the StatefulSet, the Lease, the Role and so on.
    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    /// The Database's namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.spec.namespace
    }

    /// `<name>-<suffix>`.
    pub(crate) fn child(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.spec.name)
    }

    /// Name of the Backup that is taken before the Database is deleted. With the start of the UID, so that one of an
    /// earlier Database of this name is not taken for it.
    pub(crate) fn last_backup(&self) -> String {
        let uid: String = self.spec.uid.chars().take(8).collect();
        self.child(&format!("last-{uid}"))
    }

    /// Name of a member's pod.
    pub(crate) fn pod(&self, ordinal: Ordinal) -> String {
        format!("{}-{ordinal}", self.spec.name)
    }

    /// The ordinal in the name of a pod of this Database.
    pub(crate) fn ordinal_of(&self, pod: &str) -> Option<Ordinal> {
        pod.strip_prefix(self.name())?.strip_prefix('-')?.parse().ok().map(Ordinal)
    }

    /// Labels of every child.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.pod_selector();
        labels.insert(LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned());
        labels
    }

    /// Labels of pods that work for the Database and are no instances of it.
    pub(crate) fn labels_of_helpers(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (LABEL_HELPS.to_owned(), self.spec.name.clone()),
            (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
        ])
    }

    /// Selector of those pods.
    pub(crate) fn helper_selector(&self) -> String {
        format!("{LABEL_HELPS}={}", self.spec.name)
    }

    /// Selector of the pods of this Database.
    pub(crate) fn pod_selector(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(LABEL_DATABASE.to_owned(), self.spec.name.clone())])
    }

    /// Metadata of a child that goes with the Database.
    pub(crate) fn owned(&self, name: String) -> ObjectMeta {
        ObjectMeta { owner_references: Some(vec![self.owner.clone()]), ..self.kept(name) }
    }

    /// Whether an object goes with this very Database, and not with an earlier one of its name.
    pub(crate) fn owns(&self, object: &impl ResourceExt) -> bool {
        object.owner_references().iter().any(|owner| owner.uid == self.owner.uid)
    }

    /// Metadata of a child that outlives the Database unless `deletionPolicy` says otherwise.
    pub(crate) fn kept(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.spec.namespace.clone()),
            labels: Some(self.labels()),
            ..ObjectMeta::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn ordinals_are_read_from_pod_names_of_this_database_only() {
        let cluster = fixtures::cluster();
        assert_eq!(cluster.ordinal_of("orders-db-2"), Some(Ordinal(2)));
        for pod in ["orders-db", "orders-db-", "orders-db-x", "orders-db-2-0", "other-2", "orders-db-999"] {
            assert_eq!(cluster.ordinal_of(pod), None, "{pod}");
        }
    }
}
