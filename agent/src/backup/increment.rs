//! What a backup builds on: the server is told what the parent holds, and copies what has changed since. Where that
//! cannot be, the backup is a full one, and says why.

use proto::{postgres::WalPosition, wire::backup::BackupKind};

use super::{
    catalog, chain,
    chain::{Wanted, WhyFull},
    contents::Contents,
    patience::patiently,
    protocol::{Extent, MANIFEST, ProtocolError, Walsender},
    run::{BackupError, Copied, Run, first_row},
};
use crate::{archive::frame, chain::Chain, sql::archiving};

/// What a backup builds on.
pub(super) enum Base {
    /// On nothing; why, if something else was due.
    Nothing(Option<String>),
    /// On this one.
    Parent(Box<Contents>),
}

impl Base {
    /// The backup that it builds on.
    pub(super) fn parent(&self) -> Option<&Contents> {
        match self {
            Self::Parent(parent) => Some(parent),
            Self::Nothing(_) => None,
        }
    }

    /// Why it is a full one although it should not be.
    pub(super) fn fallback(&self) -> Option<String> {
        match self {
            Self::Nothing(why) => why.clone(),
            Self::Parent(_) => None,
        }
    }
}

impl From<WhyFull> for Base {
    fn from(why: WhyFull) -> Self {
        Self::Nothing((why != WhyFull::Due).then(|| why.to_string()))
    }
}

impl Run<'_> {
    /// Copies what has changed if that can be, else everything.
    pub(super) async fn copy_on_base(
        &self,
        name: &str,
        checksums: bool,
    ) -> Result<(Base, Copied), BackupError> {
        let mut base = self.base(checksums).await?;
        if let Some(parent) = base.parent() {
            self.note(|state| state.kind = BackupKind::Incremental);
            match self.copy(name, Some(parent)).await {
                Err(BackupError::NotIncremental(why)) => base = Base::Nothing(Some(why)),
                copied => return copied.map(|copied| (base, copied)),
            }
            self.note(|state| state.kind = BackupKind::Full);
        }
        if let Some(why) = base.fallback() {
            tracing::warn!(name, why, "a full backup is taken where an incremental one was due");
        }
        let copied = self.copy(name, None).await?;
        Ok((base, copied))
    }

    async fn base(&self, checksums: bool) -> Result<Base, BackupError> {
        let (store, root) = (&self.repository.store, &self.repository.root);
        let wanted = Wanted { full_every: self.full_every, server_version: self.server_version, checksums };
        if wanted.full_every <= 1 {
            return Ok(WhyFull::Due.into());
        }
        let (backups, histories) =
            tokio::try_join!(catalog::backups(store, root), catalog::histories(store, root))?;
        let newest = catalog::newest_timeline(&backups, &histories);
        let parent = chain::parent(&backups, newest, &histories, wanted);
        Ok(parent.map_or_else(Base::from, |parent| Base::Parent(Box::new(parent.clone()))))
    }

    /// Tells the server what the parent holds and asks for what has changed. The server looks for its own records of
    /// that before it says where the copy starts.
    pub(super) async fn begin_increment(
        &self,
        server: &mut Walsender,
        name: &str,
        parent: &Contents,
    ) -> Result<WalPosition, BackupError> {
        self.upload_manifest(server, parent).await?;
        server.base_backup(name, Extent::SinceManifest).await?;
        first_row(server).await.map_err(not_incremental)
    }

    async fn upload_manifest(&self, server: &mut Walsender, parent: &Contents) -> Result<(), BackupError> {
        let name = &parent.summary.name;
        let lost = |why: &str| BackupError::NotIncremental(format!("the manifest of {name} {why}"));
        let manifest = parent.archives.iter().find(|archive| archive.name == MANIFEST);
        let manifest = manifest.ok_or_else(|| lost("is missing in the repository"))?;
        server.begin_upload().await.map_err(BackupError::from).map_err(not_incremental)?;
        for number in 0..manifest.pieces {
            let path = self.repository.root.piece(name, MANIFEST, number);
            let frame = match self.repository.store.get_as(&path, parent.encrypted).await {
                Err(error) if error.is_lasting() => {
                    return Err(lost(&format!("is of no use: {}", Chain(&error))));
                }
                frame => frame?.ok_or_else(|| lost("is missing in the repository"))?,
            };
            let piece = tokio::task::spawn_blocking(move || frame::decompress(&frame)).await;
            let piece =
                piece.ok().and_then(Result::ok).ok_or_else(|| lost("is damaged in the repository"))?;
            server.upload(&piece).await?;
        }
        server.end_upload().await.map_err(BackupError::from).map_err(not_incremental)
    }

    /// Whether everything that the backup builds on is still there, now that it is about to count.
    pub(super) async fn check_base(&self, base: &Base) -> Result<(), BackupError> {
        let Some(parent) = base.parent() else { return Ok(()) };
        let (store, root) = (&self.repository.store, &self.repository.root);
        let backups =
            patiently("looking for what the backup builds on", || catalog::backups(store, root)).await?;
        let name = &parent.summary.name;
        let there = backups.iter().find(|backup| backup.summary.name == *name);
        match there.is_some_and(|there| chain::chain(&backups, there).is_ok()) {
            true => Ok(()),
            false => Err(BackupError::ParentGone(name.clone())),
        }
    }

    /// For people who restore: how much an incremental backup comes to together with those that it builds on.
    pub(super) async fn data_bytes(&self) -> Option<u64> {
        let asked = archiving::data_bytes(self.socket_directory).await;
        asked
            .inspect_err(|error| tracing::info!(error = %Chain(error), "the size of the data is not known"))
            .ok()
    }
}

/// What the server says no to stands in the way of this form only.
fn not_incremental(error: BackupError) -> BackupError {
    match error {
        BackupError::Protocol(ProtocolError::Refused { message, .. }) => BackupError::NotIncremental(message),
        other => other,
    }
}
