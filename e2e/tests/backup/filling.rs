//! A volume that fills because the archive is down: told before it is full and when it is, and nothing is lost.

use std::collections::BTreeMap;

use e2e::fault::disk::Disk;

use super::*;

/// The store stays away for the whole of it, and comes back by itself should the test end before.
const AWAY_LIMIT: Duration = Duration::from_mins(20);
/// Until servers without space have ended and it is told.
const NOTICE_LIMIT: Duration = Duration::from_mins(2);
/// Files of 16 MiB that wait while there is still room: less than the quarter of the volume that a standby keeps of
/// what is not archived, so that whoever leads afterwards has all of it.
const BACKLOG: u64 = 8;
/// Between two segments that are ended while the store works.
const SWITCH_EVERY: Duration = Duration::from_secs(10);
/// As long as nobody may lead at least, once the servers have ended: a hand-over is over sooner.
const NOBODY_FOR: u32 = 10;
/// Whoever leads afterwards first looks at the volume that has grown, then archives what waited.
const BACK_LIMIT: Duration = Duration::from_mins(5);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_volume_that_fills_while_the_store_is_away_loses_nothing() -> Result<()> {
    let Some(ground) = Ground::prepare("backup-filling").await? else { return Ok(()) };
    if ground.stage.cluster.lab_for(Fault::Disk).is_none() {
        return Ok(());
    }
    let database = formed(&ground, "filled", 2).await?;
    let writer = Writer::start(database.read_write().await?, 1);
    written(&writer, 300).await?;

    let store = ground.store().await?;
    store.freeze(AWAY_LIMIT).await?;
    told_before(&database).await?;
    written(&writer, writer.count() + 200).await.context("writes go on while there is room")?;
    fill_up(&database).await?;

    let returned = jiff::Timestamp::now();
    store.thaw().await?;
    let mut larger = ground.sample(2);
    larger["storage"]["size"] = json!("2Gi");
    database.apply(&larger).await?;
    back(&database).await?;
    restorable_again(&database, returned).await?;
    written(&writer, writer.count() + 200).await?;
    let record = writer.stop().await?;
    say(&format!("{} rows, {} failures meanwhile", record.acknowledged.len(), record.failures));
    verdict::nothing_lost(&database, &record).await?;
    everything_restored(&ground, &database).await?;
    database.delete(LIMIT).await?;
    ground.clear().await
}

/// While there is room: the condition says that archiving is down and what waits, and so do the metrics.
async fn told_before(database: &Database) -> Result<()> {
    for _ in 0..BACKLOG {
        switch_wal(database).await?;
    }
    let down = async || {
        let message = condition(database, CONTINUOUS_ARCHIVING, "False").await?;
        ensure!(message.contains("wait to be archived since"), "{message}");
        Ok(message)
    };
    let (message, took) = wait::until("the archive's being down to show", LIMIT, down).await?;
    say(&format!("told after {:.0} s: {message}", took.as_secs_f64()));
    let counted = async || {
        let (files, age) = backlog(database).await?;
        ensure!(files >= BACKLOG && age > 0, "{files} files wait, the oldest for {age} s");
        Ok((files, age))
    };
    let ((files, age), took) = wait::until("the backlog in the metrics", TELL_LIMIT, counted).await?;
    say(&format!(
        "metrics after {:.0} s more: {files} files wait, the oldest for {age} s",
        took.as_secs_f64()
    ));
    let degraded = condition(database, "Degraded", "False").await;
    degraded.map(drop).context("no volume is full yet")
}

/// A segment more, with hardly anything in it.
async fn switch_wal(database: &Database) -> Result<()> {
    query(database, "SELECT pg_logical_emit_message(false, 'fill', 'x')").await?;
    query(database, "SELECT pg_switch_wal()").await.map(drop)
}

/// Files that wait on the primary, and seconds that the oldest has waited.
async fn backlog(database: &Database) -> Result<(u64, u64)> {
    let address = database.primary().await?.address.context("the primary has no address")?;
    let client = reqwest::Client::builder().timeout(QUERY_LIMIT).build()?;
    let url = format!("http://{address}:{}/metrics", proto::pod::HTTP_PORT);
    let answer = client.get(&url).send().await.with_context(|| format!("{url} does not answer"))?;
    let text = answer.error_for_status()?.text().await?;
    let values: BTreeMap<&str, &str> = text.lines().filter_map(sample).collect();
    let value = |name: &str| -> Result<u64> {
        let value = values.get(name).with_context(|| format!("no {name}"))?;
        value.parse().with_context(|| format!("{name} is {value}"))
    };
    Ok((value("database_archive_waiting_files")?, value("database_archive_oldest_waiting_seconds")?))
}

/// Name and value of a line such as `name{label="..."} 7`.
fn sample(line: &str) -> Option<(&str, &str)> {
    let (series, value) = line.rsplit_once(' ')?;
    Some((series.split('{').next()?, value))
}

/// Nothing is left on any volume: it is told with what to do, and the servers end rather than drop what waits.
async fn fill_up(database: &Database) -> Result<()> {
    for pod in database.pods().await? {
        Disk::of_claim(&database.namespace, &format!("data-{}", pod.name))?.fill()?;
    }
    let full = async || {
        let message = condition(database, "Degraded", "True").await?;
        for words in ["is full", "give the store back", "raise spec.storage.size"] {
            ensure!(message.contains(words), "{message}");
        }
        Ok(message)
    };
    let (message, took) = wait::until("the full volumes to be told", NOTICE_LIMIT, full).await?;
    say(&format!("told {:.0} s after they were full: {message}", took.as_secs_f64()));
    let ended = async || {
        // It needs another segment, for which there is no room, and fails when the server has ended.
        let more = switch_wal(database).await;
        ensure!(more.is_err() && database.primary().await.is_err(), "one still leads");
        Ok(())
    };
    let ((), took) = wait::until("all servers to end", NOTICE_LIMIT, ended).await?;
    say(&format!("nobody leads {:.0} s later", took.as_secs_f64()));
    for _ in 0..NOBODY_FOR {
        tokio::time::sleep(Duration::from_secs(1)).await;
        ensure!(database.primary().await.is_err(), "one leads again although its volume is full");
    }
    condition(database, "Available", "False").await.map(drop)
}

/// Times after the outage can be restored to.
async fn restorable_again(database: &Database, returned: jiff::Timestamp) -> Result<()> {
    let past = async || {
        // A commit counts once its segment is archived, and each segment takes room.
        tokio::time::sleep(SWITCH_EVERY).await;
        switch_wal(database).await?;
        condition(database, RESTORABLE, "True").await?;
        let latest = database.status().await?.latest_restorable_time.context("no latestRestorableTime")?.0;
        ensure!(latest > returned, "{latest} is the latest, and the store came back at {returned}");
        Ok(latest)
    };
    let (latest, took) = wait::until("the latest time to pass the outage", BACK_LIMIT, past).await?;
    say(&format!("{latest} can be restored {:.0} s later", took.as_secs_f64()));
    Ok(())
}

/// Whole by itself, with nothing that waits.
async fn back(database: &Database) -> Result<()> {
    let whole = verdict::whole(database, 2, BACK_LIMIT).await?;
    say(&format!(
        "whole {:.1} s after the store came back and the volumes were to grow",
        whole.as_secs_f64()
    ));
    let archives = async || {
        condition(database, CONTINUOUS_ARCHIVING, "True").await?;
        let (files, _) = backlog(database).await?;
        ensure!(files == 0, "{files} files wait");
        Ok(())
    };
    let ((), took) = wait::until("the backlog to go", BACK_LIMIT, archives).await?;
    say(&format!("everything archived {:.1} s later", took.as_secs_f64()));
    Ok(())
}

/// A copy of everything has the rows that are here, no more and no less.
async fn everything_restored(ground: &Ground, source: &Database) -> Result<()> {
    archived(source).await?;
    let rows = ids(source, "true").await?;
    let copy = ground.restored("unfilled", &source.name, &Value::Null).await?;
    let there = ids(&copy, "true").await?;
    let (missing, more) = (rows.difference(&there).count(), there.difference(&rows).count());
    ensure!(missing == 0 && more == 0, "{missing} rows are missing and {more} should not be there");
    say(&format!("restored: {} rows", there.len()));
    copy.delete(LIMIT).await
}
