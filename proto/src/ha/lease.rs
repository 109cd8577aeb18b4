//! The Lease as observed, and the only ways to write it (ha.md sections 2 and 3: W1 to W4).
//!
//! A write can only be made from a *proof* ([`Claimable`], [`Held`], [`Lost`]) that owns the version it was
//! judged on: there is no way to take over with another version than the one that was seen to expire.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::document::{self, Document};
use crate::{
    clock::BootTime,
    identity::{Epoch, Holder, RunId},
};

/// `metadata.resourceVersion`: opaque, compared only for equality.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ResourceVersion(pub String);

/// `spec.renewTime` in microseconds: the unique name of one write (W2). No decision reads it as a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriteId(pub i64);

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who the Lease says holds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HolderField {
    /// Empty: released, or never held.
    Nobody,
    /// A member's supervisor run.
    Run(Holder),
    /// Text that no agent wrote. Somebody holds it, so it must expire.
    Nonsense(String),
}

/// What the Lease says beside its own fields.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Recorded {
    /// The HA document.
    Document(#[serde(deserialize_with = "document::checked")] Box<Document>),
    /// No document, and the operator's mark that there never was one
    /// ([`crate::pod::ANNOTATION_NEVER_INITIALISED`] with this Database's UID).
    NeverInitialised,
    /// Neither: nobody may lead (W4). The text says what is wrong.
    Unreadable(String),
}

/// One version of the Lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseVersion {
    /// Which.
    pub resource_version: ResourceVersion,
    /// `spec.holderIdentity`.
    pub holder: HolderField,
    /// `spec.leaseTransitions`.
    pub epoch: Epoch,
    /// `spec.renewTime`; `None` if nobody ever wrote it.
    pub write_id: Option<WriteId>,
    /// `spec.leaseDurationSeconds`: L as the holder lives by it.
    pub duration: Duration,
    /// The annotation.
    pub recorded: Recorded,
}

/// A version together with how long it has been seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observed {
    /// What was seen.
    pub version: LeaseVersion,
    /// When *this version* was first seen here.
    pub first_seen: BootTime,
    /// When the last linearizable GET was sent that still showed it (or the write was, that made it).
    pub confirmed: BootTime,
}

/// What is known of the Lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sighting {
    /// Not read yet since the agent started.
    NotYet,
    /// The API server says that it does not exist (404 to a GET sent at this time).
    Missing(BootTime),
    /// Seen.
    Seen(Observed),
}

/// The whole new contents of the Lease. The writer removes
/// [`crate::pod::ANNOTATION_NEVER_INITIALISED`] and sets [`crate::pod::ANNOTATION_HA`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Contents {
    /// `None` releases.
    pub holder: Option<Holder>,
    /// `spec.leaseTransitions`.
    pub epoch: Epoch,
    /// `spec.renewTime`.
    pub write_id: WriteId,
    /// `spec.leaseDurationSeconds`.
    pub duration: Duration,
    /// The annotation.
    #[serde(deserialize_with = "document::checked")]
    pub document: Document,
}

/// A full replace of the Lease, bound to the version that it was decided on. Only the proofs make one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseWrite {
    basis: Option<ResourceVersion>,
    contents: Contents,
}

impl LeaseWrite {
    /// The version that must still be current (W1); `None` means "create: it must not exist".
    pub fn basis(&self) -> Option<&ResourceVersion> {
        self.basis.as_ref()
    }

    /// What to write.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The same for another member to write; `None` if it would create the Lease.
    pub fn to_renewal(&self) -> Option<Renewal> {
        let basis = self.basis.clone()?;
        Some(Renewal { basis, contents: self.contents.clone() })
    }
}

/// A holder's write on its way to the API server through another member (ha.md section 6): data, until that
/// member has read the version that it replaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Renewal {
    /// The version that must still be current (W1).
    pub basis: ResourceVersion,
    /// What to write.
    pub contents: Contents,
}

impl Renewal {
    /// The write, if `current`, read a moment ago, is the version that it was decided on and its author's.
    pub fn judge(&self, current: &LeaseVersion) -> Option<LeaseWrite> {
        let author = self.contents.holder.clone().map(HolderField::Run);
        let same = current.resource_version == self.basis
            && current.epoch == self.contents.epoch
            && author.as_ref() == Some(&current.holder);
        same.then(|| LeaseWrite { basis: Some(self.basis.clone()), contents: self.contents.clone() })
    }

    /// Whether `shown` is this very renewal (W2).
    pub fn has_landed(&self, shown: &LeaseVersion) -> bool {
        shown.write_id == Some(self.contents.write_id)
    }
}

/// Why a Lease may be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vacancy {
    /// Nobody holds it.
    Released,
    /// The same version was seen for L, and by a GET sent after that.
    Expired,
    /// My own pod holds it, and its PostgreSQL is proven not to be a primary.
    Own,
}

/// Proof that the Lease may be claimed. Owns the version that was judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claimable {
    basis: ResourceVersion,
    vacancy: Vacancy,
}

impl Claimable {
    /// Judges a version that somebody else may hold; `Err` says why it cannot be claimed (yet).
    pub fn judge(observed: &Observed, now: BootTime) -> Result<Self, NotClaimable> {
        let version = &observed.version;
        let vacancy = match version.holder {
            HolderField::Nobody => Vacancy::Released,
            HolderField::Run(_) | HolderField::Nonsense(_) => {
                let dead_at = observed.first_seen + version.duration;
                if now < dead_at {
                    return Err(NotClaimable::Alive { dead_at });
                }
                if observed.confirmed < dead_at {
                    return Err(NotClaimable::Unconfirmed);
                }
                Vacancy::Expired
            }
        };
        Ok(Self { basis: version.resource_version.clone(), vacancy })
    }

    /// Claims what my own pod holds: its server is closed or dead (`quiet`), so nothing else can be running
    /// under the Lease (ha.md section 2: a restarted supervisor claims anew, without waiting L).
    pub fn own(observed: &Observed, me: &Holder, _quiet: &Quiet) -> Option<Self> {
        match &observed.version.holder {
            HolderField::Run(holder) if holder.pod == me.pod && holder.pod_uid == me.pod_uid => {
                Some(Self { basis: observed.version.resource_version.clone(), vacancy: Vacancy::Own })
            }
            _ => None,
        }
    }

    /// Why.
    pub fn vacancy(&self) -> Vacancy {
        self.vacancy
    }

    /// The write that takes it.
    pub fn claim(self, contents: Contents) -> LeaseWrite {
        LeaseWrite { basis: Some(self.basis), contents }
    }
}

/// Why a Lease cannot be claimed (yet).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotClaimable {
    /// It counts as alive until then.
    Alive {
        /// L after this version was first seen.
        dead_at: BootTime,
    },
    /// L has passed, but no GET sent after that has confirmed the version (review A-1).
    Unconfirmed,
}

/// Proof that this supervisor run holds the judged version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    basis: ResourceVersion,
    holder: Holder,
    epoch: Epoch,
}

impl Held {
    /// `Some` if `me` holds this version.
    pub fn judge(observed: &Observed, me: &Holder) -> Option<Self> {
        let version = &observed.version;
        (version.holder == HolderField::Run(me.clone())).then(|| Self {
            basis: version.resource_version.clone(),
            holder: me.clone(),
            epoch: version.epoch,
        })
    }

    /// The epoch held.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Renews, with whatever the document should say now.
    pub fn renew(&self, write_id: WriteId, duration: Duration, document: Document) -> LeaseWrite {
        let holder = Some(self.holder.clone());
        LeaseWrite {
            basis: Some(self.basis.clone()),
            contents: Contents { holder, epoch: self.epoch, write_id, duration, document },
        }
    }
}

/// Proof that nothing here can acknowledge anything: every process was reaped, or has SIGKILL pending, or the
/// lock is free; or the server is a standby that was not promoted under the epoch held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Quiet(());

impl Quiet {
    /// Only [`super::fence`] judges a server.
    pub(super) fn proven() -> Self {
        Self(())
    }

    /// Gives the Lease back: whoever `holder` names in it is this pod.
    pub fn release(&self, observed: &Observed, pod_uid: &str, contents: Contents) -> Option<LeaseWrite> {
        match &observed.version.holder {
            HolderField::Run(holder) if holder.pod_uid == pod_uid => Some(LeaseWrite {
                basis: Some(observed.version.resource_version.clone()),
                contents: Contents { holder: None, ..contents },
            }),
            _ => None,
        }
    }
}

/// Proof that the Lease object vanished while this run held it and its deadline has not passed (W4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lost {
    holder: Holder,
    epoch: Epoch,
}

impl Lost {
    /// `Some` if the 404 came within the deadline of a renewal that landed.
    pub fn judge(
        sighting: &Sighting,
        me: &Holder,
        epoch: Epoch,
        deadline: BootTime,
        now: BootTime,
    ) -> Option<Self> {
        (matches!(sighting, Sighting::Missing(_)) && now < deadline)
            .then(|| Self { holder: me.clone(), epoch })
    }

    /// Creates it again with the same document.
    pub fn recreate(self, write_id: WriteId, duration: Duration, document: Document) -> LeaseWrite {
        let holder = Some(self.holder);
        LeaseWrite {
            basis: None,
            contents: Contents { holder, epoch: self.epoch, write_id, duration, document },
        }
    }
}

/// Whose Lease it is, seen from here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Tenant {
    /// Nobody's.
    Nobody,
    /// This supervisor run's.
    Me,
    /// This pod's, but an earlier run of its supervisor took it.
    MyFormerRun,
    /// Another's, or nonsense.
    Another,
}

/// Whose Lease `version` is, for a pod whose supervisor runs as `run` (`None` while it is not known).
pub fn tenant(version: &LeaseVersion, pod_uid: &str, run: Option<&RunId>) -> Tenant {
    match &version.holder {
        HolderField::Nobody => Tenant::Nobody,
        HolderField::Run(holder) if holder.pod_uid == pod_uid => match Some(&holder.run) == run {
            true => Tenant::Me,
            false => Tenant::MyFormerRun,
        },
        HolderField::Run(_) | HolderField::Nonsense(_) => Tenant::Another,
    }
}
