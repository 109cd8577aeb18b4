//! Whether a child already is what it should be, so that nothing is written. Pure.
//!
//! Two things must hold. The fingerprint that the last apply left in an annotation must be that of the intent:
//! so fields that the intent no longer has were removed by that apply. And everything in the intent must be in
//! the live object: so nobody changed it since. What others added (defaults, status) does not count.

use proto::api::quantity::Bytes;
use serde_json::{Map, Value};

use crate::digest::digest;

/// Annotation on every applied child: fingerprint of what was applied.
const ANNOTATION_APPLIED: &str = "db.example.com/applied";

/// The intent with its own fingerprint in it.
pub(super) fn with_fingerprint(mut intent: Value) -> Value {
    let fingerprint = digest(&intent.to_string());
    if let Some(metadata) = intent.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(ANNOTATION_APPLIED.to_owned(), Value::String(fingerprint));
        }
    }
    intent
}

/// Whether `live` has everything that `intent` says; the fingerprint is part of both.
pub(super) fn covers(live: &Value, intent: &Value) -> bool {
    match (live, intent) {
        (_, Value::Null) => true,
        (Value::Object(live), Value::Object(intent)) => {
            intent.iter().all(|(key, wanted)| match live.get(key) {
                Some(found) => covers(found, wanted),
                None => is_empty(wanted),
            })
        }
        (Value::Array(live), Value::Array(intent)) => {
            live.len() == intent.len() && live.iter().zip(intent).all(|(live, intent)| covers(live, intent))
        }
        (Value::String(live), Value::String(intent)) => live == intent || same_quantity(live, intent),
        (live, intent) => live == intent,
    }
}

/// What the API server leaves out when it stores an object.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// The API server writes quantities in its own way: `0.5` comes back as `500m`, `1024Mi` as `1Gi`.
fn same_quantity(one: &str, other: &str) -> bool {
    match (thousandths(one), thousandths(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

fn thousandths(text: &str) -> Option<u128> {
    let as_is = |text: &str| text.parse::<Bytes>().ok().map(|amount| u128::from(amount.0));
    match text.strip_suffix('m') {
        Some(number) => as_is(number),
        // Three more digits before parsing, so that 0.5 stays exact.
        None => as_is(&shifted(text)?),
    }
}

/// `text` times 1000: the decimal point moves three digits to the right.
fn shifted(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let (moved, rest) = fraction.split_at_checked(3).unwrap_or((fraction, ""));
    (!number.is_empty()).then(|| format!("{whole}{moved:0<3}.{rest}{suffix}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_added_by_others_do_not_count() {
        let intent = json!({"spec": {"ports": [{"port": 5432}], "selector": {"a": "b"}, "externalIPs": []}});
        let live = json!({
            "spec": {"ports": [{"port": 5432, "nodePort": 0}], "selector": {"a": "b"}, "type": "ClusterIP"},
            "status": {},
        });
        assert!(covers(&live, &intent));
    }

    #[test]
    fn what_somebody_changed_or_removed_counts() {
        let intent = json!({"spec": {"ports": [{"port": 5432}], "selector": {"a": "b"}, "n": 1}});
        for live in [
            json!({"spec": {"ports": [{"port": 5432}], "selector": {"a": "c"}, "n": 1}}),
            json!({"spec": {"ports": [], "selector": {"a": "b"}, "n": 1}}),
            json!({"spec": {"ports": [{"port": 5432}, {"port": 1}], "selector": {"a": "b"}, "n": 1}}),
            json!({"spec": {"ports": [{"port": 5432}], "selector": {"a": "b"}}}),
            json!({}),
        ] {
            assert!(!covers(&live, &intent), "{live}");
        }
    }

    #[test]
    fn quantities_are_the_same_in_any_writing() {
        for (live, intent) in
            [("500m", "0.5"), ("1Gi", "1024Mi"), ("1", "1000m"), ("1500m", "1.5"), ("2k", "2000")]
        {
            assert!(covers(&json!(live), &json!(intent)), "{live} {intent}");
        }
        for (live, intent) in [("500m", "0.6"), ("1Gi", "1G"), ("a", "b"), ("1", "1m")] {
            assert!(!covers(&json!(live), &json!(intent)), "{live} {intent}");
        }
    }

    #[test]
    fn a_field_dropped_from_the_intent_changes_the_fingerprint() {
        let before = with_fingerprint(json!({"metadata": {}, "spec": {"a": 1, "b": 2}}));
        let after = with_fingerprint(json!({"metadata": {}, "spec": {"a": 1}}));
        assert!(covers(&before, &before));
        assert!(!covers(&before, &after));
    }
}
