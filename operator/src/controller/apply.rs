//! Step 5 (client): makes the children what the build says, StatefulSet last, and writes only what differs.
//! Nothing here takes anything away.

use k8s_openapi::api::{coordination::v1::Lease, core::v1::PersistentVolumeClaim};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::NamespaceResourceScope,
};
use proto::pod::ANNOTATION_SYSTEM_ID;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    context::Context,
    observe::Observed,
    plan::{LeaseStep, Plan},
    schedule::{drill, schedule},
    unchanged::{covers, with_fingerprint},
};
use crate::{
    build::{self, Children},
    cluster::Cluster,
    deadline::{CallError, within},
};

/// Owner of the children's fields in server-side apply.
const CHILDREN_MANAGER: &str = "matriarch-operator/children";

/// A child could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// Only by a defect in the program.
    #[error("could not serialise {kind} {name}")]
    Serialise {
        kind: String,
        name: String,
        #[source]
        source: serde_json::Error,
    },
    /// The API server refused, or did not answer.
    #[error("could not write {kind} {name}")]
    Write {
        kind: String,
        name: String,
        #[source]
        source: CallError,
    },
}

/// Applies everything in the plan that is not disruptive.
pub(crate) async fn apply(
    context: &Context,
    cluster: &Cluster,
    observed: &Observed,
    plan: &Plan,
    children: &Children,
) -> Result<(), ApplyError> {
    let writer = Writer { context, namespace: cluster.namespace() };
    writer.ensure(&children.service_account, observed.service_account.as_ref()).await?;
    writer.ensure(&children.role, observed.role.as_ref()).await?;
    writer.ensure(&children.role_binding, observed.role_binding.as_ref()).await?;
    for service in &children.services {
        let live = observed.services.iter().find(|live| live.name_any() == service.name_any());
        writer.ensure(service, live).await?;
    }
    writer.ensure(&children.config_map, observed.config_map.as_ref()).await?;
    if let Some(map) = &children.restore_map {
        writer.ensure(map, observed.restore_map.as_ref()).await?;
    }
    writer.ensure(&children.disruption_budget, observed.disruption_budget.as_ref()).await?;
    writer.lease(cluster, observed.lease.as_ref(), plan.lease).await?;
    if let Some(volume) = &children.restored_volume
        && !observed.volumes.iter().any(|live| live.name_any() == volume.name_any())
    {
        // Before the StatefulSet, which would make an empty one. What is there already is never changed.
        writer.ensure(volume, None).await?;
    }
    writer.ensure(&children.stateful_set, observed.stateful_set.as_ref()).await?;
    schedule(&writer, cluster.name(), children.schedule.as_ref(), &observed.schedule).await?;
    drill(&writer, cluster.name(), children.drill.as_ref(), &observed.drill).await?;
    // After everything else: a StorageClass that refuses to grow a volume stops nothing.
    writer.volumes(cluster, plan).await
}

pub(super) struct Writer<'a> {
    pub(super) context: &'a Context,
    pub(super) namespace: &'a str,
}

impl Writer<'_> {
    pub(super) async fn ensure<K>(&self, intent: &K, live: Option<&K>) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Serialize
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let name = intent.name_any();
        let value = |object: &K| {
            serde_json::to_value(object).map_err(|source| ApplyError::Serialise {
                kind: K::kind(&()).into_owned(),
                name: name.clone(),
                source,
            })
        };
        let body = with_fingerprint(value(intent)?);
        if let Some(live) = live
            && covers(&value(live)?, &body)
        {
            return Ok(());
        }
        let params = PatchParams::apply(CHILDREN_MANAGER).force();
        self.patch::<K>(&name, &params, &Patch::Apply(&body)).await
    }

    pub(super) async fn patch<K>(
        &self,
        name: &str,
        params: &PatchParams,
        patch: &Patch<&Value>,
    ) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.context.client.clone(), self.namespace);
        let kind = K::kind(&());
        tracing::debug!(%kind, name, "writing");
        within(api.patch(name, params, patch)).await.map_err(|source| ApplyError::Write {
            kind: kind.to_string(),
            name: name.to_owned(),
            source,
        })?;
        self.context.metrics.wrote(metric_kind(&kind));
        Ok(())
    }

    /// W4: created, or re-marked by a compare-and-swap, while nothing was ever written into it; never otherwise.
    async fn lease(
        &self,
        cluster: &Cluster,
        live: Option<&Lease>,
        step: LeaseStep,
    ) -> Result<(), ApplyError> {
        let mut lease = build::empty_lease(cluster);
        let name = lease.name_any();
        let api: Api<Lease> = Api::namespaced(self.context.client.clone(), self.namespace);
        let outcome = match step {
            LeaseStep::Keep => return Ok(()),
            LeaseStep::Create => within(api.create(&PostParams::default(), &lease)).await,
            LeaseStep::Replace => {
                lease.metadata.resource_version = live.and_then(ResourceExt::resource_version);
                within(api.replace(&name, &PostParams::default(), &lease)).await
            }
        };
        match outcome {
            Ok(_) => self.context.metrics.wrote("Lease"),
            // Somebody was faster: whatever is there now is judged anew.
            Err(error) if error.is_conflict() => {}
            Err(source) => return Err(ApplyError::Write { kind: "Lease".to_owned(), name, source }),
        }
        Ok(())
    }

    /// Claims belong to the StatefulSet controller, so single fields are merged in.
    async fn volumes(&self, cluster: &Cluster, plan: &Plan) -> Result<(), ApplyError> {
        if let Some(identifier) = plan.shape.system_identifier {
            let change = json!({"metadata": {"annotations": {ANNOTATION_SYSTEM_ID: identifier.to_string()}}});
            self.change_volumes(&plan.annotate, &change).await?;
        }
        let size = json!({"spec": {"resources": {"requests": {"storage": cluster.spec.storage_quantity}}}});
        self.change_volumes(&plan.grow, &size).await
    }

    async fn change_volumes(&self, names: &[String], change: &Value) -> Result<(), ApplyError> {
        for name in names {
            self.patch::<PersistentVolumeClaim>(name, &PatchParams::default(), &Patch::Merge(change)).await?;
        }
        Ok(())
    }
}

/// Names of kinds as metric labels, from a fixed list.
fn metric_kind(kind: &str) -> &'static str {
    const KINDS: [&str; 10] = [
        "ConfigMap",
        "CronJob",
        "Job",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
        "StatefulSet",
    ];
    KINDS.into_iter().find(|known| *known == kind).unwrap_or("other")
}

/// Deletes exactly the object that was judged. Gone already, or another by now, is fine: the next reconcile
/// looks again.
pub(crate) async fn delete_exactly<K>(
    context: &Context,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
    let only = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
    match within(api.delete(name, &params)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
        Err(source) => {
            Err(ApplyError::Write { kind: K::kind(&()).into_owned(), name: name.to_owned(), source })
        }
    }
}
