//! One deadline for every single call to the API server. kube itself has no read timeout, and its retries are
//! off: the reconcile's own backoff is the retry.

use std::time::Duration;

use kube::core::Status;

/// Longest that one request may take. An answer normally takes milliseconds; an API server that needs longer
/// than this is overloaded, and the slot is better used for another Database.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No answer in time; a write may or may not have landed.
    #[error("the API server did not answer within {CALL_TIMEOUT:?}")]
    Timeout,
    /// Refused, or the connection failed.
    #[error("{}", brief(.0))]
    Failed(#[source] Box<kube::Error>),
}

impl CallError {
    /// The API server's own answer, if there was one.
    pub(crate) fn status(&self) -> Option<&Status> {
        match self {
            Self::Failed(error) => match error.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Timeout => None,
        }
    }

    /// The object changed or exists already: read again and decide again.
    pub(crate) fn is_conflict(&self) -> bool {
        self.status().is_some_and(|status| status.code == 409)
    }

    /// The object is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }
}

/// kube's errors embed their sources, so only the server's message is shown here.
fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("the API server answered {}: {}", status.code, status.message),
        _ => "the request to the API server failed".to_owned(),
    }
}

/// `call`, with the deadline.
pub(crate) async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|error| CallError::Failed(Box::new(error))),
        Err(_) => Err(CallError::Timeout),
    }
}
