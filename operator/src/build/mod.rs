//! Every child of a Database, built from validated input: pure and infallible, one file per kind of child.

mod access;
mod backup;
mod config;
mod disruption_budget;
mod drill;
mod lease;
mod pod;
mod restore;
mod restoring_pod;
mod secret;
mod service;
mod standby;
mod stateful_set;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
    rbac::v1::{Role, RoleBinding},
};
use proto::{postgres::SystemIdentifier, wire::config::AcceptLoss};

use crate::cluster::Cluster;
pub(crate) use backup::{ScheduleChildren, schedule_access_name, schedule_name, snapshot_schedule_name};
pub(crate) use config::{config_map_name, generation};
pub(crate) use drill::{DrillChildren, drill_name};
pub(crate) use lease::empty_lease;
pub(crate) use pod::ANNOTATION_TEMPLATE;
pub(crate) use restore::{RestoreShape, recorded_restore, restore_name};
pub(crate) use secret::{
    ANNOTATION_NOT_AFTER, KEY_CA, KEY_CA_KEY, app_secret, authority_secret, names as secret_names,
    superuser_secret, tls_secret,
};
pub(crate) use service::{READ_WRITE, hosts};
pub(crate) use standby::{
    finished, is_for, standby_config_map, standby_job, standby_name, standby_volume, unfinished_copy,
};
pub(crate) use stateful_set::{VOLUME_DATA, volume_name};

/// What the plan decided beyond the Database itself.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Recorded identity of the data (W4).
    pub(crate) system_identifier: Option<SystemIdentifier>,
    /// Pods: more than members while members leave.
    pub(crate) pods: u8,
    /// Size in the volume claim template. Kubernetes refuses to change it, so it stays what it was at creation
    /// and each claim is grown by itself.
    pub(crate) template_size: String,
    /// Who may lead although acknowledged commits are lost by it.
    pub(crate) accept_loss: Option<AcceptLoss>,
    /// Image with the agent.
    pub(crate) agent_image: String,
    /// What the first instance begins with, once its source is known.
    pub(crate) restore: Option<RestoreShape>,
}

/// The children that are applied as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Children {
    pub(crate) service_account: ServiceAccount,
    pub(crate) role: Role,
    pub(crate) role_binding: RoleBinding,
    pub(crate) services: Vec<Service>,
    pub(crate) config_map: ConfigMap,
    pub(crate) restore_map: Option<ConfigMap>,
    pub(crate) restored_volume: Option<PersistentVolumeClaim>,
    pub(crate) schedule: Option<ScheduleChildren>,
    pub(crate) drill: Option<DrillChildren>,
    pub(crate) disruption_budget: PodDisruptionBudget,
    pub(crate) stateful_set: StatefulSet,
}

/// Builds them all.
pub(crate) fn children(cluster: &Cluster, shape: &Shape) -> Children {
    Children {
        service_account: access::service_account(cluster),
        role: access::role(cluster),
        role_binding: access::role_binding(cluster),
        services: service::services(cluster),
        config_map: config::config_map(cluster, shape),
        restore_map: shape.restore.as_ref().map(|restore| restore::restore_map(cluster, restore)),
        restored_volume: restore::restored_volume(cluster, shape),
        schedule: backup::schedule(cluster, &shape.agent_image),
        drill: drill::drill(cluster, shape),
        disruption_budget: disruption_budget::disruption_budget(cluster),
        stateful_set: stateful_set::stateful_set(cluster, shape),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use proto::api::quantity::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        authority::{Authority, Issued},
        fixtures,
    };

    #[test]
    fn the_sample_is_built_as_reviewed() {
        let children = children(&fixtures::cluster(), &fixtures::shape());
        insta::assert_yaml_snapshot!("service_account", children.service_account);
        insta::assert_yaml_snapshot!("role", children.role);
        insta::assert_yaml_snapshot!("role_binding", children.role_binding);
        insta::assert_yaml_snapshot!("services", children.services);
        insta::assert_yaml_snapshot!("config_map", children.config_map);
        insta::assert_yaml_snapshot!("disruption_budget", children.disruption_budget);
        insta::assert_yaml_snapshot!("stateful_set", children.stateful_set);
        insta::assert_yaml_snapshot!("lease", empty_lease(&fixtures::cluster()));
    }

    /// Data as text, so that reviewers can read it.
    fn readable(secret: &Secret) -> Value {
        let data = secret.data.iter().flatten();
        let data: Vec<_> = data.map(|(key, value)| (key, String::from_utf8_lossy(&value.0))).collect();
        json!({"metadata": secret.metadata, "type": secret.type_, "data": data})
    }

    #[test]
    fn the_samples_secrets_are_built_as_reviewed() {
        let cluster = fixtures::cluster();
        let authority = Authority::stored("CA CERTIFICATE".to_owned(), "CA KEY".to_owned());
        let issued = Issued {
            certificate: "CERTIFICATE".to_owned(),
            key: "KEY".to_owned(),
            not_after: jiff::civil::date(2026, 5, 30),
        };
        insta::assert_yaml_snapshot!("superuser_secret", readable(&superuser_secret(&cluster, "PASSWORD")));
        insta::assert_yaml_snapshot!("app_secret", readable(&app_secret(&cluster, "PASSWORD")));
        insta::assert_yaml_snapshot!("authority_secret", readable(&authority_secret(&cluster, &authority)));
        insta::assert_yaml_snapshot!("tls_secret", readable(&tls_secret(&cluster, &authority, &issued)));
    }

    /// The sample's backups, with a store of one's own.
    fn with_backups() -> Cluster {
        fixtures::cluster_with(&json!({"backup": {
            "enabled": true,
            "schedule": "0 3 * * *",
            "retention": 14,
            "destination": "s3://my-backups/orders-db",
            "endpoint": "https://s3.example.com",
            "credentials": {"secretName": "s3-keys"},
        }}))
    }

    #[test]
    fn snapshots_have_a_schedule_of_their_own() {
        let spec = json!({"destination": "s3://b/f", "snapshotSchedule": "0 */4 * * *"});
        let cluster = fixtures::cluster_with(&json!({"backup": spec}));
        let schedule = children(&cluster, &fixtures::shape()).schedule.unwrap();
        let cron_job = schedule.snapshots.unwrap();
        assert_eq!(cron_job.metadata.name.as_deref(), Some("orders-db-snapshot"));
        let mut of_snapshots = cron_job.spec.unwrap();
        assert_eq!(of_snapshots.schedule, "0 */4 * * *");
        let pod = of_snapshots.job_template.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        let method = pod.containers[0].env.as_mut().unwrap().pop().unwrap();
        assert_eq!(
            (method.name.as_str(), method.value.as_deref()),
            ("BACKUP_METHOD", Some("VolumeSnapshot"))
        );
        let of_backups = schedule.cron_job.spec.unwrap();
        assert_eq!(of_snapshots.job_template, of_backups.job_template, "all else as in the other schedule");
    }

    #[test]
    fn backups_are_built_as_reviewed() {
        let children = children(&with_backups(), &fixtures::shape());
        let schedule = children.schedule.unwrap();
        insta::assert_yaml_snapshot!("backup_service_account", schedule.service_account);
        insta::assert_yaml_snapshot!("backup_role", schedule.role);
        insta::assert_yaml_snapshot!("backup_role_binding", schedule.role_binding);
        insta::assert_yaml_snapshot!("backup_cron_job", schedule.cron_job);
        let config = children.config_map.data.unwrap();
        let config: Value = serde_json::from_str(config.values().next().unwrap()).unwrap();
        insta::assert_yaml_snapshot!("backup_archive", config["archive"]);
    }

    /// Kind and name of everything that is made for a Database.
    fn children_of(name: &str) -> std::collections::BTreeSet<String> {
        let backup = json!({"destination": "s3://b/f", "drillSchedule": "0 6 * * 0"});
        let mut stored = fixtures::stored_database(&json!({"backup": backup}));
        stored["metadata"]["name"] = json!(name);
        let cluster = Cluster::parse(&serde_json::from_value(stored).unwrap()).unwrap();
        let all = children(&cluster, &fixtures::shape());
        let (schedule, drill) = (all.schedule.unwrap(), all.drill.unwrap());
        let values = [
            json!(all.service_account),
            json!(all.role),
            json!(all.role_binding),
            json!(all.services),
            json!(all.config_map),
            json!(all.disruption_budget),
            json!(all.stateful_set),
            json!([schedule.service_account]),
            json!([schedule.role]),
            json!([schedule.role_binding]),
            json!([schedule.cron_job]),
            json!([drill.config_map, drill.cron_job]),
        ];
        let list = |value: Value| value.as_array().cloned().unwrap_or_else(|| vec![value]);
        let name = |child: Value| format!("{} {}", child["kind"], child["metadata"]["name"]);
        values.into_iter().flat_map(list).map(name).collect()
    }

    #[test]
    fn no_database_can_have_the_name_of_anothers_child() {
        let mine = children_of("x");
        assert!(mine.contains("\"CronJob\" \"x-backup\""), "{mine:?}");
        for suffix in ["backup", "drill", "config", "restore", "headless", "rw", "ro", "0"] {
            let theirs = children_of(&format!("x-{suffix}"));
            assert_eq!(mine.intersection(&theirs).collect::<Vec<_>>(), Vec::<&String>::new(), "x-{suffix}");
        }
    }

    #[test]
    fn a_restore_drill_is_built_as_reviewed() {
        let drill = |enabled: bool| {
            fixtures::cluster_with(&json!({"backup": {
                "enabled": enabled,
                "destination": "s3://my-backups/orders-db",
                "drillSchedule": "0 6 * * 0",
                "credentials": {"secretName": "s3-keys"},
            }}))
        };
        let built = children(&drill(true), &fixtures::shape()).drill.unwrap();
        insta::assert_yaml_snapshot!("drill_config_map", built.config_map);
        insta::assert_yaml_snapshot!("drill_cron_job", built.cron_job);
        let off = children(&drill(false), &fixtures::shape()).drill.unwrap();
        assert_eq!(off.cron_job.spec.unwrap().suspend, Some(true));
        assert!(children(&with_backups(), &fixtures::shape()).drill.is_none(), "not by default");
    }

    /// The pod's template in the parts that this test is about.
    fn pod_of(cluster: &Cluster, shape: &Shape) -> Value {
        let set = serde_json::to_value(children(cluster, shape).stateful_set).unwrap();
        set["spec"]["template"]["spec"].clone()
    }

    #[test]
    fn credentials_are_mounted_in_the_agent_alone_and_it_may_use_more_memory() {
        let pod = pod_of(&with_backups(), &fixtures::shape());
        let mounts_backup = |container: &Value| {
            container["volumeMounts"].as_array().unwrap().iter().any(|mount| mount["name"] == "backup")
        };
        let agent = &pod["initContainers"][1];
        assert!(mounts_backup(agent) && !mounts_backup(&pod["containers"][0]));
        assert_eq!(agent["resources"]["limits"]["memory"], "192Mi");
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == "backup").unwrap();
        assert_eq!(
            (&volume["secret"]["secretName"], &volume["secret"]["optional"]),
            (&json!("s3-keys"), &json!(true))
        );
    }

    #[test]
    fn turned_off_backups_change_no_pod() {
        let off = fixtures::cluster_with(&json!({"backup": {
            "enabled": false,
            "destination": "s3://my-backups/orders-db",
            "credentials": {"secretName": "s3-keys"},
        }}));
        assert_eq!(pod_of(&off, &fixtures::shape()), pod_of(&with_backups(), &fixtures::shape()));
        let children = children(&off, &fixtures::shape());
        assert_eq!(children.schedule.unwrap().cron_job.spec.unwrap().suspend, Some(true));
        let config = children.config_map.data.unwrap();
        assert!(config.values().all(|config| !config.contains("archive")));
    }

    #[test]
    fn the_server_notes_what_changes_where_backups_build_on_each_other() {
        let parameters = |backup: Value, own: Value| {
            let cluster = fixtures::cluster_with(&json!({
                "version": "17", "backup": backup, "postgresql": {"parameters": own},
            }));
            let config = children(&cluster, &fixtures::shape()).config_map.data.unwrap();
            let config: Value = serde_json::from_str(config.values().next().unwrap()).unwrap();
            config["parameters"].clone()
        };
        let store = "s3://my-backups/orders-db";
        let weekly = json!({"destination": store, "fullEvery": 7});
        insta::assert_yaml_snapshot!("incremental_parameters", parameters(weekly.clone(), json!({})));
        assert_eq!(
            parameters(weekly, json!({"wal_summary_keep_time": "90d"}))["wal_summary_keep_time"],
            "90d"
        );
        for without in
            [json!({"destination": store}), json!({"destination": store, "fullEvery": 7, "enabled": false})]
        {
            assert_eq!(parameters(without, json!({})), json!({}));
        }
    }

    #[test]
    fn that_backups_build_on_each_other_is_told_as_read_in() {
        let generation = |every: i32| {
            let backup = json!({"destination": "s3://my-backups/orders-db", "fullEvery": every});
            generation(&fixtures::cluster_with(&json!({"version": "17", "backup": backup})))
        };
        assert_ne!(generation(7), generation(1));
        assert_eq!(generation(7), generation(3), "the server has nothing to read in");
    }

    #[test]
    fn a_drill_has_room_for_backups_that_build_on_each_other() {
        let size = |every: i32| {
            let built = children(
                &fixtures::cluster_with(&json!({
                    "version": "17", "storage": {"size": "50Gi"},
                    "backup": {
                        "destination": "s3://my-backups/orders-db", "drillSchedule": "0 6 * * 0", "fullEvery": every,
                    },
                })),
                &fixtures::shape(),
            );
            let job = built.drill.unwrap().cron_job.spec.unwrap().job_template.spec.unwrap();
            let volumes = job.template.spec.unwrap().volumes.unwrap();
            let template = volumes.into_iter().find_map(|volume| volume.ephemeral?.volume_claim_template);
            template.unwrap().spec.resources.unwrap().requests.unwrap()["storage"].0.parse::<Bytes>().unwrap()
        };
        assert_eq!(size(1), Bytes(50 << 30));
        assert_eq!(size(7), Bytes(100 << 30), "the parts, and what is made of them");
    }

    #[test]
    fn a_restore_is_built_as_reviewed() {
        let from = json!({"repository": {"destination": "s3://my-backups/orders-db"}});
        let cluster = fixtures::cluster_with(&json!({"bootstrap": {"restore": {"from": from}}}));
        let archive = with_backups().spec.backup.unwrap().store.archive;
        let config = proto::wire::backup::RestoreConfig {
            source: archive,
            database_uid: Some("01d".to_owned()),
            system_identifier: None,
            target: proto::wire::backup::RestoreTarget::Latest,
            backup: None,
            snapshot: None,
            completed: false,
        };
        let credentials = Some("s3-keys".to_owned());
        let restore = RestoreShape { config, credentials, encryption: None, volume_snapshot: None };
        let shape = Shape { restore: Some(restore.clone()), ..fixtures::shape() };
        let map = children(&cluster, &shape).restore_map.unwrap();
        assert_eq!(recorded_restore(&map), Some(restore));
        insta::assert_yaml_snapshot!("restore_map", map);
        let pod = pod_of(&cluster, &shape);
        insta::assert_yaml_snapshot!("restore_container", pod["initContainers"][2]);
        let volumes = pod["volumes"].as_array().unwrap().iter();
        let mounted: Vec<_> =
            volumes.filter(|volume| volume["name"].as_str().unwrap().starts_with("restore")).collect();
        insta::assert_yaml_snapshot!("restore_volumes", mounted);
    }

    #[test]
    fn the_volume_of_a_snapshot_is_built_as_reviewed_and_only_once() {
        let from = json!({"database": "old"});
        let cluster = fixtures::cluster_with(&json!({"bootstrap": {"restore": {"from": from}}}));
        let config = json!({"source": {"destination": "s3://b/f"}, "snapshot": "20260301T030000Z-01d-1"});
        let restore = RestoreShape {
            config: serde_json::from_value(config).unwrap(),
            credentials: None,
            encryption: None,
            volume_snapshot: Some("old-20260301t030000z-01d-1".to_owned()),
        };
        let shape = Shape { restore: Some(restore.clone()), ..fixtures::shape() };
        let built = children(&cluster, &shape);
        assert_eq!(recorded_restore(&built.restore_map.unwrap()), Some(restore.clone()));
        insta::assert_yaml_snapshot!("restored_volume", built.restored_volume);
        let mut completed = restore;
        completed.config.completed = true;
        let shape = Shape { restore: Some(completed), ..fixtures::shape() };
        assert!(children(&cluster, &shape).restored_volume.is_none(), "it would bring back what was");
    }

    #[test]
    fn what_the_user_says_about_placement_replaces_the_defaults() {
        let affinity = json!({"nodeAffinity": {}});
        let spread = json!([{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}]);
        let cluster = fixtures::cluster_with(&json!({
            "affinity": affinity,
            "topologySpread": spread,
            "tolerations": [{"key": "db", "operator": "Exists"}],
            "resources": {"limits": {"memory": "2Gi"}},
        }));
        let set = serde_json::to_value(children(&cluster, &fixtures::shape()).stateful_set).unwrap();
        let pod = &set["spec"]["template"]["spec"];
        assert_eq!(pod["affinity"], affinity);
        assert_eq!(pod["topologySpreadConstraints"], spread);
        assert_eq!(pod["tolerations"][0]["key"], "db");
        assert_eq!(pod["containers"][0]["resources"]["limits"]["memory"], "2Gi");
    }
}
