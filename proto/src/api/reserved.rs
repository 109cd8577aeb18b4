//! PostgreSQL settings that `spec.postgresql.parameters` may not name: operator, agent or supervisor own them,
//! and a second opinion would be ignored or would break failover.

/// Settings refused for one common reason.
#[derive(Clone, Copy, Debug)]
pub struct Reserved {
    /// Names, lower case.
    pub names: &'static [&'static str],
    /// What to do instead: the end of a sentence that begins with the name.
    pub instead: &'static str,
}

/// Every reserved setting, grouped by what to do instead.
pub const RESERVED: [Reserved; 9] = [
    Reserved {
        names: &[
            "port",
            "listen_addresses",
            "unix_socket_directories",
            "unix_socket_group",
            "unix_socket_permissions",
            "bonjour",
            "bonjour_name",
        ],
        instead: "is fixed, because Services and agents connect to port 5432: remove it",
    },
    Reserved {
        names: &[
            "data_directory",
            "config_file",
            "hba_file",
            "ident_file",
            "external_pid_file",
            "include",
            "include_dir",
            "include_if_exists",
        ],
        instead: "is a path inside the pod that the operator lays out: remove it",
    },
    Reserved {
        names: &[
            "primary_conninfo",
            "primary_slot_name",
            "promote_trigger_file",
            "synchronized_standby_slots",
            "hot_standby",
            "cluster_name",
            "wal_log_hints",
            "restart_after_crash",
            "max_slot_wal_keep_size",
            "wal_retrieve_retry_interval",
        ],
        instead: "is replication, which the agents run: remove it",
    },
    Reserved {
        names: &["synchronous_standby_names", "synchronous_commit"],
        instead: "is set by spec.durability and spec.minSyncReplicas: set those, or set synchronous_commit for \
                  a role or a transaction",
    },
    Reserved {
        names: &["shared_preload_libraries"],
        instead: "has a field of its own: list the libraries in spec.postgresql.sharedPreloadLibraries",
    },
    Reserved {
        names: &["fsync", "full_page_writes", "zero_damaged_pages", "ignore_checksum_failure"],
        instead: "protects the data and stays as it is: remove it",
    },
    Reserved {
        names: &[
            "archive_mode",
            "archive_command",
            "archive_library",
            "archive_timeout",
            "archive_cleanup_command",
            "restore_command",
            "recovery_end_command",
            "recovery_min_apply_delay",
            "recovery_target",
            "recovery_target_action",
            "recovery_target_inclusive",
            "recovery_target_lsn",
            "recovery_target_name",
            "recovery_target_time",
            "recovery_target_timeline",
            "recovery_target_xid",
        ],
        instead: "is archiving and recovery, which the agents run: remove it",
    },
    Reserved {
        names: &[
            "ssl",
            "ssl_ca_file",
            "ssl_cert_file",
            "ssl_crl_dir",
            "ssl_crl_file",
            "ssl_key_file",
            "ssl_passphrase_command",
            "ssl_passphrase_command_supports_reload",
        ],
        instead: "is set from the certificates that the operator issues: remove it",
    },
    Reserved {
        names: &[
            "logging_collector",
            "log_destination",
            "log_directory",
            "log_file_mode",
            "log_filename",
            "log_rotation_age",
            "log_rotation_size",
            "log_truncate_on_rotation",
            "event_source",
            "syslog_facility",
            "syslog_ident",
        ],
        instead: "would hide the log, which goes to the output of the container: remove it and read kubectl logs",
    },
];

/// Why `name` may not be set, if it may not.
pub fn reserved(name: &str) -> Option<&'static Reserved> {
    RESERVED.iter().find(|group| group.names.contains(&name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_name_stands_in_two_groups() {
        let all: Vec<_> = RESERVED.iter().flat_map(|group| group.names).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn reserved_and_free_names_are_told_apart() {
        assert!(reserved("primary_conninfo").is_some());
        assert!(reserved("work_mem").is_none());
    }
}
