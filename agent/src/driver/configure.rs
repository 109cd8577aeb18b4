//! Keeps the server's configuration what the operator and the core want.
//!
//! A configuration that the server refuses never takes the database down and never keeps the core from changing
//! the synchronous names: the last accepted one stays, or after a restart of the container with nothing
//! accepted yet, the one without the user's part. The server's own words are shown until the wish changes.

use std::{collections::BTreeMap, time::Duration};

use proto::{
    clock::BootTime,
    ha::{sync_names::SyncNames, view::View},
    identity::RunId,
    wire::{
        config::AgentConfig,
        supervisor::{Answer, Order, Report, Server, ServerConfig},
    },
};

use super::{
    Driver,
    outcome::{Outcome, Work},
};
use crate::{boot_clock, chain::Chain, link::OrderError};

/// A configuration that was lost or "not yet" is sent again after this.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// For this long after a configuration was sent the facts are read in a row until they show it: a failover
/// waits for the synchronous names.
const WATCH_FOR: Duration = Duration::from_secs(1);
/// Slots of members that are away keep at most this share of the volume.
const SLOT_SHARE: u64 = 4;
/// The least that slots may keep: a few minutes of a busy server.
const SLOT_FLOOR_MB: u64 = 256;
/// What is written is in the archive after this at the latest: what the loss of every volume may cost.
const ARCHIVE_TIMEOUT: &str = "5min";
/// Access without the user's rules: with a password, over TLS.
const PLAIN_RULE: &str = "hostssl all all all scram-sha-256";

/// What is configured and what should be.
#[derive(Debug, Default)]
pub(super) struct Configuring {
    /// Unknown until a primary that ran before this agent has shown its own: it goes on with them.
    names: Option<SyncNames>,
    /// In effect in this run of the supervisor.
    applied: Option<(RunId, ServerConfig)>,
    /// What the server refused, and in which words.
    refused: Option<(ServerConfig, String)>,
    retry_at: BootTime,
    applied_at: BootTime,
}

impl Configuring {
    /// The core wants these names.
    pub(super) fn set_names(&mut self, names: SyncNames) {
        self.names = Some(names);
    }

    /// Learns them where nobody has said so yet.
    fn learn_names(&mut self, server: &Server, shown: Option<&str>) {
        self.names = match (self.names.take(), server) {
            (None, Server::Primary { .. }) => {
                shown.map(|text| SyncNames::shown(text).unwrap_or(SyncNames::Closed))
            }
            // A server starts closed, whatever was set before (S4).
            (_, Server::Stopped { .. } | Server::Dying) | (None, _) => Some(SyncNames::Closed),
            (known, _) => known,
        };
    }

    /// What the server said about the wish, if it refused it.
    pub(super) fn error(&self) -> Option<&str> {
        self.refused.as_ref().map(|(_, why)| why.as_str())
    }

    fn in_run(&self, run: &RunId) -> Option<&ServerConfig> {
        self.applied.as_ref().filter(|(applied, _)| applied == run).map(|(_, config)| config)
    }

    /// What to send now; `None` if it is in effect.
    fn next(&mut self, wish: &ServerConfig, run: &RunId) -> Option<ServerConfig> {
        let refused = self.refused.as_ref().is_some_and(|(refused, _)| same_but_names(refused, wish));
        if !refused {
            self.refused = None;
        }
        let applied = self.in_run(run);
        let base = match (refused, applied) {
            (false, _) => wish.clone(),
            (true, Some(applied)) => applied.clone(),
            (true, None) => without_user(wish),
        };
        let next = ServerConfig { synchronous_standby_names: wish.synchronous_standby_names.clone(), ..base };
        (applied != Some(&next)).then_some(next)
    }
}

/// What slots may keep on a volume of this size: the rest is for data and the WAL of the present.
fn slot_keep_mb(volume_bytes: u64) -> u64 {
    ((volume_bytes / SLOT_SHARE) >> 20).max(SLOT_FLOOR_MB)
}

fn same_but_names(one: &ServerConfig, other: &ServerConfig) -> bool {
    one.parameters == other.parameters && one.hba == other.hba && one.generation == other.generation
}

fn without_user(wish: &ServerConfig) -> ServerConfig {
    ServerConfig {
        parameters: BTreeMap::new(),
        hba: vec![PLAIN_RULE.to_owned()],
        generation: String::new(),
        archive: wish.archive,
        synchronous_standby_names: wish.synchronous_standby_names.clone(),
    }
}

/// What the server should run with.
fn wish(config: &AgentConfig, names: &SyncNames) -> ServerConfig {
    let mut parameters = config.parameters.clone();
    let keep_mb = slot_keep_mb(config.volume_bytes);
    parameters.insert("max_slot_wal_keep_size".to_owned(), format!("{keep_mb}MB"));
    let switch_after = config.archive.as_ref().map_or("0", |_| ARCHIVE_TIMEOUT);
    parameters.insert("archive_timeout".to_owned(), switch_after.to_owned());
    ServerConfig {
        parameters,
        hba: config.hba.clone(),
        synchronous_standby_names: names.setting(),
        archive: true,
        generation: config.generation.clone(),
    }
}

impl Driver {
    /// Sends the configuration if the one in effect is another.
    pub(super) fn keep_configured(&mut self, view: &View) {
        let Some(report) = view.report() else { return };
        let shown = view.sql.as_ref().filter(|sql| !sql.in_recovery).map(|sql| sql.names.as_str());
        self.configuring.learn_names(&report.server, shown);
        let fresh = view.now.since(self.configuring.applied_at) < WATCH_FOR;
        let wanted = self.configuring.names.as_ref().map(SyncNames::to_string);
        if fresh && shown.is_some() && shown != wanted.as_deref() {
            self.hands.hurry.notify_one();
        }
        if view.now >= self.configuring.retry_at {
            self.configure(report);
        }
    }

    /// Sends what is wanted now.
    pub(super) fn configure(&mut self, report: &Report) {
        let Some(names) = &self.configuring.names else { return };
        let wish = wish(&self.inputs.config.borrow(), names);
        if self.busy.contains(&Work::Configure) {
            return;
        }
        let Some(config) = self.configuring.next(&wish, &report.run) else { return };
        self.configuring.retry_at = boot_clock::now() + RETRY_AFTER;
        let answer = self.hands.link.begin(Order::Configure(config.clone()));
        let run = report.run.clone();
        self.spawn(Work::Configure, async move {
            Outcome::Configured { run, config, result: answer.wait().await }
        });
    }

    /// Notes what came of it.
    pub(super) fn note_configured(
        &mut self,
        run: RunId,
        config: ServerConfig,
        result: Result<Answer, OrderError>,
    ) {
        self.hands.hurry.notify_one();
        match result {
            Ok(_) => {
                self.configuring.applied = Some((run, config));
                self.configuring.applied_at = boot_clock::now();
            }
            Err(OrderError::Refused(refusal)) if !refusal.transient => {
                tracing::warn!(reason = %refusal.message, "the server refused the configuration");
                self.configuring.refused = Some((config, refusal.message));
            }
            Err(error) => tracing::debug!(error = %Chain(&error), "the configuration was not set"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(parameter: &str, names: Option<&str>) -> ServerConfig {
        ServerConfig {
            parameters: BTreeMap::from([("work_mem".to_owned(), parameter.to_owned())]),
            hba: vec!["hostssl all all 10.0.0.0/8 scram-sha-256".to_owned()],
            synchronous_standby_names: names.map(str::to_owned),
            archive: true,
            generation: parameter.to_owned(),
        }
    }

    fn run(name: &str) -> RunId {
        RunId(name.to_owned())
    }

    /// 8 MB are in effect, nonsense was refused.
    fn with_a_refusal() -> Configuring {
        Configuring {
            applied: Some((run("one"), config("8MB", None))),
            refused: Some((config("nonsense", None), "invalid value".to_owned())),
            ..Configuring::default()
        }
    }

    /// Without an archive there is nobody to switch segments for. The user's own parameters stay in any case.
    #[test]
    fn a_segment_is_archived_after_five_minutes_at_the_latest() {
        let mut config: AgentConfig = serde_json::from_value(serde_json::json!({
            "databaseUid": "uid", "replicas": 1, "durability": "Preferred", "minSyncReplicas": 1,
            "profile": "Standard", "syncTimeoutMs": 10_000, "maxLagBytes": 0, "systemIdentifier": null,
            "parameters": {"work_mem": "8MB"}, "hba": [], "appDatabase": "app", "volumeBytes": 100_u64 << 30,
            "generation": "",
        }))
        .unwrap();
        let parameters = |config: &AgentConfig| {
            let parameters = wish(config, &SyncNames::Off).parameters;
            ["archive_timeout", "max_slot_wal_keep_size", "work_mem"].map(|name| parameters[name].clone())
        };
        assert_eq!(parameters(&config), ["0", "25600MB", "8MB"]);
        config.archive = serde_json::from_value(serde_json::json!({"destination": "s3://bucket"})).unwrap();
        assert_eq!(parameters(&config), ["5min", "25600MB", "8MB"]);
    }

    #[test]
    fn slots_keep_a_quarter_of_the_volume_and_not_less_than_is_useful() {
        assert_eq!([1 << 30, 100 << 30, 1 << 20].map(slot_keep_mb), [256, 25 * 1024, 256]);
    }

    #[test]
    fn a_primary_that_ran_before_goes_on_with_its_own_names() {
        let primary = Server::Primary { timeline: proto::postgres::Timeline::FIRST, switch_lsn: None };
        let standby = Server::Standby { following: None, streaming: false, replayed: None };
        let mut configuring = Configuring::default();
        configuring.learn_names(&primary, None);
        assert_eq!(configuring.names, None, "nothing is sent before it has answered");
        configuring.learn_names(&primary, Some(""));
        assert_eq!(configuring.names, Some(SyncNames::Off));
        configuring.learn_names(&primary, Some("ANY 1 (\"-\")"));
        assert_eq!(configuring.names, Some(SyncNames::Off), "from then on the core decides");
        configuring.learn_names(&Server::Dying, None);
        assert_eq!(configuring.names, Some(SyncNames::Closed));
        let mut beside_a_standby = Configuring::default();
        beside_a_standby.learn_names(&standby, None);
        assert_eq!(beside_a_standby.names, Some(SyncNames::Closed));
    }

    #[test]
    fn what_is_in_effect_is_not_sent_again_except_to_another_run() {
        let mut configuring = Configuring::default();
        let wish = config("8MB", None);
        assert_eq!(configuring.next(&wish, &run("one")), Some(wish.clone()));
        configuring.applied = Some((run("one"), wish.clone()));
        assert_eq!(configuring.next(&wish, &run("one")), None);
        assert_eq!(configuring.next(&wish, &run("two")), Some(wish));
    }

    #[test]
    fn a_refused_configuration_never_holds_up_the_synchronous_names() {
        let mut configuring = with_a_refusal();
        let next = configuring.next(&config("nonsense", Some("ANY 1 (\"a\")")), &run("one"));
        assert_eq!(next, Some(config("8MB", Some("ANY 1 (\"a\")"))), "the accepted settings, the new names");
        assert_eq!(configuring.error(), Some("invalid value"));
    }

    #[test]
    fn after_a_restart_a_refused_configuration_leaves_the_users_part_out() {
        let mut configuring = with_a_refusal();
        let wish = config("nonsense", None);
        let next = configuring.next(&wish, &run("two")).unwrap();
        assert!(next.parameters.is_empty());
        assert_eq!(next.hba, [PLAIN_RULE]);
    }

    #[test]
    fn another_wish_is_tried_and_forgets_the_refusal() {
        let mut configuring = with_a_refusal();
        let wish = config("16MB", None);
        assert_eq!(configuring.next(&wish, &run("one")), Some(wish));
        assert_eq!(configuring.error(), None);
    }
}
