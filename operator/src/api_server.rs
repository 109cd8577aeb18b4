//! A small API server in memory for tests: stores objects as JSON, checks versions and UIDs, records writes.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::http;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tower::service_fn;

/// The server; clones share the store.
#[derive(Clone, Default)]
pub(crate) struct ApiServer(Arc<Mutex<Store>>);

#[derive(Default)]
struct Store {
    /// By path, such as `/api/v1/namespaces/prod/services/orders-db-rw`.
    objects: BTreeMap<String, Value>,
    /// `METHOD path` of each write, events left out.
    writes: Vec<String>,
    /// `METHOD path` of a request to its answer, once.
    faults: BTreeMap<String, u16>,
    events: Vec<Value>,
    version: u64,
}

type Answer = Result<Value, u16>;

impl ApiServer {
    /// A client whose requests end here.
    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = service_fn(move |request: http::Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Puts an object as it is.
    pub(crate) fn put(&self, path: &str, object: Value) {
        let mut store = self.0.lock().unwrap();
        store.save(path, object);
    }

    /// The object at `path`.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// Removes it.
    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().unwrap().objects.remove(path);
    }

    /// Changes it.
    pub(crate) fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut store = self.0.lock().unwrap();
        let mut object = store.objects.get(path).cloned().unwrap();
        change(&mut object);
        store.save(path, object);
    }

    /// The next such request is answered with this status.
    pub(crate) fn fail_once(&self, request: &str, status: u16) {
        self.0.lock().unwrap().faults.insert(request.to_owned(), status);
    }

    /// Writes since the last call.
    pub(crate) fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().writes)
    }

    /// Reasons of the events since the last call.
    pub(crate) fn take_events(&self) -> Vec<String> {
        let events = std::mem::take(&mut self.0.lock().unwrap().events);
        events.iter().map(|event| event["reason"].as_str().unwrap_or_default().to_owned()).collect()
    }

    async fn answer(&self, request: http::Request<Body>) -> http::Response<Body> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let answer = self.0.lock().unwrap().handle(parts.method.as_str(), &parts.uri, body);
        let (status, body) = match answer {
            Ok(object) => (200, object),
            Err(status) => (
                status,
                json!({"kind": "Status", "status": "Failure", "code": status, "message": "by script", "reason": reason(status)}),
            ),
        };
        http::Response::builder().status(status).body(Body::from(body.to_string().into_bytes())).unwrap()
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        _ => "InternalError",
    }
}

impl Store {
    fn handle(&mut self, method: &str, uri: &http::Uri, body: Value) -> Answer {
        let path = uri.path();
        if path.contains("/events") {
            if method == "GET" {
                return Ok(json!({"items": []}));
            }
            self.events.push(body.clone());
            return Ok(body);
        }
        if let Some(status) = self.faults.remove(&format!("{method} {path}")) {
            return Err(status);
        }
        if method == "GET" {
            return self.read(path);
        }
        self.writes.push(format!("{method} {path}"));
        match method {
            "POST" => self.create(path, body),
            "PUT" => self.replace(path, body),
            "PATCH" => Ok(self.patch(path, body)),
            "DELETE" => self.delete(path, &body),
            _ => Err(405),
        }
    }

    /// A path that ends with a plural is a list. Selectors are not needed here: every object is of one Database.
    fn read(&self, path: &str) -> Answer {
        let lists = ["services", "pods", "persistentvolumeclaims", "jobs"];
        if lists.iter().any(|plural| path.ends_with(&format!("/{plural}"))) {
            let children = self.objects.iter().filter(|(of, _)| of.starts_with(&format!("{path}/")));
            return Ok(
                json!({"metadata": {}, "items": children.map(|(_, object)| object).collect::<Vec<_>>()}),
            );
        }
        self.objects.get(path).cloned().ok_or(404)
    }

    fn create(&mut self, path: &str, object: Value) -> Answer {
        let path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
        if self.objects.contains_key(&path) {
            return Err(409);
        }
        Ok(self.save(&path, object))
    }

    fn replace(&mut self, path: &str, object: Value) -> Answer {
        let stored = self.objects.get(path).ok_or(404_u16)?;
        if stored["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return Err(409);
        }
        Ok(self.save(path, object))
    }

    /// JSON patches (finalizers), merge patches and applies all come down to a merge here.
    fn patch(&mut self, path: &str, change: Value) -> Value {
        let path = path.trim_end_matches("/status");
        let mut object = self.objects.get(path).cloned().unwrap_or_else(|| json!({}));
        match change {
            Value::Array(operations) => {
                let added = operations.iter().find(|operation| operation["op"] == "add");
                object["metadata"]["finalizers"] =
                    added.map_or(json!([]), |operation| match &operation["value"] {
                        Value::Array(list) => json!(list),
                        one => json!([one]),
                    });
            }
            change => merge(&mut object, change),
        }
        self.save(path, object)
    }

    fn delete(&mut self, path: &str, options: &Value) -> Answer {
        let stored = self.objects.get(path).ok_or(404_u16)?;
        let wanted = &options["preconditions"]["uid"];
        if !wanted.is_null() && *wanted != stored["metadata"]["uid"] {
            return Err(409);
        }
        Ok(self.objects.remove(path).unwrap_or_default())
    }

    fn save(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(self.version.to_string());
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("uid of {path}"));
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }
}

fn merge(target: &mut Value, change: Value) {
    match change {
        Value::Object(fields) if target.is_object() => {
            for (key, value) in fields {
                match value {
                    Value::Null => drop(target.as_object_mut().unwrap().remove(&key)),
                    value => merge(&mut target[key.as_str()], value),
                }
            }
        }
        other => *target = other,
    }
}
