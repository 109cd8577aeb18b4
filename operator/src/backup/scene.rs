//! What both reconciles read of a Database (client): its instances by their own word, and how to reach them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, api::ListParams};
use proto::{
    identity::Ordinal,
    pod::LABEL_DATABASE,
    wire::{
        http::{Role, State},
        peer::Status,
    },
};

use super::plan::Candidate;
use crate::{
    agents::{Addresses, AgentError, Target, backups::Address},
    authority::Authority,
    build,
    cluster::Cluster,
    controller::{Context, addresses, authority_in},
    deadline::{CallError, within},
};

/// The instances could not be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SceneError {
    /// The API server.
    #[error("could not read the pods or the CA of the Database")]
    Read(#[source] CallError),
    /// The operator's own certificate.
    #[error("could not ask the instances")]
    Ask(#[source] AgentError),
}

/// The instances of a Database.
pub(super) struct Scene {
    authority: Option<Authority>,
    addresses: Addresses,
    answers: BTreeMap<Ordinal, Status>,
}

impl Scene {
    /// Looks.
    pub(super) async fn look(
        context: &Context,
        cluster: &Cluster,
        now: Timestamp,
    ) -> Result<Self, SceneError> {
        let namespace = cluster.namespace();
        let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
        let secrets: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
        let mine = ListParams::default().labels(&format!("{LABEL_DATABASE}={}", cluster.name()));
        let name = build::secret_names(cluster).authority;
        let read =
            tokio::try_join!(Box::pin(within(pods.list(&mine))), Box::pin(within(secrets.get_opt(&name))));
        let (pods, secret) = read.map_err(SceneError::Read)?;
        let mut scene = Self {
            authority: authority_in(secret.as_ref()),
            addresses: addresses(cluster, &pods.items),
            answers: BTreeMap::new(),
        };
        if let Some(target) = scene.target(cluster, now) {
            let asked = context.agents.ask_all(target, &scene.addresses).await.map_err(SceneError::Ask)?;
            scene.answers =
                asked.into_iter().filter_map(|(ordinal, answer)| Some((ordinal, answer.ok()?))).collect();
        }
        Ok(scene)
    }

    /// How the agents are asked; `None` before the Database has a CA.
    pub(super) fn target<'a>(&'a self, cluster: &'a Cluster, now: Timestamp) -> Option<Target<'a>> {
        Some(Target {
            namespace: cluster.namespace(),
            database: cluster.name(),
            authority: self.authority.as_ref()?,
            today: now.to_zoned(jiff::tz::TimeZone::UTC).date(),
        })
    }

    /// Where the pod is.
    pub(super) fn address(&self, ordinal: Ordinal) -> Address {
        (ordinal, self.addresses.get(&ordinal).copied().flatten())
    }

    /// Who accepts writes.
    pub(super) fn primary(&self) -> Option<Ordinal> {
        let primary = self.answers.iter().find(|(_, status)| is_primary(status));
        primary.map(|(ordinal, _)| *ordinal)
    }

    /// Who could take a backup, best first.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        candidates(&self.answers)
    }
}

fn is_primary(status: &Status) -> bool {
    status.role == Role::Primary && status.state == State::Running
}

/// Standbys by how little they are behind, since a backup reads everything and must not slow the primary down;
/// the primary only if no standby streams. Those that cannot reach the store come last.
fn candidates(answers: &BTreeMap<Ordinal, Status>) -> Vec<Candidate> {
    let streams = |status: &Status| status.role == Role::Replica && status.state == State::Streaming;
    let mut able: Vec<_> = answers.iter().filter(|(_, status)| streams(status)).collect();
    if able.is_empty() {
        able = answers.iter().filter(|(_, status)| is_primary(status)).collect();
    }
    able.sort_by_key(|(ordinal, status)| {
        (without_store(status), status.lag.map_or(u64::MAX, |lag| lag.bytes), **ordinal)
    });
    able.into_iter()
        .map(|(ordinal, status)| Candidate { pod: status.pod.clone(), ordinal: *ordinal })
        .collect()
}

fn without_store(status: &Status) -> bool {
    let store = status.archive.as_ref().and_then(|archive| archive.store.as_ref());
    store.is_some_and(|store| !store.reachable)
}

#[cfg(test)]
mod tests {
    use proto::wire::http::Lag;

    use super::*;
    use crate::fixtures::says;

    fn standby(ordinal: u8, bytes: u64) -> (Ordinal, Status) {
        let lag = Some(Lag { bytes, seconds: 0.0 });
        (Ordinal(ordinal), Status { lag, ..says(ordinal, Role::Replica, State::Streaming) })
    }

    fn primary() -> (Ordinal, Status) {
        (Ordinal(0), says(0, Role::Primary, State::Running))
    }

    fn order(answers: impl IntoIterator<Item = (Ordinal, Status)>) -> Vec<String> {
        candidates(&answers.into_iter().collect()).into_iter().map(|candidate| candidate.pod).collect()
    }

    #[test]
    fn the_standby_that_is_least_behind_comes_first_and_the_primary_only_alone() {
        assert_eq!(order([primary(), standby(1, 900), standby(2, 0)]), ["orders-db-2", "orders-db-1"]);
        assert_eq!(order([primary()]), ["orders-db-0"]);
        let starting = (Ordinal(1), says(1, Role::Replica, State::Starting));
        assert_eq!(order([primary(), starting.clone()]), ["orders-db-0"]);
        assert_eq!(order([starting]), Vec::<String>::new());
    }
}
