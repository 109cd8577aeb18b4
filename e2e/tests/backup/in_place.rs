//! A broken Database comes back under its own name, by the steps of docs/backup.md.

use e2e::scenario::session::{Access, Outcome};

use super::*;

const NAME: &str = "broken";

/// Steps 2 and 3: nothing of it is left but passwords, and what is in the store.
async fn removed(database: &Database) -> Result<()> {
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    let volumes = format!("db.example.com/database={NAME}");
    database.kubectl(&["delete", "db", NAME, &limit]).await?;
    let kept = database.kubectl(&["get", "pvc", "-l", &volumes, "-o", "name"]).await?;
    ensure!(kept.lines().count() == 2, "deletionPolicy Retain keeps the volumes: {kept:?}");
    database.kubectl(&["delete", "lease", NAME, &limit]).await?;
    database.kubectl(&["delete", "pvc", "-l", &volumes, &limit]).await.map(drop)
}

/// The application goes on with what it has: name, password and CA. Only the address is looked up.
async fn goes_on(database: &Database, before: &Access) -> Result<()> {
    let now = database.read_write().await?;
    ensure!(now.password == before.password && now.authority == before.authority, "other credentials");
    let session = Session::open_patiently(&Access { address: now.address, ..before.clone() }).await?;
    let written = session.execute_within("INSERT INTO ledger VALUES (4)", &[], QUERY_LIMIT).await?;
    ensure!(matches!(written, Outcome::Acknowledged(_)), "{written:?}");
    Ok(())
}

/// The new one writes to a folder of its own, and what the former one left is as it was.
async fn is_backed_up(database: &Database, bucket: &Bucket, old: (&str, Vec<String>)) -> Result<()> {
    let (old, files) = old;
    let status = request(database, "healed").await?;
    let id = status["backupId"].as_str().context("no backupId")?;
    let new = uid(database).await?;
    ensure!(new != old, "another Database of the same name");
    let written = bucket.list(&format!("{FOLDER}/{new}/")).await?;
    ensure!(written.iter().any(|key| key.ends_with(&format!("/backup/{id}/backup.json"))), "{written:?}");
    let left = bucket.list(&format!("{FOLDER}/{old}/")).await?;
    ensure!(left == files, "the source is only read: {left:?}, not {files:?}");
    Ok(())
}

/// Loses a table, and tells a moment at which it was there, with the rows 1 and 2.
async fn damaged(database: &Database) -> Result<String> {
    query(database, "INSERT INTO ledger VALUES (1)").await?;
    request(database, "nightly").await?;
    query(database, "INSERT INTO ledger VALUES (2)").await?;
    let good = moment(database).await?;
    query(database, "INSERT INTO ledger VALUES (3)").await?;
    query(database, "DROP TABLE ledger").await?;
    archived(database).await?;
    Ok(good)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_broken_database_is_recovered_in_place() -> Result<()> {
    let Some(ground) = Ground::prepare("backup-in-place").await? else { return Ok(()) };
    let bucket = ground.bucket()?;
    let broken = formed(&ground, NAME, 2).await?;
    let before = broken.read_write().await?;
    let good = damaged(&broken).await?;

    let old = uid(&broken).await?;
    removed(&broken).await?;
    let files = bucket.list(&format!("{FOLDER}/{old}/")).await?;
    let mut manifest = ground.sample(2);
    let from = json!({"repository": ground.repository(&old)});
    manifest["bootstrap"] = json!({"restore": {"from": from, "target": {"time": good}}});
    // Knows nothing of the former one.
    let recovered = ground.database(NAME).await?;
    recovered.apply(&manifest).await?;
    let took = verdict::whole(&recovered, 2, LIMIT).await?;
    say(&format!("{NAME} serves again {:.1} s after it was applied", took.as_secs_f64()));

    let rows = ids(&recovered, "true").await?;
    ensure!(rows == BTreeSet::from([1, 2]), "{rows:?}, not what was written by {good}");
    goes_on(&recovered, &before).await?;
    is_backed_up(&recovered, &bucket, (&old, files)).await?;
    ground.clear().await
}
