//! Where the supervisor keeps things. On the data volume lie PGDATA and, beside it, what base backup and
//! rewind must never copy; in the shared in-memory directory lies what must not wait for a disk.

use std::path::PathBuf;

use clap::Args;
use proto::pod;

/// The directories that the pod mounts; other places than the defaults are for tests.
#[derive(Args, Clone, Debug)]
pub(crate) struct Layout {
    /// Mount point of the data volume
    #[arg(long, default_value = pod::DATA_DIR)]
    pub(crate) data_dir: PathBuf,
    /// Shared in-memory directory: sockets, lock, configuration
    #[arg(long, default_value = pod::RUN_DIR)]
    pub(crate) run_dir: PathBuf,
    /// Mount point of the certificates
    #[arg(long, default_value = pod::TLS_DIR)]
    pub(crate) tls_dir: PathBuf,
    /// Port of PostgreSQL
    #[arg(long, default_value_t = pod::POSTGRES_PORT)]
    pub(crate) port: u16,
    /// Programs of PostgreSQL; found by the data's major version if absent
    #[arg(long)]
    pub(crate) bin_dir: Option<PathBuf>,
}

impl Layout {
    /// PGDATA.
    pub(crate) fn pgdata(&self) -> PathBuf {
        self.data_dir.join("pgdata")
    }

    /// `pg_wal`, perhaps a link to another volume.
    pub(crate) fn pg_wal(&self) -> PathBuf {
        self.pgdata().join("pg_wal")
    }

    /// Durable HA state (ha.md section 2).
    pub(crate) fn durable_state(&self) -> PathBuf {
        self.data_dir.join("ha-state.json")
    }

    /// HA state of the data directory that is being swapped in. While it exists the swap is decided and must
    /// be finished.
    pub(crate) fn incoming_state(&self) -> PathBuf {
        self.data_dir.join("ha-state.incoming.json")
    }

    /// Data directory under construction by initdb or clone.
    pub(crate) fn incoming(&self) -> PathBuf {
        self.data_dir.join("pgdata.incoming")
    }

    /// Backups that build on each other, until one data directory is made of them.
    pub(crate) fn parts(&self) -> PathBuf {
        self.data_dir.join("pgdata.parts")
    }

    /// Names the backup whose VolumeSnapshot this volume was made of, once a restore has taken its data over.
    pub(crate) fn snapshot_marker(&self) -> PathBuf {
        self.data_dir.join("restored-snapshot")
    }

    /// The replaced data directory, until it is deleted.
    pub(crate) fn outgoing(&self) -> PathBuf {
        self.data_dir.join("pgdata.outgoing")
    }

    /// While it exists PGDATA is half rewound and must not start.
    pub(crate) fn rewind_marker(&self) -> PathBuf {
        self.data_dir.join("rewind-in-progress")
    }

    /// Configuration files, outside PGDATA and outside any disk.
    pub(crate) fn conf_dir(&self) -> PathBuf {
        self.run_dir.join("conf")
    }

    /// `postgresql.conf` in force.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.conf_dir().join("postgresql.conf")
    }

    /// `pg_hba.conf` in force.
    pub(crate) fn hba_file(&self) -> PathBuf {
        self.conf_dir().join("pg_hba.conf")
    }

    /// `pg_ident.conf` in force.
    pub(crate) fn ident_file(&self) -> PathBuf {
        self.conf_dir().join("pg_ident.conf")
    }

    /// Copies of the certificates with the ownership and mode that PostgreSQL insists on.
    pub(crate) fn own_tls_dir(&self) -> PathBuf {
        self.run_dir.join("tls")
    }

    /// Socket of `proto::wire::supervisor`.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir.join(file_name(pod::SUPERVISOR_SOCKET))
    }

    /// Socket on which the agent takes WAL files.
    pub(crate) fn archive_socket(&self) -> PathBuf {
        self.run_dir.join(file_name(pod::ARCHIVE_SOCKET))
    }

    /// Lock that every PostgreSQL process inherits.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.run_dir.join(file_name(pod::LOCK_FILE))
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
