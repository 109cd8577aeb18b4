//! Against an API server of one answer.

use std::convert::Infallible;

use axum::http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// Answers a POST with `made`, a GET with `found`.
fn server(made: u16, found: Option<Value>) -> Api<Backup> {
    let service = tower::service_fn(move |request: Request<Body>| {
        let backup = |status: &Value| {
            json!({
                "apiVersion": "db.example.com/v1alpha1", "kind": "Backup",
                "metadata": {"name": "nightly", "namespace": "prod"},
                "spec": {"database": "orders-db"}, "status": status,
            })
        };
        let refused = |code| {
            let reason = if code == 404 { "NotFound" } else { "Other" };
            json!({"kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": reason})
        };
        let (code, body) = match (request.method(), &found) {
            (&Method::POST, _) if made == 201 => (201, backup(&Value::Null)),
            (&Method::POST, _) => (made, refused(made)),
            (_, Some(status)) => (200, backup(status)),
            (_, None) => (404, refused(404)),
        };
        let answer =
            Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap();
        async move { Ok::<_, Infallible>(answer) }
    });
    Api::namespaced(Client::new(service, "prod"), "prod")
}

#[tokio::test]
async fn a_backup_that_exists_is_waited_for_and_a_refusal_is_an_error() {
    for (code, fits) in [(201, true), (409, true), (403, false)] {
        let spec = BackupSpec { database: "orders-db".to_owned(), method: BackupMethod::Physical };
        let asked = ask(&server(code, None), "nightly", &spec).await;
        assert_eq!(asked.is_ok(), fits, "{code}");
    }
}

#[test]
fn a_schedule_may_name_a_method() {
    assert_eq!(method(None).unwrap(), BackupMethod::Physical);
    assert_eq!(method(Some("VolumeSnapshot".to_owned())).unwrap(), BackupMethod::VolumeSnapshot);
    assert!(method(Some("Tape".to_owned())).unwrap_err().to_string().contains("Tape"));
}

#[tokio::test]
async fn the_end_of_the_backup_is_the_end_of_the_job() {
    let outcome = async |found: Option<Value>| {
        let status = look(&server(201, found), "nightly").await.unwrap()?;
        status.phase.is_over().then(|| judge("nightly", &status).map_err(|error| error.to_string()))
    };
    assert_eq!(outcome(Some(Value::Null)).await, None);
    assert_eq!(outcome(Some(json!({"phase": "Running"}))).await, None);
    assert_eq!(outcome(Some(json!({"phase": "Completed"}))).await, Some(Ok(())));
    let failed = outcome(Some(json!({"phase": "Failed", "error": "no such bucket"}))).await;
    assert_eq!(failed, Some(Err("Backup nightly failed: no such bucket".to_owned())));
    let deleted = outcome(None).await.unwrap().unwrap_err();
    assert!(deleted.contains("deleted before it ended"), "{deleted}");
}
