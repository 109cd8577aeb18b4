//! What people do to a Database besides breaking it: scale it, change settings, delete its parts, delete it.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use e2e::scenario::{
    database::{Database, Pod},
    session::{Outcome, Session},
    stage::Stage,
    trial::{create_tables, written},
    verdict, wait,
    wait::say,
    writer::Writer,
};
use proto::api::status::DEGRADED;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

const NAMESPACE: &str = "database";
/// Where a Database of the same name lives.
const NAMESAKES: &str = "database-too";
/// From one state to the next on a machine that also builds.
const LIMIT: Duration = Duration::from_mins(4);
/// What only shows later must show within this (the promise to users).
const TELL_LIMIT: Duration = Duration::from_secs(30);

/// Name of a StorageClass without a provisioner.
const SILENT_CLASS: &str = "matriarch-test-silent";

static CLEARED: OnceCell<()> = OnceCell::const_new();

async fn ground(name: &str) -> Result<Database> {
    let stage = Stage::with_operator().await?;
    CLEARED.get_or_try_init(|| stage.without(NAMESPACE)).await?;
    stage.database(NAMESPACE, name).await
}

fn spec(replicas: usize, more: &Value) -> Value {
    let mut spec = json!({"replicas": replicas, "version": "16", "storage": {"size": "1Gi"}});
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    spec
}

async fn formed(name: &str, replicas: usize) -> Result<Database> {
    let database = ground(name).await?;
    database.apply(&spec(replicas, &json!({}))).await?;
    let took = verdict::whole(&database, replicas, LIMIT).await?;
    say(&format!("{name}: {replicas} instances serve after {:.1} s", took.as_secs_f64()));
    Ok(database)
}

async fn ask(database: &Database, pod: &Pod, query: &str) -> Result<String> {
    let session = Session::open_patiently(&database.superuser_on(pod).await?).await?;
    let rows = session.query(query, &[], Duration::from_secs(10)).await?;
    Ok(rows.first().context("no row")?.try_get(0)?)
}

async fn on_every_instance(database: &Database, query: &str, expected: &str) -> Result<()> {
    let everywhere = async || {
        for pod in database.pods().await? {
            let answer = ask(database, &pod, query).await?;
            ensure!(answer == expected, "{} answers {answer} to {query}", pod.name);
        }
        Ok(())
    };
    wait::until(&format!("{expected} from {query}"), LIMIT, everywhere).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn replicas_come_and_leave_without_a_lost_row() -> Result<()> {
    let database = formed("scaled", 1).await?;
    create_tables(&database).await?;
    let writer = Writer::start(database.read_write().await?, 1);
    written(&writer, 20).await?;
    for replicas in [3, 5, 2] {
        database.kubectl(&["scale", "db", "scaled", &format!("--replicas={replicas}")]).await?;
        let took = verdict::whole(&database, replicas, LIMIT).await?;
        say(&format!("scaled to {replicas} within {:.1} s", took.as_secs_f64()));
        slots_match(&database, replicas).await?;
        written(&writer, writer.count() + 20).await?;
    }
    let record = writer.stop().await?;
    verdict::nothing_lost(&database, &record).await?;
    let claims = database.kubectl(&["get", "pvc", "-o", "name"]).await?;
    ensure!(claims.contains("data-scaled-4"), "Retain keeps the volumes of those that left: {claims}");
    database.delete(LIMIT).await
}

/// A slot that nobody uses keeps the log for ever.
async fn slots_match(database: &Database, replicas: usize) -> Result<()> {
    let dropped = async || {
        let primary = database.primary().await?;
        let slots = ask(database, &primary, "SELECT count(*)::text FROM pg_replication_slots").await?;
        ensure!(slots == (replicas - 1).to_string(), "{} has {slots} slots", primary.name);
        Ok(())
    };
    wait::until("a slot for each standby", LIMIT, dropped).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn settings_are_reloaded_restarted_or_refused() -> Result<()> {
    let database = formed("settings", 3).await?;
    create_tables(&database).await?;
    let with = |name: &str, value: &str| spec(3, &json!({"postgresql": {"parameters": {name: value}}}));
    let before = uids(&database).await?;

    database.apply(&with("work_mem", "7MB")).await?;
    on_every_instance(&database, "SHOW work_mem", "7MB").await?;
    ensure!(uids(&database).await? == before, "a reload restarts no pod");

    let writer = Writer::start(database.read_write().await?, 1);
    written(&writer, 20).await?;
    database.apply(&with("max_connections", "123")).await?;
    on_every_instance(&database, "SHOW max_connections", "123").await?;
    verdict::whole(&database, 3, LIMIT).await?;

    database.apply(&with("work_mem", "banana")).await?;
    let refused = async || degraded_because(&database, "SettingsRefused", "banana").await;
    wait::until("the refusal of a bad value", TELL_LIMIT, refused).await?;
    written(&writer, writer.count() + 50).await.context("a bad value takes nothing down")?;

    database.apply(&spec(3, &json!({}))).await?;
    verdict::whole(&database, 3, LIMIT).await?;
    on_every_instance(&database, "SHOW work_mem", "4MB").await?;
    verdict::nothing_lost(&database, &writer.stop().await?).await?;
    database.delete(LIMIT).await
}

async fn uids(database: &Database) -> Result<BTreeSet<String>> {
    Ok(database.pods().await?.into_iter().map(|pod| pod.uid).collect())
}

async fn degraded_because(database: &Database, reason: &str, words: &str) -> Result<()> {
    let status = database.status().await?;
    let condition = status.conditions.iter().find(|condition| condition.type_ == DEGRADED);
    let condition = condition.context("no condition Degraded")?;
    let (told, message) = (&condition.reason, &condition.message);
    ensure!(told == reason && message.contains(words), "Degraded says {told}: {message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn deleted_children_come_back() -> Result<()> {
    let database = formed("whole", 2).await?;
    // Not the ServiceAccount: the tokens of running pods end with it, whoever makes it again (docs/guide.md).
    let children = [
        "service/whole-rw",
        "service/whole-ro",
        "service/whole-headless",
        "configmap/whole-config",
        "poddisruptionbudget/whole",
        "role/whole",
        "rolebinding/whole",
        "secret/whole-app",
        "secret/whole-tls",
    ];
    let standby = database.standby().await?.name;
    // A volume lives as long as the pod that uses it, which the operator restarts.
    let (pod, claim) = (format!("pod/{standby}"), format!("pvc/data-{standby}"));
    for child in children.into_iter().chain([pod.as_str(), claim.as_str()]) {
        let uid = uid_of(&database, child).await?;
        database.kubectl(&["delete", child, "--wait=false"]).await?;
        let back = async || {
            let now = uid_of(&database, child).await?;
            ensure!(now != uid, "it is still the old one");
            Ok(())
        };
        let ((), took) = wait::until(&format!("{child} to come back"), LIMIT, back).await?;
        say(&format!("{child} came back within {:.1} s", took.as_secs_f64()));
    }
    // With other passwords and certificates than before.
    let database = ground("whole").await?;
    verdict::whole(&database, 2, LIMIT).await?;
    let connects = async || create_tables(&database).await;
    wait::until("the application to connect with its new password", LIMIT, connects).await?;
    database.delete(LIMIT).await
}

async fn uid_of(database: &Database, child: &str) -> Result<String> {
    database.kubectl(&["get", child, "-o", "jsonpath={.metadata.uid}"]).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_second_reconcile_writes_nothing() -> Result<()> {
    let database = formed("quiet", 3).await?;
    let version = async || -> Result<String> {
        let kinds = "db,sts,svc,cm,pdb,sa,role,rolebinding,secret,pvc";
        let versions =
            "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
        database.kubectl(&["get", kinds, "-o", versions]).await
    };
    // The annotation makes a reconcile, and the first look may come before the last status.
    let settled = async || {
        let before = version().await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        ensure!(version().await? == before, "something is still being written");
        Ok(())
    };
    wait::until("a quiet moment", LIMIT, settled).await?;
    for poke in 0..3 {
        database.kubectl(&["annotate", "--overwrite", "db", "quiet", &format!("poke={poke}")]).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let before = version().await?;
    database.kubectl(&["label", "--overwrite", "pod", "quiet-0", "poke=done"]).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = version().await?;
    ensure!(before == after, "a reconcile of an unchanged world wrote:\n{before}\nbecame\n{after}");
    database.delete(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn volumes_outlive_the_database_and_are_taken_over() -> Result<()> {
    let database = formed("kept", 2).await?;
    create_tables(&database).await?;
    let writer = Writer::start(database.read_write().await?, 1);
    written(&writer, 100).await?;
    let record = writer.stop().await?;
    let identifier = database.status().await?.system_identifier;

    database.kubectl(&["delete", "db", "kept", "--timeout=120s"]).await?;
    let ended = async || match database.pods().await?.len() {
        0 => Ok(()),
        pods => bail!("{pods} pods are left"),
    };
    wait::until("the pods to end", LIMIT, ended).await?;
    database.apply(&spec(2, &json!({}))).await?;
    verdict::whole(&database, 2, LIMIT).await?;
    verdict::nothing_lost(&database, &record).await?;
    ensure!(database.status().await?.system_identifier == identifier, "this is other data");
    database.delete(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn what_only_shows_later_is_told_with_what_to_do() -> Result<()> {
    let cases = [
        (
            "no-provisioner",
            json!({"storage": {"size": "1Gi", "storageClassName": SILENT_CLASS}}),
            "VolumeNotProvisioned",
            "the provisioner of its StorageClass runs",
        ),
        ("no-image", json!({"image": "registry.invalid/postgres:16.3"}), "ImagePullFailed", "spec.image"),
        (
            "no-class",
            json!({"storage": {"size": "1Gi", "storageClassName": "nope"}}),
            "VolumeNotProvisioned",
            "spec.storage",
        ),
        (
            "no-room",
            json!({"resources": {"requests": {"memory": "900Gi"}}}),
            "Unschedulable",
            "lower spec.resources",
        ),
    ];
    for (name, more, reason, advice) in cases {
        let database = ground(name).await?;
        silent_class(&database).await?;
        database.apply(&spec(1, &more)).await?;
        let told = async || degraded_because(&database, reason, advice).await;
        let ((), took) = wait::until(&format!("{name} to be told"), TELL_LIMIT, told).await?;
        say(&format!("{name} was told within {:.1} s", took.as_secs_f64()));
        let events = database.kubectl(&["events", "--for", &format!("database/{name}")]).await?;
        ensure!(events.contains(reason), "{reason} is not among the events:\n{events}");
        database.delete(LIMIT).await?;
    }
    Ok(())
}

/// A class whose volumes never come, of which nobody complains.
async fn silent_class(database: &Database) -> Result<()> {
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": SILENT_CLASS},
        "provisioner": "db.example.com/does-not-run", "volumeBindingMode": "WaitForFirstConsumer",
    });
    database.kubectl.run_with(&["apply", "-f", "-"], &class.to_string()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_single_instance_survives_its_container() -> Result<()> {
    let database = formed("single", 1).await?;
    create_tables(&database).await?;
    let pod = database.primary().await?;
    let session = Session::open_patiently(&database.access_to(&pod).await?).await?;
    let outcome = session.execute("INSERT INTO ledger (id) VALUES (1)", &[]).await?;
    ensure!(matches!(outcome, Outcome::Acknowledged(_)), "{outcome:?}");
    database.delete_pod(&pod).await?;
    let replaced = async || {
        let now = database.primary().await?;
        ensure!(now.uid != pod.uid, "the old pod is still there");
        ensure!(ask(&database, &now, "SELECT count(*)::text FROM ledger").await? == "1", "the row is gone");
        Ok(())
    };
    wait::until("the instance to come back with its row", LIMIT, replaced).await?;
    database.delete(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn namesakes_in_two_namespaces_have_nothing_to_do_with_each_other() -> Result<()> {
    let stage = Stage::with_operator().await?;
    let first = formed("twin", 1).await?;
    stage.without(NAMESAKES).await?;
    let second = stage.database(NAMESAKES, "twin").await?;
    second.apply(&spec(1, &json!({}))).await?;
    verdict::whole(&second, 1, LIMIT).await?;
    create_tables(&first).await?;
    let of = async |database: &Database| -> Result<(String, String)> {
        let lease =
            database.kubectl(&["get", "lease", "twin", "-o", "jsonpath={.spec.holderIdentity}"]).await?;
        Ok((lease, database.status().await?.system_identifier.context("no system identifier")?))
    };
    let (one, other) = (of(&first).await?, of(&second).await?);
    ensure!(one.0 != other.0 && one.1 != other.1, "{one:?} and {other:?} are not two");
    let ledger = "SELECT coalesce(to_regclass('ledger')::text, 'none')";
    ensure!(ask(&second, &second.primary().await?, ledger).await? == "none", "they share data");
    first.delete(LIMIT).await?;
    ensure!(of(&second).await? == other, "the deletion of one reached the other");
    verdict::whole(&second, 1, LIMIT).await?;
    second.delete(LIMIT).await?;
    stage.without(NAMESAKES).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn lease_calls_have_a_priority_level_of_their_own() -> Result<()> {
    let database = formed("prior", 1).await?;
    let served = async || -> Result<u64> {
        let metrics = database.kubectl.run(&["get", "--raw", "/metrics"]).await?;
        let ours = metrics.lines().filter(|line| {
            line.starts_with("apiserver_flowcontrol_dispatched_requests_total{")
                && line.contains(r#"flow_schema="matriarch-leases""#)
                && line.contains(r#"priority_level="matriarch-leases""#)
        });
        let counts = ours.map(|line| Ok(line.rsplit(' ').next().context("no value")?.parse::<f64>()?));
        // Whole numbers, and far below where a float has none.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        counts.sum::<Result<f64>>().map(|count| count as u64)
    };
    let before = served().await?;
    let more = async || {
        let now = served().await?;
        ensure!(now >= before + 5, "{before} before, {now} now");
        Ok(now)
    };
    let (now, took) = wait::until("lease calls in their level", LIMIT, more).await?;
    say(&format!("{} lease calls in {:.1} s", now - before, took.as_secs_f64()));
    database.delete(LIMIT).await
}
