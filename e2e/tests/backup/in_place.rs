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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn a_broken_database_is_recovered_in_place() -> Result<()> {
    let Some(ground) = Ground::prepare("backup-in-place").await? else { return Ok(()) };
    let bucket = ground.bucket()?;
    let broken = formed(&ground, NAME, 2).await?;
    let before = broken.read_write().await?;
    query(&broken, "INSERT INTO ledger VALUES (1)").await?;
    request(&broken, "nightly").await?;
    query(&broken, "INSERT INTO ledger VALUES (2)").await?;
    let good = moment(&broken).await?;
    query(&broken, "INSERT INTO ledger VALUES (3)").await?;
    query(&broken, "DROP TABLE ledger").await?;
    archived(&broken).await?;

    let old = uid(&broken).await?;
    removed(&broken).await?;
    let old_files = bucket.list(&format!("{FOLDER}/{old}/")).await?;
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
    let status = request(&recovered, "healed").await?;
    let new = uid(&recovered).await?;
    ensure!(new != old, "another Database of the same name");
    let id = status["backupId"].as_str().context("no backupId")?;
    let new_files = bucket.list(&format!("{FOLDER}/{new}/")).await?;
    ensure!(new_files.iter().any(|key| key.ends_with(&format!("/backup/{id}/backup.json"))), "{new_files:?}");
    let left = bucket.list(&format!("{FOLDER}/{old}/")).await?;
    ensure!(left == old_files, "the source is only read: {left:?}, not {old_files:?}");
    ground.clear().await
}
