//! The CustomResourceDefinitions as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::{backup::Backup, database::Database};

/// The definition of `Database`.
pub fn database() -> Result<CustomResourceDefinition, serde_json::Error> {
    simplified(Database::crd())
}

/// The definition of `Backup`.
pub fn backup() -> Result<CustomResourceDefinition, serde_json::Error> {
    simplified(Backup::crd())
}

/// Without what schemars adds that Kubernetes has no use for.
fn simplified(definition: CustomResourceDefinition) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut definition = serde_json::to_value(definition)?;
    simplify(&mut definition);
    serde_json::from_value(definition)
}

/// Removes `nullable`, so that an explicit null is the same as leaving a field out (and gets its default), and
/// number formats that the API server does not know and would warn about.
fn simplify(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("nullable") == Some(&Value::Bool(true)) {
                fields.remove("nullable");
            }
            if fields.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                fields.remove("format");
            }
            fields.values_mut().for_each(simplify);
        }
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(definition: CustomResourceDefinition) -> Value {
        serde_json::to_value(definition).unwrap()["spec"]["versions"][0].clone()
    }

    fn spec() -> Value {
        version(database().unwrap())
    }

    fn all() -> [Value; 2] {
        [version(database().unwrap()), version(backup().unwrap())]
    }

    #[test]
    fn only_what_has_no_default_is_required() {
        let version = spec();
        let schema = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert_eq!(schema["required"], serde_json::json!(["storage", "version"]));
        assert_eq!(schema["properties"]["replicas"]["default"], 1);
        assert_eq!(schema["properties"]["durability"]["default"], "Preferred");
        assert_eq!(schema["properties"]["failover"]["default"]["profile"], "Standard");
    }

    #[test]
    fn status_and_scale_are_subresources() {
        let version = spec();
        assert!(version["subresources"]["status"].is_object());
        assert_eq!(version["subresources"]["scale"]["labelSelectorPath"], ".status.selector");
    }

    #[test]
    fn every_field_of_the_spec_is_described() {
        fn undescribed(path: &str, schema: &Value, found: &mut Vec<String>) {
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{name}");
                if field["description"].is_null() {
                    found.push(path.clone());
                }
                undescribed(&path, field, found);
            }
        }
        let mut found = Vec::new();
        for (version, part) in all().iter().flat_map(|version| [(version, "spec"), (version, "status")]) {
            undescribed(part, &version["schema"]["openAPIV3Schema"]["properties"][part], &mut found);
        }
        assert_eq!(found, Vec::<String>::new());
    }

    /// The API server refuses a schema in which these words appear where it wants a structural one.
    #[test]
    fn the_schema_is_structural() {
        let text = all().map(|version| version["schema"].to_string()).concat();
        for word in ["\"$ref\"", "\"anyOf\"", "\"oneOf\"", "\"const\"", "\"nullable\"", "\"uint"] {
            assert!(!text.contains(word), "{word} in the schema");
        }
    }
}
