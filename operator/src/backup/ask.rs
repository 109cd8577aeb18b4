//! Carries out the step of one Backup (client). What fails is asked again by the next reconcile, or counts as an attempt
//! when nothing came of it.

use jiff::Timestamp;
use proto::wire::{
    backup::StartBackup,
    snapshot::{BackupMethod, SnapshotTaken},
};

use super::{plan::Step, scene::Scene, snapshots};
use crate::{chain::chain, cluster::Cluster, controller::Context};

/// Asks; returns what people have to know if it was refused.
pub(super) async fn ask(
    context: &Context,
    cluster: &Cluster,
    scene: &Scene,
    (step, method): (&Step, BackupMethod),
    now: Timestamp,
) -> Option<String> {
    let asking = Asking { context, cluster, scene, method, now };
    match step {
        Step::Begin { pod, id } | Step::Ask { pod, id } => {
            asking.begin(pod, id).await;
            None
        }
        Step::TakeSnapshot { pod, id, .. } => asking.take_snapshot(pod, id).await,
        Step::Release { pod, id, taken } => {
            asking.release(pod, id, taken).await;
            None
        }
        _ => None,
    }
}

struct Asking<'a> {
    context: &'a Context,
    cluster: &'a Cluster,
    scene: &'a Scene,
    method: BackupMethod,
    now: Timestamp,
}

impl Asking<'_> {
    async fn begin(&self, pod: &str, id: &str) {
        let asked = self.cluster.ordinal_of(pod).zip(self.scene.target(self.cluster, self.now));
        let Some((ordinal, target)) = asked else { return };
        let full_every = self.cluster.spec.backup.as_ref().map_or(1, |backup| backup.full_every);
        let request = StartBackup { name: id.to_owned(), full_every, method: self.method };
        let begun = self.context.agents.start_backup(target, self.scene.address(ordinal), &request).await;
        if let Err(error) = begun {
            tracing::warn!(pod, id, error = %chain(&error), "the instance did not begin the backup");
        }
    }

    async fn take_snapshot(&self, pod: &str, id: &str) -> Option<String> {
        let ordinal = self.cluster.ordinal_of(pod)?;
        let error = snapshots::take(self.context, self.cluster, ordinal, id).await.err()?;
        let why = chain(&error);
        tracing::warn!(pod, id, error = why, "the VolumeSnapshot was not made");
        Some(format!("no VolumeSnapshot can be made: {why}"))
    }

    async fn release(&self, pod: &str, id: &str, taken: &SnapshotTaken) {
        let asked = self.cluster.ordinal_of(pod).zip(self.scene.target(self.cluster, self.now));
        let Some((ordinal, target)) = asked else { return };
        let told = self.context.agents.snapshot_taken(target, self.scene.address(ordinal), id, taken).await;
        if let Err(error) = told {
            tracing::warn!(pod, id, error = %chain(&error), "the instance was not told of its VolumeSnapshot");
        }
    }
}
