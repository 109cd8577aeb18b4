//! Between the Lease object and what the decision core knows of it (docs/ha.md section 2).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use proto::{
    ha::{
        document::Document,
        lease::{Contents, HolderField, LeaseVersion, Recorded, ResourceVersion, WriteId},
        profile::Profile,
    },
    identity::Epoch,
    pod::{ANNOTATION_HA, ANNOTATION_NEVER_INITIALISED},
};

/// What a Lease object says. Nothing in it can make this fail: what cannot be read is told as such (W4).
pub(super) fn version(lease: &Lease, database_uid: &str) -> LeaseVersion {
    let spec = lease.spec.as_ref();
    let number = |value: Option<i32>| value.and_then(|value| u32::try_from(value).ok()).unwrap_or_default();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
    let stated = Epoch(number(spec.and_then(|spec| spec.lease_transitions)));
    let recorded = recorded(lease, database_uid);
    LeaseVersion {
        resource_version: ResourceVersion(lease.metadata.resource_version.clone().unwrap_or_default()),
        holder: holder(spec.and_then(|spec| spec.holder_identity.as_deref())),
        epoch: match &recorded {
            Recorded::Document(document) => document.epoch(stated),
            Recorded::NeverInitialised | Recorded::Unreadable(_) => stated,
        },
        write_id: spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| WriteId(time.0.as_microsecond())),
        duration: patience(seconds),
        recorded,
    }
}

/// L as the holder lives by it. What no agent writes was edited by hand, and says nothing of when the holder will
/// have stopped: nobody lives longer by any profile than by the longest.
fn patience(seconds: i32) -> Duration {
    let known = [Profile::Fast, Profile::Standard, Profile::Tolerant].map(|profile| profile.timing().lease);
    let stated = u64::try_from(seconds).map(Duration::from_secs).unwrap_or_default();
    known.into_iter().find(|lease| *lease == stated).unwrap_or(Profile::Tolerant.timing().lease)
}

fn holder(text: Option<&str>) -> HolderField {
    match text.unwrap_or_default() {
        "" => HolderField::Nobody,
        text => text.parse().map_or_else(|_| HolderField::Nonsense(text.to_owned()), HolderField::Run),
    }
}

fn recorded(lease: &Lease, database_uid: &str) -> Recorded {
    let annotation = |key| lease.metadata.annotations.as_ref().and_then(|all| all.get(key));
    match (annotation(ANNOTATION_HA), annotation(ANNOTATION_NEVER_INITIALISED)) {
        (Some(text), _) => match Document::parse(text) {
            Ok(document) => Recorded::Document(Box::new(document)),
            Err(error) => Recorded::Unreadable(crate::chain::Chain(&error).to_string()),
        },
        (None, Some(uid)) if uid == database_uid => Recorded::NeverInitialised,
        (None, Some(uid)) => Recorded::Unreadable(format!(
            "the Lease belongs to the Database with UID {uid}, not to this one with UID {database_uid}"
        )),
        (None, None) => Recorded::Unreadable(format!("the Lease has no annotation {ANNOTATION_HA}")),
    }
}

/// The object that replaces `seen` (or is created if the caller strips the version): its metadata stay as they
/// are, since labels and owner belong to the operator.
pub(super) fn object(seen: &ObjectMeta, contents: &Contents) -> Lease {
    let mut metadata = seen.clone();
    metadata.managed_fields = None;
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.remove(ANNOTATION_NEVER_INITIALISED);
    annotations.insert(ANNOTATION_HA.to_owned(), contents.document.to_json());
    let time = Timestamp::from_microsecond(contents.write_id.0).ok().map(MicroTime);
    let spec = LeaseSpec {
        holder_identity: Some(contents.holder.as_ref().map(ToString::to_string).unwrap_or_default()),
        lease_transitions: i32::try_from(contents.epoch.0).ok(),
        lease_duration_seconds: i32::try_from(contents.duration.as_secs()).ok(),
        renew_time: time,
        ..LeaseSpec::default()
    };
    Lease { metadata, spec: Some(spec) }
}
