//! The pods of the Database: the label on the own one, and stale labels on the others (docs/ha.md section 4.5).
//!
//! Labels route clients; they fence nobody. All of it may fail and is tried again.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use proto::{
    identity::Ordinal,
    pod::{LABEL_ROLE, ROLE_NONE, ROLE_PRIMARY, ROLE_REPLICA},
    wire::http::Role,
};
use serde_json::json;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use proto::ha::view::Me;

use crate::chain::Chain;

/// The own pod is read this often. Its deletion shows sooner as the supervisor's SIGTERM, and its label is
/// what this agent made it, unless a new leader takes `primary` away.
const READ_EVERY: Duration = Duration::from_secs(5);
/// For one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Ordinals are below this.
const MAX_MEMBERS: u8 = 9;
/// The API server's answer about a pod that does not exist.
const NO_SUCH_POD: u16 = 404;
/// The API server's answer to a JSON patch whose test fails.
const TEST_FAILED: u16 = 422;

/// What is known of the own pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnPod {
    /// Its role label; `None` while not read, or if it has none.
    pub(crate) role: Option<Role>,
    /// It has a deletion timestamp.
    pub(crate) deleting: bool,
}

/// Why a pod could not be read or patched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    /// The lease ran out before the call.
    #[error("the lease is no longer valid, so nothing is labelled")]
    TooLate,
    /// Cannot happen: the patch is written here.
    #[error("the patch that clears a label is malformed")]
    Patch(#[source] serde_json::Error),
    /// No answer.
    #[error("the API server did not answer about pods of {0} within {CALL_TIMEOUT:?}")]
    Timeout(String),
    /// The API server said no, or the connection failed.
    #[error("calling the API server about pods of {database}")]
    Call {
        /// Whose.
        database: String,
        /// What the client library says.
        source: kube::Error,
    },
}

/// Reads and labels pods; cheap to clone.
#[derive(Clone)]
pub(crate) struct Pods {
    api: Api<Pod>,
    me: Arc<Me>,
    /// Rings when the own pod should be read at once.
    changed: Arc<Notify>,
}

/// Keeps what is known of the own pod current.
pub(crate) struct OwnPodTask {
    pods: Pods,
    own: watch::Sender<OwnPod>,
}

/// Makes the handle, what is known, and the task to spawn.
pub(crate) fn pods(api: Api<Pod>, me: Arc<Me>) -> (Pods, watch::Receiver<OwnPod>, OwnPodTask) {
    let pods = Pods { api, me, changed: Arc::new(Notify::new()) };
    let (own, own_out) = watch::channel(OwnPod::default());
    (pods.clone(), own_out, OwnPodTask { pods, own })
}

impl OwnPodTask {
    /// Reads the own pod until nobody wants it.
    pub(crate) async fn run(self) {
        while !self.own.is_closed() {
            match self.pods.read_own().await {
                Ok(own) => {
                    self.own.send_if_modified(|current| std::mem::replace(current, own) != own);
                }
                Err(error) => tracing::debug!(error = %Chain(&error), "the own pod could not be read"),
            }
            // Whichever comes first.
            let _ = timeout(READ_EVERY, self.pods.changed.notified()).await;
        }
    }
}

impl Pods {
    /// Puts `role` on the own pod.
    pub(crate) async fn set_role(&self, role: Role) -> Result<(), PodError> {
        // With the UID, so that a pod made again under this name is not labelled by its predecessor's agent.
        let patch = json!({"metadata": {"uid": self.me.pod_uid, "labels": {LABEL_ROLE: role.label()}}});
        self.patch(&self.me.pod, &patch).await?;
        self.changed.notify_one();
        Ok(())
    }

    /// Takes `primary` off every other pod, all at once. By name: the agent may not list pods.
    pub(crate) async fn clear_stale_primaries(&self) -> Result<(), PodError> {
        let others = (0..MAX_MEMBERS).map(Ordinal).filter(|ordinal| *ordinal != self.me.ordinal);
        let names: Vec<_> = others.map(|ordinal| format!("{}-{ordinal}", self.me.database)).collect();
        join_all(names.iter().map(|name| self.clear_if_primary(name))).await.into_iter().collect()
    }

    /// One call: the patch is refused unless the label is there.
    async fn clear_if_primary(&self, name: &str) -> Result<(), PodError> {
        let label = format!("/metadata/labels/{}", LABEL_ROLE.replace('/', "~1"));
        let operations = json!([
            {"op": "test", "path": label, "value": ROLE_PRIMARY},
            {"op": "replace", "path": label, "value": ROLE_NONE},
        ]);
        let patch = Patch::Json::<()>(serde_json::from_value(operations).map_err(PodError::Patch)?);
        match self.call(self.api.patch(name, &PatchParams::default(), &patch)).await {
            Err(PodError::Call { source: kube::Error::Api(status), .. })
                if [NO_SUCH_POD, TEST_FAILED].contains(&status.code) =>
            {
                Ok(())
            }
            result => result.map(|_| ()),
        }
    }

    async fn read_own(&self) -> Result<OwnPod, PodError> {
        let pod = self.call(self.api.get(&self.me.pod)).await?;
        let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_ROLE));
        let role = label.and_then(|label| match label.as_str() {
            ROLE_PRIMARY => Some(Role::Primary),
            ROLE_REPLICA => Some(Role::Replica),
            ROLE_NONE => Some(Role::None),
            _ => None,
        });
        let mine = pod.metadata.uid.as_deref() == Some(&self.me.pod_uid);
        Ok(OwnPod { role, deleting: !mine || pod.metadata.deletion_timestamp.is_some() })
    }

    async fn patch(&self, name: &str, patch: &serde_json::Value) -> Result<(), PodError> {
        self.call(self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await.map(|_| ())
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, PodError> {
        let database = || self.me.database.clone();
        timeout(CALL_TIMEOUT, call)
            .await
            .map_err(|_| PodError::Timeout(database()))?
            .map_err(|source| PodError::Call { database: database(), source })
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Mutex};

    use axum::http::{Request, Response};
    use kube::{Client, client::Body};

    use super::*;

    /// Member 1's pods on a server that answers every call about `db-2` with `code`.
    fn pods_of_one(code: u16, seen: &Arc<Mutex<Vec<String>>>) -> Pods {
        let seen = Arc::clone(seen);
        let service = tower::service_fn(move |request: Request<Body>| {
            let seen = Arc::clone(&seen);
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect_bytes().await.unwrap();
                let code = if path.ends_with("db-2") { code } else { NO_SUCH_POD };
                seen.lock().unwrap().push(format!("{path} {}", String::from_utf8_lossy(&body)));
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code});
                let answer = if code == 200 { json!({"metadata": {"name": "db-2"}}) } else { status };
                let body = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        let me = Me {
            ordinal: Ordinal(1),
            pod: "db-1".to_owned(),
            pod_uid: "uid".to_owned(),
            database: "db".to_owned(),
            namespace: "prod".to_owned(),
        };
        pods(Api::namespaced(Client::new(service, "prod"), "prod"), Arc::new(me)).0
    }

    #[tokio::test]
    async fn stale_labels_are_taken_off_others_only_where_they_are() {
        for (code, cleared) in
            [(200, true), (TEST_FAILED, true), (NO_SUCH_POD, true), (403, false), (500, false)]
        {
            let seen = Arc::default();
            let result = pods_of_one(code, &seen).clear_stale_primaries().await;
            assert_eq!(result.is_ok(), cleared, "{code}");
            let seen = seen.lock().unwrap();
            assert_eq!(seen.len(), usize::from(MAX_MEMBERS) - 1, "every other member by name");
            assert!(!seen.iter().any(|call| call.contains("/pods/db-1 ")), "never the own pod");
            assert!(seen.iter().all(|call| call.contains(r#""op":"test""#) && call.contains("primary")));
        }
    }
}
