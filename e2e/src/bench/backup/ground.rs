//! What is measured: a Database of one instance with about a gigabyte in it, which archives to the S3 server beside it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::pod::{AGENT_CONTAINER, DATA_DIR};
use serde_json::{Value, json};
use tokio::{process::Command, time::sleep};

use super::{pgbackrest, shell::Shell};
use crate::{
    fault::container::Container,
    images::{self, Name, postgres::Release},
    lab::{Lab, command},
    s3::{ACCESS_KEY, Bucket, SECRET_KEY, Server},
    scenario::{
        database::{Database, Pod},
        peer::Peer,
        session::Session,
        stage::Stage,
        verdict, wait,
        wait::say,
    },
};

/// The newest that Debian 12's pgBackRest knows.
const VERSION: &str = "15";
const BUCKET: &str = "bench";
const SECRET: &str = "s3-keys";
/// Name of the Database, and of its folder in the bucket.
const SOURCE: &str = "measured";
/// Between two looks at a backup: each starts a process, which would take a fifth of the machine if it was done all the
/// time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Room for the data, for what is written of the log meanwhile, and for the data once more: other ways restore into
/// a folder of the same volume.
const STORAGE: &str = "8Gi";
/// The table is filled in so many statements, each well below the limit of a script.
const LOADS: u32 = 4;
/// Rows of one of them: the table comes to a gigabyte.
const ROWS: u32 = 1_750_000;
/// pgbench's own tables, 150 MB.
const SCALE: u32 = 10;

/// From one state to the next on a machine that also builds.
pub(super) const LIMIT: Duration = Duration::from_mins(5);
/// A statement about a few files.
const QUERY_LIMIT: Duration = Duration::from_secs(30);
/// All that the kernel holds back of some gigabytes.
const SYNC_LIMIT: Duration = Duration::from_mins(5);

/// The Database, and everything that is needed to look at it.
pub(super) struct Ground<'a> {
    stage: &'a Stage,
    lab: &'a Lab,
    namespace: &'static str,
    server: Server,
    release: Release,
    pod: Pod,
    session: Session,
    /// The Database.
    pub(super) source: Database,
    /// Its container.
    pub(super) shell: Shell,
    /// Its agent.
    pub(super) peer: Peer,
}

impl<'a> Ground<'a> {
    /// Makes all of it, in a namespace that is not there yet.
    pub(super) async fn prepare(stage: &'a Stage, lab: &'a Lab, namespace: &'static str) -> Result<Self> {
        let release: Release = VERSION.parse()?;
        say("building the images of the S3 server and of PostgreSQL with pgBackRest");
        images::ensure(lab, &["s3".parse()?, Name::PostgresWithPgBackRest(release)]).await?;
        stage.namespace(namespace).await?;
        let server = Server::start(&stage.client, namespace, &[BUCKET]).await?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": namespace},
            "stringData": {
                "accessKeyId": ACCESS_KEY, "secretAccessKey": SECRET_KEY, "ca.crt": server.authority,
            },
        });
        stage.kubectl.run_with(&["apply", "-f", "-"], &secret.to_string()).await?;
        let source = stage.database(namespace, SOURCE).await?;
        source.apply(&archiving_spec(release, &server)).await?;
        verdict::whole(&source, 1, LIMIT).await?;
        let pod = source.primary().await?;
        let ground = Self {
            stage,
            lab,
            namespace,
            server,
            release,
            session: Session::open_patiently(&source.superuser_on(&pod).await?).await?,
            shell: Shell::of(&source, &pod.name),
            peer: Peer::of(&source, &source.identity().await?, &pod)?,
            pod,
            source,
        };
        // Taken by itself, of a Database that is empty.
        ground.completed(&format!("{SOURCE}-first")).await?;
        ground.fill().await?;
        Ok(ground)
    }

    async fn fill(&self) -> Result<()> {
        let table = "CREATE TABLE filler (id bigint, line text) WITH (autovacuum_enabled = off)";
        self.psql(table).await?;
        for load in 0..LOADS {
            say(&format!("filling the Database: {} of {LOADS}", load + 1));
            self.psql(&rows(load * ROWS + 1, (load + 1) * ROWS)).await?;
        }
        self.shell.run(&format!("pgbench --initialize --quiet --scale={SCALE}"), "").await?;
        self.archived().await
    }

    /// Runs a statement as the superuser.
    pub(super) async fn psql(&self, statement: &str) -> Result<String> {
        let script = "psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1";
        self.shell.run(script, statement).await
    }

    /// The number that a query gives.
    pub(super) async fn number(&self, query: &str) -> Result<i64> {
        let rows = self.session.query(query, &[], QUERY_LIMIT).await?;
        Ok(rows.first().context("no row")?.try_get(0)?)
    }

    /// WAL files that wait to be archived.
    pub(super) async fn waiting(&self) -> Result<i64> {
        self.number("SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'").await
    }

    /// Everything that was written so far is in the store.
    pub(super) async fn archived(&self) -> Result<()> {
        self.psql("SELECT pg_switch_wal()").await?;
        self.drained().await.map(drop)
    }

    /// Waits until no WAL file waits to be archived; returns how long that took.
    pub(super) async fn drained(&self) -> Result<Duration> {
        let none = async || {
            let waiting = self.waiting().await?;
            ensure!(waiting == 0, "{waiting} files wait");
            Ok(())
        };
        Ok(wait::until("the write-ahead log to be archived", LIMIT, none).await?.1)
    }

    /// The same start for everybody: nothing is left to be written that somebody before has caused.
    pub(super) async fn settle(&self) -> Result<()> {
        self.psql("CHECKPOINT").await?;
        command::output(Command::new("sync"), SYNC_LIMIT).await.map(drop)
    }

    /// The status of a Backup once it is complete.
    pub(super) async fn completed(&self, backup: &str) -> Result<Value> {
        let look = async || {
            sleep(LOOK_EVERY).await;
            let read = self.source.kubectl(&["get", "backup", backup, "-o", "json"]).await?;
            let status = serde_json::from_str::<Value>(&read)?["status"].clone();
            ensure!(status["phase"] == "Completed", "{backup}: {status}");
            Ok(status)
        };
        Ok(wait::until(&format!("backup {backup}"), LIMIT, look).await?.0)
    }

    /// A Database that begins as this one is now, but neither archives nor is backed up.
    pub(super) async fn restored(&self, name: &str) -> Result<Database> {
        let database = self.stage.database(self.namespace, name).await?;
        let mut spec = spec(self.release);
        spec["bootstrap"] = json!({"restore": {"from": {"database": SOURCE}}});
        database.apply(&spec).await?;
        Ok(database)
    }

    /// The bucket, and the folder in it below which everything of the Database is.
    pub(super) fn bucket(&self) -> Result<(Bucket, &'static str)> {
        Ok((self.server.bucket(BUCKET)?, SOURCE))
    }

    /// Where pgBackRest keeps what it takes in a round.
    pub(super) fn pgbackrest(&self, round: u32) -> pgbackrest::Repository {
        pgbackrest::Repository::of_round(self.namespace, BUCKET, round)
    }

    /// What `/metrics` of the agent shows.
    pub(super) async fn metrics(&self) -> Result<String> {
        let address = self.pod.address.context("the pod has no address")?;
        let client = reqwest::Client::builder().timeout(QUERY_LIMIT).build()?;
        let url = format!("http://{address}:{}/metrics", proto::pod::HTTP_PORT);
        let answer = client.get(&url).send().await.with_context(|| format!("{url} does not answer"))?;
        Ok(answer.error_for_status()?.text().await?)
    }

    /// The most memory that the agent's container has used so far.
    pub(super) async fn agent_memory_peak(&self) -> Result<u64> {
        Container::find(self.lab, self.namespace, &self.pod.name, AGENT_CONTAINER).await?.memory_peak()
    }
}

/// A folder on the volume of the Database, for what others restore.
pub(super) fn scratch() -> String {
    format!("{DATA_DIR}/scratch")
}

/// Rows that compress to about half, as those of many applications do.
pub(super) fn rows(first: u32, last: u32) -> String {
    format!(
        "INSERT INTO filler SELECT id, md5(id::text) || md5((-id)::text) || ' is order ' || id || ' of customer ' \
         || id % 1000 || ', shipped' FROM generate_series({first}, {last}) id"
    )
}

fn spec(release: Release) -> Value {
    let image = Name::PostgresWithPgBackRest(release).reference();
    json!({"replicas": 1, "version": VERSION, "image": image, "storage": {"size": STORAGE}})
}

fn archiving_spec(release: Release, server: &Server) -> Value {
    let mut spec = spec(release);
    spec["backup"] = json!({
        "enabled": true, "schedule": "0 3 * * *", "retention": 14, "destination": format!("s3://{BUCKET}/{SOURCE}"),
        "endpoint": server.endpoint_tls, "credentials": {"secretName": SECRET, "customCa": true},
    });
    spec
}
