//! What is recorded of a Database outside of its members: the Lease and the system identifier (ha.md W4). Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use proto::{
    api::status::DatabaseStatus,
    ha::document::Document,
    identity::{Holder, Ordinal},
    pod::{ANNOTATION_HA, ANNOTATION_NEVER_INITIALISED, ANNOTATION_SYSTEM_ID},
    postgres::SystemIdentifier,
};

use super::{members::Members, observe::Observed};

/// The Lease as far as the operator looks at it. It never writes one that has a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LeaseFacts {
    /// There is none.
    Missing,
    /// Made by an operator and never claimed, for the Database of this UID.
    NeverInitialised { uid: String },
    /// The agents' document.
    Written { members: BTreeSet<Ordinal>, holder: Option<String>, system_identifier: SystemIdentifier },
    /// Neither: nobody may lead.
    Unreadable,
}

/// Reads it.
pub(crate) fn lease_facts(lease: Option<&Lease>) -> LeaseFacts {
    let Some(lease) = lease else { return LeaseFacts::Missing };
    let annotations = lease.annotations();
    if let Some(text) = annotations.get(ANNOTATION_HA) {
        return Document::parse(text).map_or(LeaseFacts::Unreadable, |document| LeaseFacts::Written {
            members: document.members.into_keys().collect(),
            holder: holder_pod(lease),
            system_identifier: document.system_identifier,
        });
    }
    annotations
        .get(ANNOTATION_NEVER_INITIALISED)
        .map_or(LeaseFacts::Unreadable, |uid| LeaseFacts::NeverInitialised { uid: uid.clone() })
}

fn holder_pod(lease: &Lease) -> Option<String> {
    let holder = lease.spec.as_ref()?.holder_identity.as_ref()?;
    holder.parse::<Holder>().ok().map(|holder| holder.pod)
}

/// Which data this Database is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nothing was ever recorded: the first instance may make new data.
    Unborn,
    /// Recorded, everywhere the same.
    Known(SystemIdentifier),
    /// Two records differ. Nothing is changed until a person has looked.
    Contradiction(BTreeSet<SystemIdentifier>),
}

impl Identity {
    /// The identifier, if there is exactly one.
    pub(crate) fn known(&self) -> Option<SystemIdentifier> {
        match self {
            Self::Known(identifier) => Some(*identifier),
            Self::Unborn | Self::Contradiction(_) => None,
        }
    }
}

/// Collects every record: StatefulSet, volumes, Lease, status, and the word of a member that accepts writes.
pub(crate) fn identity(
    status: Option<&DatabaseStatus>,
    observed: &Observed,
    lease: &LeaseFacts,
    members: &Members,
) -> Identity {
    let of_set = observed.stateful_set.as_ref().and_then(|set| set.annotations().get(ANNOTATION_SYSTEM_ID));
    let of_volumes = members.values().filter_map(|member| member.volume.as_ref()?.system_identifier.as_ref());
    let of_status = status.and_then(|status| status.system_identifier.as_ref());
    let texts = of_set.into_iter().chain(of_volumes).chain(of_status);
    let recorded = texts.filter_map(|text| text.parse().ok().map(SystemIdentifier));
    let of_lease = match lease {
        LeaseFacts::Written { system_identifier, .. } => Some(*system_identifier),
        _ => None,
    };
    let primaries = members.values().filter(|member| member.is_primary());
    let said = primaries.filter_map(|member| member.status.as_ref()?.system_identifier);
    let all: BTreeSet<_> = recorded.chain(of_lease).chain(said).collect();
    match (all.len(), all.first()) {
        (1, Some(only)) => Identity::Known(*only),
        (0, _) => Identity::Unborn,
        _ => Identity::Contradiction(all),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::members::{Member, VolumeFacts};

    fn lease(annotations: &serde_json::Value) -> Lease {
        serde_json::from_value(json!({
            "metadata": {"name": "orders-db", "annotations": annotations},
            "spec": {"holderIdentity": "orders-db-1/uid/run"},
        }))
        .unwrap()
    }

    #[test]
    fn a_lease_is_told_apart_by_its_annotations() {
        assert_eq!(lease_facts(None), LeaseFacts::Missing);
        assert_eq!(lease_facts(Some(&lease(&json!({})))), LeaseFacts::Unreadable);
        assert_eq!(lease_facts(Some(&lease(&json!({ANNOTATION_HA: "{}"})))), LeaseFacts::Unreadable);
        assert_eq!(
            lease_facts(Some(&lease(&json!({ANNOTATION_NEVER_INITIALISED: "4bd1"})))),
            LeaseFacts::NeverInitialised { uid: "4bd1".to_owned() }
        );
        let document = json!({
            "timeline": 3,
            "members": {"0": "d0000000000000000", "2": "d0000000000000002"},
            "configurations": [],
            "history": [],
            "systemIdentifier": "77",
        })
        .to_string();
        assert_eq!(
            lease_facts(Some(&lease(&json!({ANNOTATION_HA: document})))),
            LeaseFacts::Written {
                members: BTreeSet::from([Ordinal(0), Ordinal(2)]),
                holder: Some("orders-db-1".to_owned()),
                system_identifier: SystemIdentifier(77),
            }
        );
    }

    fn with_volume(identifier: &str) -> Members {
        let volume = VolumeFacts {
            name: "data-orders-db-0".to_owned(),
            uid: "u".to_owned(),
            leaving: false,
            size: None,
            system_identifier: Some(identifier.to_owned()),
        };
        Members::from([(Ordinal(0), Member { volume: Some(volume), ..Member::default() })])
    }

    #[test]
    fn the_identity_survives_in_any_one_record_and_contradictions_are_seen() {
        let observed = Observed::default();
        let status = DatabaseStatus { system_identifier: Some("77".to_owned()), ..DatabaseStatus::default() };
        let none = Members::new();
        assert_eq!(identity(None, &observed, &LeaseFacts::Missing, &none), Identity::Unborn);
        let known = Identity::Known(SystemIdentifier(77));
        assert_eq!(identity(Some(&status), &observed, &LeaseFacts::Missing, &none), known);
        assert_eq!(identity(None, &observed, &LeaseFacts::Missing, &with_volume("77")), known);
        assert_eq!(
            identity(Some(&status), &observed, &LeaseFacts::Missing, &with_volume("78")),
            Identity::Contradiction(BTreeSet::from([SystemIdentifier(77), SystemIdentifier(78)]))
        );
    }
}
