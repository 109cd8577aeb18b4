//! What is run of pgBackRest: a full backup into a repository on the node's disk, with as many processes as Matriarch has
//! pieces that are compressed at once, at its level of compression, in the fewest files. It takes the write-ahead log
//! from nobody and waits for none, as the copying of Matriarch does not.

use proto::pod::{PGDATA, RUN_DIR};

/// Where its repository is: a volume of the pod on the node's disk, as that of the S3 server is.
const REPOSITORY: &str = "/tmp/pgbackrest";
const SHARED: &str = "--stanza=bench --lock-path=/tmp/pgbackrest-lock --log-level-file=off \
                      --log-level-console=error --repo1-path=/tmp/pgbackrest";

/// An empty repository.
pub(super) fn new_repository() -> String {
    format!("rm -rf {REPOSITORY}\nmkdir {REPOSITORY}\npgbackrest {SHARED} {} stanza-create", server())
}

/// A full backup.
pub(super) fn backup() -> String {
    let how = "--type=full --start-fast --no-archive-check --no-expire-auto --repo1-retention-full=1 --process-max=2 \
               --compress-type=zst --compress-level=1 --repo1-bundle";
    format!("pgbackrest {SHARED} {} {how} backup", server())
}

/// The files of the newest backup into an empty directory.
pub(super) fn restore(into: &str) -> String {
    format!("pgbackrest {SHARED} --pg1-path={into} --process-max=2 restore")
}

fn server() -> String {
    format!("--pg1-path={PGDATA} --pg1-socket-path={RUN_DIR} --pg1-user=postgres")
}
