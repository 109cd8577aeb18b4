use proto::wire::backup::{ArchiveConfig, RestoreTarget};

use super::*;

fn config(completed: bool) -> RestoreConfig {
    RestoreConfig {
        source: ArchiveConfig {
            destination: "file:///backups".to_owned(),
            endpoint: None,
            region: None,
            path_style: false,
            allow_http: false,
            custom_ca: false,
            server_side_encryption: None,
            encrypted: false,
        },
        database_uid: None,
        system_identifier: None,
        target: RestoreTarget::Latest,
        backup: None,
        snapshot: None,
        completed,
    }
}

#[test]
fn only_the_first_member_restores_and_only_once() {
    assert!(nothing_to_do(&config(false), Some("db-0")).is_none());
    assert!(nothing_to_do(&config(false), None).is_none(), "by hand");
    assert!(nothing_to_do(&config(false), Some("db-1")).is_some());
    assert!(nothing_to_do(&config(true), Some("db-0")).is_some());
}

mod real;
