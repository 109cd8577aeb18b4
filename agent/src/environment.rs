//! Who this agent is, from the environment that the operator sets.

use std::env;

use proto::{ha::view::Me, pod};

/// Why the environment is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvironmentError {
    /// Not set.
    #[error("environment variable {0} is not set; the operator sets it in every pod of a Database")]
    Missing(&'static str),
    /// The pod's name does not end in an ordinal.
    #[error("{0:?} is not the name of a pod of a StatefulSet: it does not end in an ordinal")]
    NoOrdinal(String),
}

/// Reads it.
pub(crate) fn read() -> Result<Me, EnvironmentError> {
    let variable = |name| env::var(name).map_err(|_| EnvironmentError::Missing(name));
    let pod = variable(pod::ENV_POD_NAME)?;
    Ok(Me {
        ordinal: pod::pod_ordinal(&pod).ok_or_else(|| EnvironmentError::NoOrdinal(pod.clone()))?,
        pod,
        pod_uid: variable(pod::ENV_POD_UID)?,
        database: variable(pod::ENV_DATABASE)?,
        namespace: variable(pod::ENV_POD_NAMESPACE)?,
    })
}
