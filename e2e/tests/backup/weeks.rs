//! Weeks of backups within minutes: when each ended is written anew in its `backup.json`, and retention believes that.
//!
//! It goes by nothing else here: which write-ahead log may go follows from positions in it. Only what is left of
//! backups that never ended is judged by when the store took it, which no client of a store can change.

use std::iter::zip;

use e2e::scenario::peer::Peer;
use jiff::Timestamp;
use proto::{
    postgres::Lsn,
    wire::backup::{RETENTION_PATH, Retention, RetentionReport},
};

use super::*;

const NAME: &str = "weekly";
/// With it the window begins between the fifth backup and the sixth, once the eighth is taken.
const RETENTION_DAYS: u32 = 7;
/// Between two backups.
const DAYS_APART: usize = 3;
const SECONDS_PER_DAY: usize = 24 * 60 * 60;
/// Each third one is full.
const FULL_EVERY: usize = 3;
const BACKUPS: usize = 8;
/// Bytes, as initdb makes them.
const WAL_SEGMENT: u64 = 16 << 20;
/// That many have the same first sixteen digits in their names.
const SEGMENTS_PER_FOLDER: u64 = (1 << 32) / WAL_SEGMENT;

/// A backup.
struct Taken {
    /// Of the resource.
    name: String,
    /// In the store.
    id: String,
    /// Number of the WAL segment that recovery from it begins in.
    begins_in: u64,
    /// What it is made to tell.
    ended: Option<Timestamp>,
}

impl Taken {
    fn read(name: String, status: &Value) -> Result<Self> {
        let text = |field: &str| status[field].as_str().with_context(|| format!("no {field} in {status}"));
        let begin: Lsn = text("beginLsn")?.parse()?;
        Ok(Self { name, id: text("backupId")?.to_owned(), begins_in: begin.0 / WAL_SEGMENT, ended: None })
    }
}

/// A Database, and its backups in the order in which they were taken.
struct Weeks {
    database: Database,
    spec: Value,
    bucket: Bucket,
    /// Of the Database in the bucket.
    folder: String,
    taken: Vec<Taken>,
}

impl Weeks {
    /// With the first backup.
    async fn begin(ground: &Ground) -> Result<Self> {
        let mut spec = ground.sample(1);
        spec["version"] = json!("17");
        spec["backup"]["fullEvery"] = json!(FULL_EVERY);
        spec["backup"]["retention"] = json!(RETENTION_DAYS);
        let database = formed_as(ground, NAME, 1, &spec).await?;
        let identifier = database.status().await?.system_identifier.context("no systemIdentifier")?;
        let folder = format!("{FOLDER}/{}/{identifier}", uid(&database).await?);
        let mut weeks = Self { database, spec, bucket: ground.bucket()?, folder, taken: Vec::new() };
        let first = format!("{NAME}-first");
        let status = completed(&weeks.database, &first).await?;
        weeks.note(first, &status)?;
        Ok(weeks)
    }

    /// A row of this number, a restore point `row-<number>` and a backup.
    async fn back_up(&mut self, row: usize) -> Result<()> {
        query(&self.database, &format!("INSERT INTO ledger VALUES ({row})")).await?;
        query(&self.database, &format!("SELECT pg_create_restore_point('row-{row}')")).await?;
        let name = format!("{NAME}-{row}");
        let status = request(&self.database, &name).await?;
        self.note(name, &status)
    }

    fn note(&mut self, name: String, status: &Value) -> Result<()> {
        let expected = if self.taken.len().is_multiple_of(FULL_EVERY) { "Full" } else { "Incremental" };
        ensure!(status["kind"] == expected, "{name} is to be {expected}: {status}");
        say(&format!("{name}: {} from {} on, {}", status["kind"], status["beginLsn"], status["size"]));
        self.taken.push(Taken::read(name, status)?);
        Ok(())
    }

    /// Has the backups from the `first` on be older: by three days from one to the next, and the last of all by `days`.
    /// The oldest goes first: should retention look meanwhile, it finds nothing to delete that is not to go in the end.
    async fn age(&mut self, first: usize, days: usize) -> Result<()> {
        let today = Timestamp::now().as_second();
        for index in first..self.taken.len() {
            let age = (days + DAYS_APART * (BACKUPS - 1 - index)) * SECONDS_PER_DAY;
            let ended = Timestamp::from_second(today - i64::try_from(age)?)?;
            self.rewrite(&self.taken[index], ended).await?;
            self.taken[index].ended = Some(ended);
        }
        Ok(())
    }

    async fn rewrite(&self, backup: &Taken, ended: Timestamp) -> Result<()> {
        let key = format!("{}/backup/{}/backup.json", self.folder, backup.id);
        let file = self.bucket.get(&key).await?.with_context(|| format!("{key} is not there"))?;
        let mut contents: Value = serde_json::from_slice(&file)?;
        for time in ["startedAt", "stoppedAt"] {
            ensure!(contents["summary"][time].is_string(), "{key} tells no {time}: {contents}");
            contents["summary"][time] = json!(ended.to_string());
        }
        self.bucket.put(&key, contents.to_string().as_bytes()).await?;
        // The resource stays for an hour, so that what was just taken is not held to be gone.
        let status = json!({"status": {"completedAt": ended.to_string()}}).to_string();
        let patch = ["patch", "backup", &backup.name, "--subresource=status", "--type=merge", "-p", &status];
        self.database.kubectl(&patch).await.map(drop)
    }

    /// Waits until only the backups from the `first` on are left, and the write-ahead log from there on.
    async fn left(&self, first: usize) -> Result<()> {
        let newest = self.segments().await?.last().copied();
        let look = async || {
            self.backups_left(first).await?;
            self.wal_left(self.taken[first].begins_in, newest).await?;
            let earliest = self.database.status().await?.earliest_restorable_time.map(|time| time.0);
            let expected = self.taken[first].ended;
            ensure!(earliest == expected, "earliestRestorableTime is {earliest:?}, not {expected:?}");
            Ok(())
        };
        let ((), took) = wait::until("retention", LIMIT, look).await?;
        say(&format!("{} backups are left after {:.0} s", self.taken.len() - first, took.as_secs_f64()));
        Ok(())
    }

    async fn backups_left(&self, first: usize) -> Result<()> {
        let kept = &self.taken[first..];
        let (expected, there) = (kept.iter().map(|backup| backup.id.clone()).collect(), self.stored().await?);
        ensure!(there == expected, "the store holds {there:?}, not {expected:?}");
        let (expected, there) =
            (kept.iter().map(|backup| backup.name.clone()).collect(), self.named().await?);
        ensure!(there == expected, "the Backups are {there:?}, not {expected:?}");
        Ok(())
    }

    /// Folders of backups: one that has lost only some of its files is among them.
    async fn stored(&self) -> Result<BTreeSet<String>> {
        let prefix = format!("{}/backup/", self.folder);
        let keys = self.bucket.list(&prefix).await?;
        let folder = |key: &String| Some(key.strip_prefix(&prefix)?.split_once('/')?.0.to_owned());
        Ok(keys.iter().filter_map(folder).collect())
    }

    /// The resources.
    async fn named(&self) -> Result<BTreeSet<String>> {
        let ours = format!(r#"{{range .items[?(@.spec.database=="{NAME}")]}}{{.metadata.name}} {{end}}"#);
        let names = self.database.kubectl(&["get", "backups", "-o", &format!("jsonpath={ours}")]).await?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    }

    /// From `first` on without a hole, at least to `newest`, and nothing of before.
    async fn wal_left(&self, first: u64, newest: Option<u64>) -> Result<()> {
        let there = self.segments().await?;
        ensure!(there.last().copied() >= newest, "the log ended with {newest:?} and is {there:?} now");
        let expected = (first..).take(there.len());
        ensure!(
            zip(&there, expected).all(|(there, expected)| *there == expected),
            "from {first} on: {there:?}"
        );
        Ok(())
    }

    /// Numbers of the WAL segments of which there is anything in the store.
    async fn segments(&self) -> Result<BTreeSet<u64>> {
        let prefix = format!("{}/wal/", self.folder);
        let keys = self.bucket.list(&prefix).await?;
        Ok(keys.iter().filter_map(|key| segment(key.strip_prefix(&prefix)?)).collect())
    }

    /// What would go if the window were of so many days.
    async fn dry_run(&self, days: u32) -> Result<RetentionReport> {
        let identity = self.database.identity().await?;
        let ask = async || {
            let peer = Peer::of(&self.database, &identity, &self.database.primary().await?)?;
            let answer = peer.post(RETENTION_PATH).json(&Retention { days, dry_run: true }).send().await?;
            Ok(answer.error_for_status()?.json().await?)
        };
        Ok(wait::until("a dry run of retention", LIMIT, ask).await?.0)
    }

    /// The rows of a new Database that begins with what is left.
    async fn restored(&self, ground: &Ground, name: &str, target: Option<Value>) -> Result<BTreeSet<i64>> {
        let mut restore = json!({"from": {"database": NAME}});
        if let Some(target) = target {
            restore["target"] = target;
        }
        let mut spec = self.spec.clone();
        spec["bootstrap"] = json!({"restore": restore});
        let copy = ground.database(name).await?;
        copy.apply(&spec).await?;
        let took = verdict::whole(&copy, 1, LIMIT).await?;
        say(&format!("{name} serves {:.1} s after it was applied", took.as_secs_f64()));
        let rows = ids(&copy, "true").await?;
        copy.delete(LIMIT).await?;
        Ok(rows)
    }
}

/// Number of the segment that a file in `wal/` is of: `<timeline><log>/<timeline><log><segment>...`.
fn segment(path: &str) -> Option<u64> {
    let (folder, file) = path.split_once('/')?;
    let of_folder = file.strip_prefix(folder)?.get(..8)?;
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    Some(number(folder.get(8..16)?)? * SEGMENTS_PER_FOLDER + number(of_folder)?)
}

#[test]
fn a_file_of_the_log_tells_its_segment() {
    assert_eq!(segment("0000000200000001/000000020000000100000003.zst"), Some(259));
    assert_eq!(segment("0000000200000000/000000020000000000000004.00000028.backup"), Some(4));
    assert_eq!(segment("history/00000002.history"), None);
    assert_eq!(segment("partial/000000010000000000000003.partial.weekly-0.zst"), None);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the lab; run by `cargo lab test`"]
async fn retention_over_simulated_weeks() -> Result<()> {
    let Some(ground) = Ground::prepare("backup-weeks").await? else { return Ok(()) };
    let Some(lab) = ground.stage.cluster.lab_for(Fault::Container) else { return Ok(()) };
    images::ensure(lab, &["17".parse()?]).await?;
    let mut weeks = Weeks::begin(&ground).await?;
    for row in 2..BACKUPS {
        weeks.back_up(row).await?;
    }
    let oldest = weeks.segments().await?.first().copied();
    ensure!(oldest < Some(weeks.taken[3].begins_in), "no log that is to go: it begins with {oldest:?}");
    the_window_is_kept(&mut weeks).await?;
    // A restore to a named point begins with the oldest backup; only the fourth is of before this one.
    let rows = weeks.restored(&ground, "oldest", Some(json!({"name": "row-5"}))).await?;
    ensure!(rows == (2..=5).collect(), "{rows:?} from the oldest backup");

    query(&weeks.database, "INSERT INTO ledger VALUES (9)").await?;
    archived(&weeks.database).await?;
    // A month without another: the last one stays, with the one that it builds on. Since the newest is of another time
    // than was seen before, retention is asked for.
    weeks.age(3, 30).await?;
    weeks.left(6).await?;
    let rows = weeks.restored(&ground, "newest", None).await?;
    ensure!(rows == (2..=9).collect(), "{rows:?} from the newest backup and the log");
    ground.clear().await
}

/// 21, 18, 15, 12, 9, 6 and 3 days old, and one more of today: the window of seven days needs the fifth, which builds on
/// the fourth.
async fn the_window_is_kept(weeks: &mut Weeks) -> Result<()> {
    weeks.age(0, 0).await?;
    weeks.back_up(BACKUPS).await?;
    weeks.left(3).await?;
    let report = weeks.dry_run(1).await?;
    let expected: Vec<_> = weeks.taken[3..6].iter().map(|backup| backup.id.clone()).collect();
    ensure!(report.backups == expected && report.wal_files > 0, "{report:?}, not {expected:?}");
    weeks.left(3).await.context("a dry run deletes nothing")
}
