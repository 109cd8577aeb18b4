//! CEL rules of the CustomResourceDefinition: `kubectl apply` itself refuses a bad spec, with a sentence that
//! names the field and says what to change.
//!
//! A rule that cannot be evaluated refuses the object too, so expressions look at a field only after `has`.

use kube::core::{Message, Rule};

use super::reserved::RESERVED;

/// Longest name of a Database: pods, PVCs and Services append to it, and labels end at 63 characters.
pub const MAX_NAME: usize = 40;

fn rule(expression: impl Into<String>, message: &str) -> Rule {
    Rule::new(expression).message(message)
}

/// A rule whose message is computed, since naming the offending value helps.
fn explained(expression: impl Into<String>, message: impl Into<String>) -> Rule {
    Rule::new(expression).message(Message::Expression(message.into()))
}

/// Children are named after the Database, and a Service's name must begin with a letter.
pub fn name_fits_children() -> Rule {
    rule(
        format!(
            "self.metadata.name.size() <= {MAX_NAME} && \
             self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
        ),
        "metadata.name names pods and Services too: begin with a letter, use only lower-case letters, digits and \
         '-', and at most 40 characters",
    )
}

/// `minSyncReplicas` counts standbys, of which there is one less than instances.
pub fn sync_replicas_exist() -> Rule {
    rule(
        "!has(self.minSyncReplicas) || self.minSyncReplicas < self.replicas",
        "spec.minSyncReplicas must be lower than spec.replicas, since one instance is the primary and only the \
         others are standbys: raise spec.replicas or lower spec.minSyncReplicas",
    )
}

/// `Required` would never acknowledge a commit without a standby.
pub fn required_has_a_standby() -> Rule {
    rule(
        "self.durability != 'Required' || self.replicas >= 2",
        "spec.durability Required waits for a standby on every commit: set spec.replicas to 2 or more, or use \
         Preferred",
    )
}

/// Nobody waits in `Async`.
pub fn async_waits_for_nobody() -> Rule {
    rule(
        "self.durability != 'Async' || !has(self.minSyncReplicas)",
        "spec.minSyncReplicas has no effect with spec.durability Async: remove it, or use Preferred or Required",
    )
}

/// Only `Preferred` ever gives up waiting.
pub fn sync_timeout_needs_preferred() -> Rule {
    rule(
        "self.durability == 'Preferred' || !has(self.failover) || !has(self.failover.syncTimeout)",
        "spec.failover.syncTimeout has an effect only with spec.durability Preferred: remove it, or use Preferred",
    )
}

/// The synchronous modes elect only who has everything.
pub fn max_lag_needs_async() -> Rule {
    rule(
        "self.durability == 'Async' || !has(self.failover) || !has(self.failover.maxLagBytes)",
        "spec.failover.maxLagBytes has an effect only with spec.durability Async: remove it, since Preferred and \
         Required never elect an instance that lacks an acknowledged commit",
    )
}

/// Bootstrapping happens once.
pub fn bootstrap_is_fixed() -> Rule {
    rule(
        "has(self.bootstrap) == has(oldSelf.bootstrap) && (!has(self.bootstrap) || \
         self.bootstrap == oldSelf.bootstrap)",
        "spec.bootstrap is used once, when the first instance is made: put it back, and create further databases \
         with SQL",
    )
}

/// A backup goes somewhere.
pub fn last_backup_has_a_store() -> Rule {
    rule(
        "self.deletionPolicy != 'DeleteAfterBackup' || has(self.backup)",
        "spec.deletionPolicy DeleteAfterBackup needs spec.backup, which says where the last backup goes: add it, or \
         use Retain or Delete",
    )
}

/// The form of `spec.version` and the supported majors.
pub fn version_is_supported() -> Rule {
    explained(
        "self.matches('^(14|15|16|17|18)([.](0|[1-9][0-9]?))?$')",
        "'spec.version ' + self + ' is not supported: write a major from 14 to 18 such as \"16\", or a release of \
         one such as \"16.3\"'",
    )
}

const OLD_MAJOR: &str = "int(oldSelf.split('.')[0])";
const NEW_MAJOR: &str = "int(self.split('.')[0])";

/// The data directory of a newer major cannot be read by an older one.
pub fn version_is_not_lowered() -> Rule {
    explained(
        format!("{NEW_MAJOR} >= {OLD_MAJOR}"),
        "'spec.version cannot go back from ' + oldSelf + ' to ' + self + ': the older major version cannot read \
         the data; load a dump into a new Database instead'",
    )
}

/// Upgrades go one major at a time.
pub fn version_skips_no_major() -> Rule {
    explained(
        format!("{NEW_MAJOR} <= {OLD_MAJOR} + 1"),
        "'spec.version cannot skip from ' + oldSelf + ' to ' + self + ': at most one major version at a time'",
    )
}

/// Changing the major in place is not built.
pub fn version_keeps_its_major() -> Rule {
    explained(
        format!("{NEW_MAJOR} != {OLD_MAJOR} + 1"),
        "'spec.version cannot change from ' + oldSelf + ' to ' + self + ' in place: create a new Database of the \
         new major version and load a dump'",
    )
}

/// An image is one word.
pub fn image_is_a_reference() -> Rule {
    rule(
        "self.matches('^[a-z0-9]([-a-zA-Z0-9._:/@]*[a-zA-Z0-9])?$')",
        "spec.image must be an image reference such as registry.example.com/postgres:16.3, without spaces",
    )
}

/// The size is a quantity that a cluster fits in.
pub fn size_is_enough() -> Rule {
    explained(
        "isQuantity(self) && quantity(self).compareTo(quantity('1Gi')) >= 0",
        "'spec.storage.size ' + self + ' is not enough: write a quantity of at least 1Gi such as 50Gi'",
    )
}

/// No storage can shrink a volume.
pub fn size_is_not_lowered() -> Rule {
    explained(
        "!isQuantity(self) || !isQuantity(oldSelf) || quantity(self).compareTo(quantity(oldSelf)) >= 0",
        "'spec.storage.size cannot shrink from ' + oldSelf + ' to ' + self + ': put ' + oldSelf + ' back, or load \
         a dump into a new Database with a smaller volume'",
    )
}

/// A volume stays in its class.
pub fn storage_class_is_fixed() -> Rule {
    rule(
        "has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || \
         self.storageClassName == oldSelf.storageClassName)",
        "spec.storage.storageClassName cannot change, since a volume stays in its class: put the old value back, \
         or load a dump into a new Database",
    )
}

/// A class is named like every object.
pub fn storage_class_is_a_name() -> Rule {
    rule(
        "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
        "spec.storage.storageClassName must be the name of a StorageClass (see kubectl get storageclass), or be \
         left out for the default class",
    )
}

/// Only these can be given to a container.
pub fn resources_are_known() -> Rule {
    rule(
        "[has(self.requests) ? self.requests : {}, has(self.limits) ? self.limits : {}].all(amounts, \
         amounts.all(name, name in ['cpu', 'memory', 'ephemeral-storage'] || name.startsWith('hugepages-')))",
        "spec.resources may name only cpu, memory, ephemeral-storage and hugepages-<size>",
    )
}

/// Amounts are positive quantities.
pub fn resources_are_quantities() -> Rule {
    rule(
        "[has(self.requests) ? self.requests : {}, has(self.limits) ? self.limits : {}].all(amounts, \
         amounts.all(name, type(amounts[name]) == int ? amounts[name] > 0 : isQuantity(amounts[name]) && \
         quantity(amounts[name]).isGreaterThan(quantity('0'))))",
        "spec.resources must hold positive quantities such as cpu: 500m and memory: 1Gi",
    )
}

/// The scheduler refuses pods that request more than they may use.
pub fn requests_stay_below_limits() -> Rule {
    rule(
        "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) || \
         !isQuantity(string(self.requests[name])) || !isQuantity(string(self.limits[name])) || \
         quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
        "spec.resources.requests must not exceed spec.resources.limits: lower the request or raise the limit",
    )
}

/// Below this PostgreSQL with its defaults does not start reliably.
pub fn memory_is_enough() -> Rule {
    rule(
        "!has(self.limits) || !('memory' in self.limits) || !isQuantity(string(self.limits['memory'])) || \
         quantity(string(self.limits['memory'])).compareTo(quantity('128Mi')) >= 0",
        "spec.resources.limits.memory must be at least 128Mi, or PostgreSQL does not start",
    )
}

/// Setting names, lower case so that no other spelling goes round the rules below.
pub fn parameter_names_are_plain() -> Rule {
    rule(
        "self.all(name, name.matches('^[a-z_][a-z0-9_]*([.][a-z_][a-z0-9_]*)?$'))",
        "spec.postgresql.parameters: write the names of settings in lower case and without spaces, such as work_mem",
    )
}

/// One line a setting.
pub fn parameter_values_are_one_line() -> Rule {
    rule(
        "self.all(name, !self[name].contains('\\n') && !self[name].contains('\\r'))",
        "spec.postgresql.parameters: a value must be a single line",
    )
}

/// One rule for each group of [`RESERVED`]. Going over the group and not over the settings keeps the estimated
/// cost within the API server's budget: the names of settings have no bound that it knows of.
pub fn parameters_are_free() -> Vec<Rule> {
    RESERVED
        .iter()
        .map(|group| {
            let names = format!("['{}']", group.names.join("','"));
            explained(
                format!("{names}.all(name, !(name in self))"),
                format!(
                    "'spec.postgresql.parameters: ' + {names}.filter(name, name in self)[0] + ' {}'",
                    group.instead
                ),
            )
        })
        .collect()
}

/// Standbys cannot stream from `wal_level` minimal.
pub fn wal_level_replicates() -> Rule {
    rule(
        "!('wal_level' in self) || self['wal_level'] in ['replica', 'logical']",
        "spec.postgresql.parameters: wal_level must be replica or logical, since standbys stream",
    )
}

/// Eight standbys, a base backup and a rewind at once.
pub fn streaming_has_room() -> Rule {
    rule(
        "['max_wal_senders', 'max_replication_slots'].all(name, !(name in self) || \
         self[name].matches('^[0-9]{2,6}$') && int(self[name]) >= 12)",
        "spec.postgresql.parameters: max_wal_senders and max_replication_slots must be a number of at least 12, \
         which the standbys use; remove them for the default",
    )
}

/// Lines of pg_hba.conf, and nothing that reaches other files.
pub fn hba_lines_are_records() -> Rule {
    explained(
        "self.all(line, line.matches('^(local|host|hostssl|hostnossl|hostgssenc|hostnogssenc)[ \\t]+[^\\n\\r]+$'))",
        "'spec.postgresql.hba: \"' + self.filter(line, \
         !line.matches('^(local|host|hostssl|hostnossl|hostgssenc|hostnogssenc)[ \\t]+[^\\n\\r]+$'))[0].replace(\
         '\\n', ' ').replace('\\r', ' ') + '\" is not a line of pg_hba.conf: write one such as \"hostssl all all \
         10.0.0.0/8 scram-sha-256\"'",
    )
}

/// `trust` over the network gives the superuser to everybody.
pub fn hba_trusts_nobody() -> Rule {
    rule(
        "self.all(line, line.startsWith('local') || !line.matches('[ \\t]trust([ \\t]|$)'))",
        "spec.postgresql.hba: trust lets everybody in without a password: use scram-sha-256 or cert",
    )
}

/// Libraries are found by name in PostgreSQL's own directory.
pub fn libraries_are_names() -> Rule {
    rule(
        "self.all(library, library.matches('^[A-Za-z0-9_.-]+$'))",
        "spec.postgresql.sharedPreloadLibraries must hold names such as pg_stat_statements, without path or comma",
    )
}

/// A name that needs no quoting and is not PostgreSQL's own.
pub fn database_name_is_free() -> Rule {
    explained(
        "self.matches('^[a-z_][a-z0-9_]*$') && !(self in ['postgres', 'template0', 'template1'])",
        "'spec.bootstrap.initdb.database \"' + self + '\" cannot be used: write lower-case letters, digits and \
         \"_\", beginning with a letter, and not postgres, template0 or template1'",
    )
}

/// A wait that is neither no wait nor for ever.
pub fn sync_timeout_is_sensible() -> Rule {
    timeout_between("syncTimeout", "1s", "10m", "10s")
}

/// Longer than the interval of the probe, and not for ever.
pub fn io_timeout_is_sensible() -> Rule {
    timeout_between("ioTimeout", "2s", "5m", "6s")
}

fn timeout_between(field: &str, least: &str, most: &str, example: &str) -> Rule {
    explained(
        format!(
            "self.matches('^([0-9]+(ms|s|m))+$') && duration(self) >= duration('{least}') && \
             duration(self) <= duration('{most}')"
        ),
        format!(
            "'spec.failover.{field} ' + self + ' is out of range: write a duration from {least} to {most} such as \
             {example}'"
        ),
    )
}
