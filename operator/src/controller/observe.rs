//! Step 1 (client): reads everything that a reconcile looks at, all at once, by quorum reads. A plan is
//! therefore never made on a stale cache.

use std::{collections::BTreeMap, fmt::Debug, net::IpAddr};

use futures::{
    FutureExt,
    future::{BoxFuture, try_join},
};
use jiff::{Timestamp, civil::Date};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    batch::v1::{CronJob, Job},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
    rbac::v1::{Role, RoleBinding},
};
use kube::{Api, Client, Resource, ResourceExt, api::ListParams, core::NamespaceResourceScope};
use proto::{
    api::{database::Database, valid::backup::Source},
    identity::Ordinal,
    pod::LABEL_DATABASE,
    wire::peer::Status,
};
use serde::de::DeserializeOwned;

use crate::{
    agents::{Addresses, AgentError, Agents, Target},
    authority::Authority,
    build,
    cluster::Cluster,
    deadline::{CallError, within},
    volume_snapshot::{VolumeSnapshot, snapshots_of},
};

/// Reasons of events that say why something does not start. Others (probes that fail for a moment, back-offs
/// of containers, which the pod's own status tells better) are no reason to worry anybody.
const TELLING: [&str; 7] = [
    "FailedAttachVolume",
    "FailedBinding",
    "FailedCreate",
    "FailedCreatePodSandBox",
    "FailedMapVolume",
    "FailedMount",
    "ProvisioningFailed",
];

/// A child could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObserveError {
    /// Which and why.
    #[error("could not read {kind} {name}")]
    Read {
        kind: String,
        name: String,
        #[source]
        source: CallError,
    },
}

/// Everything that was read.
#[derive(Default)]
pub(crate) struct Observed {
    pub(crate) service_account: Option<ServiceAccount>,
    pub(crate) role: Option<Role>,
    pub(crate) role_binding: Option<RoleBinding>,
    pub(crate) services: Vec<Service>,
    pub(crate) config_map: Option<ConfigMap>,
    pub(crate) restore_map: Option<ConfigMap>,
    /// The Database whose backups this one begins with, as long as that is not recorded.
    pub(crate) restore_source: Option<Database>,
    /// The VolumeSnapshot that this one begins with, as long as that is not recorded.
    pub(crate) restore_snapshot: Option<VolumeSnapshot>,
    pub(crate) schedule: LiveSchedule,
    pub(crate) drill: LiveDrill,
    /// What new instances can be made of; read only while there are some.
    pub(crate) newcomers: LiveNewcomers,
    pub(crate) disruption_budget: Option<PodDisruptionBudget>,
    pub(crate) stateful_set: Option<StatefulSet>,
    pub(crate) lease: Option<Lease>,
    pub(crate) secrets: Secrets,
    pub(crate) pods: Vec<Pod>,
    pub(crate) volumes: Vec<PersistentVolumeClaim>,
    /// What each agent said; absent for members without a pod.
    pub(crate) answers: BTreeMap<Ordinal, Result<Status, AgentError>>,
    /// Last warning about an object that does not get ready, by `<kind>/<name>`.
    pub(crate) warnings: BTreeMap<String, String>,
}

/// The Secrets by purpose.
#[derive(Default)]
pub(crate) struct Secrets {
    pub(crate) superuser: Option<Secret>,
    pub(crate) app: Option<Secret>,
    pub(crate) authority: Option<Secret>,
    pub(crate) tls: Option<Secret>,
}

impl Secrets {
    /// The CA, if its Secret is there and complete.
    pub(crate) fn stored_authority(&self) -> Option<Authority> {
        authority_in(self.authority.as_ref())
    }
}

/// The CA in its Secret, if that is there and complete.
pub(crate) fn authority_in(secret: Option<&Secret>) -> Option<Authority> {
    let data = secret?.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    Some(Authority::stored(text(build::KEY_CA)?, text(build::KEY_CA_KEY)?))
}

/// What belongs to the schedule of backups, as far as it exists.
#[derive(Default)]
pub(crate) struct LiveSchedule {
    pub(crate) service_account: Option<ServiceAccount>,
    pub(crate) role: Option<Role>,
    pub(crate) role_binding: Option<RoleBinding>,
    pub(crate) cron_job: Option<CronJob>,
    pub(crate) snapshots: Option<CronJob>,
}

/// What belongs to restore drills, as far as it exists.
#[derive(Default)]
pub(crate) struct LiveDrill {
    pub(crate) config_map: Option<ConfigMap>,
    pub(crate) cron_job: Option<CronJob>,
    pub(crate) jobs: Vec<Job>,
    /// Pods that work for the Database; those of drills are among them.
    pub(crate) pods: Vec<Pod>,
}

/// What there is for instances that have no pod yet.
#[derive(Default)]
pub(crate) struct LiveNewcomers {
    /// VolumeSnapshots of the Database.
    pub(crate) snapshots: Vec<VolumeSnapshot>,
    /// Jobs of the Database, those that make a standby's data among them.
    pub(crate) jobs: Vec<Job>,
}

/// The record of a restore, or the Database and the VolumeSnapshot that it begins with.
type Beginning = (Option<ConfigMap>, Option<Database>, Option<VolumeSnapshot>);

/// Reads it.
pub(crate) async fn observe(
    client: &Client,
    agents: &Agents,
    cluster: &Cluster,
    today: Date,
) -> Result<Observed, ObserveError> {
    let reader = Reader { client, cluster };
    let mut observed = Box::pin(reader.children()).await?;
    let asked = reader.answers(agents, &observed, today);
    let (answers, warnings) = try_join(async { Ok(asked.await) }, reader.warnings(&observed)).await?;
    observed.newcomers = reader.newcomers(&observed).await?;
    observed.answers = answers;
    observed.warnings = warnings;
    Ok(observed)
}

struct Reader<'a> {
    client: &'a Client,
    cluster: &'a Cluster,
}

impl Reader<'_> {
    async fn children(&self) -> Result<Observed, ObserveError> {
        let name = self.cluster.name();
        let config = build::config_map_name(self.cluster);
        let (access, rest) = try_join(
            async {
                tokio::try_join!(
                    self.get(name),
                    self.get(name),
                    self.get(name),
                    self.list(),
                    self.get(&config)
                )
            },
            async {
                tokio::try_join!(
                    self.get(name),
                    self.get(name),
                    self.get(name),
                    self.secrets(),
                    self.list(),
                    self.list()
                )
            },
        )
        .await?;
        let (schedule, drill, (restore_map, restore_source, restore_snapshot)) =
            tokio::try_join!(self.schedule(), self.drill(), self.restore())?;
        let (service_account, role, role_binding, services, config_map) = access;
        let (disruption_budget, stateful_set, lease, secrets, pods, volumes) = rest;
        Ok(Observed {
            service_account,
            role,
            role_binding,
            services,
            config_map,
            restore_map,
            restore_source,
            restore_snapshot,
            schedule,
            drill,
            disruption_budget,
            stateful_set,
            lease,
            secrets,
            pods,
            volumes,
            ..Observed::default()
        })
    }

    /// Nothing but the CronJob is asked for where there are no backups: it is the last to be deleted.
    async fn schedule(&self) -> Result<LiveSchedule, ObserveError> {
        let name = build::schedule_name(self.cluster);
        let cron_job = self.get(&name).await?;
        if cron_job.is_none() && self.cluster.spec.backup.is_none() {
            return Ok(LiveSchedule::default());
        }
        let (name, snapshots) =
            (build::schedule_access_name(self.cluster), build::snapshot_schedule_name(self.cluster));
        let (service_account, role, role_binding, snapshots) =
            tokio::try_join!(self.get(&name), self.get(&name), self.get(&name), self.get(&snapshots))?;
        Ok(LiveSchedule { service_account, role, role_binding, cron_job, snapshots })
    }

    /// As with the schedule, the CronJob is the last to be deleted. Pods are looked at only after a drill began.
    async fn drill(&self) -> Result<LiveDrill, ObserveError> {
        let name = build::drill_name(self.cluster);
        let cron_job: Option<CronJob> = self.get(&name).await?;
        let wanted = self.cluster.spec.backup.as_ref().is_some_and(|backup| backup.drill.is_some());
        if cron_job.is_none() && !wanted {
            return Ok(LiveDrill::default());
        }
        let (config_map, jobs) = try_join(self.get(&name), self.list::<Job>()).await?;
        let made_by_it = |job: &Job| job.owner_references().iter().any(|owner| owner.name == name);
        let jobs: Vec<_> = jobs.into_iter().filter(made_by_it).collect();
        let pods = match jobs.is_empty() {
            true => Vec::new(),
            false => self.list_by(&self.cluster.helper_selector()).await?,
        };
        Ok(LiveDrill { config_map, cron_job, jobs, pods })
    }

    /// What is recorded about the restore, or what it is to be recorded from.
    async fn restore(&self) -> Result<Beginning, ObserveError> {
        let Some(restore) = &self.cluster.spec.restore else { return Ok((None, None, None)) };
        let name = build::restore_name(self.cluster);
        let recorded: Option<ConfigMap> = self.get(&name).await?;
        if recorded.as_ref().is_some_and(|map| self.cluster.owns(map)) {
            return Ok((recorded, None, None));
        }
        let source = match &restore.source {
            Source::Database(source) => self.get(source).await?,
            Source::Store { .. } => None,
        };
        let snapshot = match &restore.volume_snapshot {
            Some(snapshot) => self.get(snapshot).await?,
            None => None,
        };
        Ok((recorded, source, snapshot))
    }

    /// Where instances are to be added to others.
    async fn newcomers(&self, observed: &Observed) -> Result<LiveNewcomers, ObserveError> {
        let replicas = |set: &StatefulSet| set.spec.as_ref().and_then(|spec| spec.replicas);
        let there = observed.stateful_set.as_ref().and_then(replicas);
        if there.is_none_or(|there| there >= i32::from(self.cluster.spec.replicas)) {
            return Ok(LiveNewcomers::default());
        }
        let jobs = self.list().await?;
        let snapshots = match self.cluster.spec.backup {
            Some(_) => self.snapshots().await?,
            None => Vec::new(),
        };
        Ok(LiveNewcomers { snapshots, jobs })
    }

    /// None where Kubernetes has no VolumeSnapshots.
    async fn snapshots(&self) -> Result<Vec<VolumeSnapshot>, ObserveError> {
        match self.list_by(&snapshots_of(self.cluster)).await {
            Err(ObserveError::Read { source, .. }) if source.is_not_found() => Ok(Vec::new()),
            listed => listed,
        }
    }

    async fn secrets(&self) -> Result<Secrets, ObserveError> {
        let names = build::secret_names(self.cluster);
        let (superuser, app, authority, tls) = tokio::try_join!(
            self.get(&names.superuser),
            self.get(&names.app),
            self.get(&names.authority),
            self.get(&names.tls)
        )?;
        Ok(Secrets { superuser, app, authority, tls })
    }

    async fn answers(
        &self,
        agents: &Agents,
        observed: &Observed,
        today: Date,
    ) -> BTreeMap<Ordinal, Result<Status, AgentError>> {
        let Some(authority) = observed.secrets.stored_authority() else { return BTreeMap::new() };
        let target = Target {
            namespace: self.cluster.namespace(),
            database: self.cluster.name(),
            authority: &authority,
            today,
        };
        match agents.ask_all(target, &addresses(self.cluster, &observed.pods)).await {
            Ok(answers) => answers,
            Err(error) => {
                tracing::warn!(database = self.cluster.name(), %error, "no agent can be asked");
                BTreeMap::new()
            }
        }
    }

    /// Kubernetes tells why a volume does not bind or a pod does not start only in events, so those are read,
    /// and only while something is not ready.
    async fn warnings(&self, observed: &Observed) -> Result<BTreeMap<String, String>, ObserveError> {
        let mut warnings = BTreeMap::new();
        for (kind, name, uid) in unready(self.cluster, observed) {
            let events = ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning"));
            let api: Api<Event> = Api::namespaced(self.client.clone(), self.cluster.namespace());
            let listed = within(api.list(&events.limit(50))).await.map_err(|source| ObserveError::Read {
                kind: "events of".to_owned() + " " + kind,
                name: name.clone(),
                source,
            })?;
            let telling = listed
                .items
                .into_iter()
                .filter(|event| event.reason.as_deref().is_some_and(|reason| TELLING.contains(&reason)));
            let latest = telling.max_by_key(last_seen);
            if let Some(message) = latest.and_then(|event| event.message) {
                warnings.insert(format!("{kind}/{name}"), message);
            }
        }
        Ok(warnings)
    }

    // Boxed: a dozen of these are awaited side by side, and a request is a large future.
    fn get<'a, K>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<K>, ObserveError>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + 'a,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), self.cluster.namespace());
        async move { within(api.get_opt(name)).await.map_err(|source| read_error::<K>(name, source)) }.boxed()
    }

    fn list<'a, K>(&'a self) -> BoxFuture<'a, Result<Vec<K>, ObserveError>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + 'a,
    {
        self.list_by(&format!("{LABEL_DATABASE}={}", self.cluster.name()))
    }

    fn list_by<'a, K>(&'a self, selector: &str) -> BoxFuture<'a, Result<Vec<K>, ObserveError>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + 'a,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), self.cluster.namespace());
        let mine = ListParams::default().labels(selector);
        let name = self.cluster.name();
        async move {
            let listed = within(api.list(&mine)).await;
            listed.map(|list| list.items).map_err(|source| read_error::<K>(name, source))
        }
        .boxed()
    }
}

/// Controllers fill in one or the other.
fn last_seen(event: &Event) -> Option<Timestamp> {
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    last.or_else(|| event.event_time.as_ref().map(|time| time.0))
}

fn read_error<K: Resource<DynamicType = ()>>(name: &str, source: CallError) -> ObserveError {
    ObserveError::Read { kind: K::kind(&()).into_owned(), name: name.to_owned(), source }
}

/// Address of each member's pod.
pub(crate) fn addresses(cluster: &Cluster, pods: &[Pod]) -> Addresses {
    let address = |pod: &Pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse::<IpAddr>().ok();
    pods.iter().filter_map(|pod| Some((cluster.ordinal_of(&pod.name_any())?, address(pod)))).collect()
}

/// Objects that wait for something, by kind, name and UID.
fn unready(cluster: &Cluster, observed: &Observed) -> Vec<(&'static str, String, String)> {
    let volumes = observed
        .volumes
        .iter()
        .filter(|claim| claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending"));
    let pods = observed
        .pods
        .iter()
        .filter(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending"));
    let volumes = volumes.filter_map(|claim| Some(("PersistentVolumeClaim", claim.name_any(), claim.uid()?)));
    let pods = pods.filter_map(|pod| Some(("Pod", pod.name_any(), pod.uid()?)));
    let missing = observed.pods.len() < usize::from(cluster.spec.replicas);
    let set = observed.stateful_set.iter().filter(|_| missing);
    let set = set.filter_map(|set| Some(("StatefulSet", set.name_any(), set.uid()?)));
    volumes.chain(pods).chain(set).collect()
}
