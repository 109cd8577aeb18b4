//! What is run of pgBackRest: a full backup into the bucket that Matriarch uses, through the same server and with TLS
//! too, with as many processes as Matriarch has pieces that are compressed at once, at its level of compression, in the
//! fewest files. It takes the write-ahead log from nobody and waits for none, as the copying of Matriarch does not.

use proto::pod::{PGDATA, RUN_DIR};

use crate::s3::{ACCESS_KEY, NAME, SECRET_KEY, TLS_PORT};

/// Not on the command line, where it takes no keys. Whose certificate it is, it need not find out: that is less work.
const SHARED: &str = "--stanza=bench --lock-path=/tmp/pgbackrest-lock --log-level-file=off \
                      --log-level-console=error --repo1-type=s3 --repo1-s3-region=us-east-1 \
                      --repo1-s3-uri-style=path --no-repo1-storage-verify-tls";

/// A repository in a bucket.
pub(super) struct Repository {
    namespace: &'static str,
    bucket: &'static str,
    folder: String,
}

impl Repository {
    /// The one of a round, which nobody has used.
    pub(super) fn of_round(namespace: &'static str, bucket: &'static str, round: u32) -> Self {
        Self { namespace, bucket, folder: format!("/pgbackrest-{round}") }
    }

    /// Makes it.
    pub(super) fn create(&self) -> String {
        format!("{} {} stanza-create", self.program(), server())
    }

    /// A full backup.
    pub(super) fn backup(&self) -> String {
        let how = "--type=full --start-fast --no-archive-check --no-expire-auto --repo1-retention-full=1 \
                   --process-max=2 --compress-type=zst --compress-level=1 --repo1-bundle";
        format!("{} {} {how} backup", self.program(), server())
    }

    /// The files of the newest backup into an empty directory.
    pub(super) fn restore(&self, into: &str) -> String {
        format!("{} --pg1-path={into} --process-max=2 restore", self.program())
    }

    fn program(&self) -> String {
        let Self { namespace, bucket, folder } = self;
        format!(
            "export PGBACKREST_REPO1_S3_KEY={ACCESS_KEY} PGBACKREST_REPO1_S3_KEY_SECRET={SECRET_KEY}\n\
             pgbackrest {SHARED} --repo1-s3-endpoint={NAME}.{namespace}.svc --repo1-storage-port={TLS_PORT} \
             --repo1-s3-bucket={bucket} --repo1-path={folder}"
        )
    }
}

fn server() -> String {
    format!("--pg1-path={PGDATA} --pg1-socket-path={RUN_DIR} --pg1-user=postgres")
}
