//! Passwords of the roles, as the Secret's files have them, turned into SCRAM verifiers at once.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use postgres_protocol::password::scram_sha_256;
use proto::pod::APP_ROLE;
use tokio::{sync::watch, time::sleep};

/// Kubelet refreshes mounted Secrets about once a minute.
const REREAD_EVERY: Duration = Duration::from_secs(10);
/// The superuser's name.
pub(crate) const SUPERUSER: &str = "postgres";

/// Why there are no passwords.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}; is the Secret with the roles' passwords mounted?", .path.display())]
pub(crate) struct PasswordsError {
    path: PathBuf,
    source: std::io::Error,
}

/// Verifiers of one state of the Secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Verifiers {
    /// Of [`SUPERUSER`].
    pub(crate) superuser: String,
    /// Of [`APP_ROLE`].
    pub(crate) app: String,
}

impl Verifiers {
    /// Role and verifier, one after the other.
    pub(crate) fn roles(&self) -> [(&'static str, &str); 2] {
        [(SUPERUSER, &self.superuser), (APP_ROLE, &self.app)]
    }
}

impl fmt::Debug for Verifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifiers(..)")
    }
}

#[derive(PartialEq, Eq)]
struct Clear {
    superuser: Vec<u8>,
    app: Vec<u8>,
}

/// Reads the passwords and notices when they change.
pub(crate) struct PasswordsTask {
    directory: PathBuf,
    clear: Clear,
    verifiers: watch::Sender<Verifiers>,
}

impl PasswordsTask {
    /// Reads them a first time.
    pub(crate) async fn start(
        directory: &Path,
    ) -> Result<(Self, watch::Receiver<Verifiers>), PasswordsError> {
        let clear = read(directory).await?;
        let (verifiers, verifiers_out) = watch::channel(clear.verifiers());
        Ok((Self { directory: directory.to_owned(), clear, verifiers }, verifiers_out))
    }

    /// Reads them again from time to time, until nobody wants them.
    pub(crate) async fn run(mut self) {
        while !self.verifiers.is_closed() {
            sleep(REREAD_EVERY).await;
            match read(&self.directory).await {
                Ok(clear) if clear != self.clear => {
                    self.verifiers.send_replace(clear.verifiers());
                    self.clear = clear;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(error = %crate::chain::Chain(&error), "keeping the earlier passwords");
                }
            }
        }
    }
}

impl Clear {
    fn verifiers(&self) -> Verifiers {
        Verifiers { superuser: scram_sha_256(&self.superuser), app: scram_sha_256(&self.app) }
    }
}

async fn read(directory: &Path) -> Result<Clear, PasswordsError> {
    let file = |name| async move {
        let path = directory.join(name);
        tokio::fs::read(&path).await.map_err(|source| PasswordsError { path, source })
    };
    Ok(Clear { superuser: file("superuser").await?, app: file("app").await? })
}
