//! Whether the store works is found out, and found out anew whenever what it was opened with has changed.

use std::fs;

use proto::{ha::profile::Profile, pod::IDENTITIES_FILE, wire::config::Durability};
use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::archive::{
    age::tests::{FIRST, SECOND},
    destination::tests::service::{Provider, Service},
    push::{PushError, WalFile, push},
    tests::{
        SEGMENT, SYSTEM,
        faulty::{Fault, Faulty},
        me, root, segment,
    },
};

/// Of the paused clock: longer than everything that the task waits for.
const PATIENCE: Duration = Duration::from_mins(5);

fn repository(faulty: &Faulty) -> Repository {
    Repository { store: faulty.store(), root: root() }
}

async fn put(repository: &Repository, contents: &[u8]) -> Result<(), PushError> {
    let file = WalFile::prepare(SEGMENT.parse().unwrap(), contents).unwrap();
    push(&repository.store, &repository.root, "db-0", file).await
}

fn description(format: u32) -> Description {
    let created_at = Timestamp::from_second(1_000_000_000).unwrap();
    Description { format, system_identifier: SystemIdentifier(SYSTEM), created_at }
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_found_out() {
    for used in [false, true] {
        let faulty = Faulty::ignoring_conditions();
        let repository = repository(&faulty);
        if used {
            repository.store.put_json(&root().description(), &description(FORMAT)).await.unwrap();
        }
        try_out(&repository).await.unwrap();
        put(&repository, &segment(SEGMENT)).await.unwrap();
        let mut other = segment(SEGMENT);
        other[5000] = 1;
        let conflict = put(&repository, &other).await.unwrap_err();
        assert!(conflict.failure().conflict, "used: {used}: {conflict}");
    }
}

/// Once it is known, and where conditions work, trying it writes nothing more.
#[tokio::test]
async fn a_store_that_works_is_tried_without_writing_it_anew() {
    let faulty = Faulty::default();
    let repository = repository(&faulty);
    try_out(&repository).await.unwrap();
    try_out(&repository).await.unwrap();
    assert_eq!(faulty.writes(), 1);
    let written: Description = repository.store.get_json(&root().description()).await.unwrap().unwrap();
    assert_eq!((written.format, written.system_identifier), (FORMAT, SystemIdentifier(SYSTEM)));
}

/// Trying is no reason to lose what a repository says of itself, least of all that it is of a later version.
#[tokio::test]
async fn a_repository_keeps_its_description() {
    for faulty in [Faulty::default(), Faulty::ignoring_conditions()] {
        let repository = repository(&faulty);
        for format in [FORMAT, FORMAT + 1] {
            repository.store.put_json(&root().description(), &description(format)).await.unwrap();
            let tried = try_out(&repository).await;
            let refused = matches!(tried, Err(CheckError::Format(found)) if found == format);
            assert_eq!(refused, format != FORMAT, "{tried:?}");
            let kept: Description = repository.store.get_json(&root().description()).await.unwrap().unwrap();
            assert_eq!(kept, description(format));
        }
    }
}

/// A store refuses to say that there is nothing to keys that may not list.
#[tokio::test]
async fn a_repository_is_described_without_the_right_to_list() {
    let faulty = Faulty::default();
    faulty.next(Fault::Forbidden);
    try_out(&repository(&faulty)).await.unwrap();
    assert_eq!(faulty.writes(), 1);
}

/// The task, over directories.
struct Scene {
    directory: tempfile::TempDir,
    config: watch::Sender<AgentConfig>,
    shown: watch::Sender<Arc<Published>>,
    connection: watch::Receiver<Connection>,
    health: watch::Receiver<Option<StoreHealth>>,
    task: JoinHandle<()>,
}

impl Scene {
    fn new(archive: Option<ArchiveConfig>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for folder in ["credentials", "store"] {
            fs::create_dir(directory.path().join(folder)).unwrap();
        }
        let (config, config_out) = watch::channel(config(archive));
        let (shown, published) = watch::channel(Arc::new(Published::unknown(&me())));
        let (connection_in, connection) = watch::channel(Connection::Pending);
        let (health_in, health) = watch::channel(None);
        let task = ConnectionTask {
            config: config_out,
            published,
            credentials: directory.path().join("credentials"),
            connection: connection_in,
            health: health_in,
        };
        Self { directory, config, shown, connection, health, task: tokio::spawn(task.run()) }
    }

    /// With data, and its archive in the folder `store`.
    async fn open() -> Self {
        let mut scene = Self::new(None);
        scene.has_data();
        scene.archives_to("store", false);
        scene.opens().await;
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn archives_to(&self, folder: &str, encrypted: bool) {
        let archive = archive(&self.path(folder), encrypted);
        self.config.send_modify(|config| config.archive = Some(archive));
    }

    fn has_data(&self) {
        self.shown.send_modify(|published| {
            Arc::make_mut(published).status.system_identifier = Some(SystemIdentifier(SYSTEM));
        });
    }

    fn write_identity(&self, identity: &str) {
        fs::write(self.path("credentials").join(IDENTITIES_FILE), identity).unwrap();
    }

    async fn is(&mut self, what: &str, is: impl Fn(&Connection) -> bool) -> Connection {
        let seen = timeout(PATIENCE, self.connection.wait_for(|connection| is(connection))).await;
        seen.unwrap_or_else(|_| panic!("never {what}: {:?}", self.health.borrow())).unwrap().clone()
    }

    async fn opens(&mut self) -> Repository {
        match self.is("open", |connection| matches!(connection, Connection::Open(_))).await {
            Connection::Open(repository) => repository,
            other => panic!("{other:?}"),
        }
    }

    async fn pends(&mut self) {
        self.is("pending", |connection| matches!(connection, Connection::Pending)).await;
    }

    async fn is_disabled(&mut self) {
        self.is("disabled", |connection| matches!(connection, Connection::Disabled)).await;
    }

    async fn works(&mut self) {
        let works = |health: &Option<StoreHealth>| health.as_ref().is_some_and(|health| health.reachable);
        timeout(PATIENCE, self.health.wait_for(works)).await.expect("it never works").unwrap();
    }

    /// Until it does not work for this reason.
    async fn fails(&mut self, reason: &str) {
        let is = |health: &Option<StoreHealth>| {
            health.as_ref().is_some_and(|health| {
                !health.reachable && health.why.as_ref().is_some_and(|why| why.contains(reason))
            })
        };
        let seen = timeout(PATIENCE, self.health.wait_for(is)).await.map(drop);
        assert!(seen.is_ok(), "never {reason:?}: {:?}", self.health.borrow());
    }
}

fn config(archive: Option<ArchiveConfig>) -> AgentConfig {
    let mut config: AgentConfig = serde_json::from_value(serde_json::json!({
        "databaseUid": "uid", "replicas": 3, "durability": Durability::Preferred, "minSyncReplicas": 1,
        "profile": Profile::Standard, "syncTimeoutMs": 10_000, "maxLagBytes": 0, "systemIdentifier": null,
        "parameters": {}, "hba": [], "appDatabase": "app", "volumeBytes": 1 << 30, "generation": "",
    }))
    .unwrap();
    config.archive = archive;
    config
}

fn archive(folder: &std::path::Path, encrypted: bool) -> ArchiveConfig {
    let destination = format!("file://{}", folder.display());
    serde_json::from_value(serde_json::json!({ "destination": destination, "encrypted": encrypted })).unwrap()
}

#[tokio::test(start_paused = true)]
async fn without_an_archive_nothing_is_archived() {
    let mut scene = Scene::new(None);
    scene.is_disabled().await;
    scene.has_data();
    sleep(CHECK_EVERY).await;
    scene.is_disabled().await;
    assert!(scene.health.borrow().is_none());
}

#[tokio::test(start_paused = true)]
async fn it_opens_once_there_is_data_whose_archive_it_is() {
    let mut scene = Scene::new(None);
    scene.is_disabled().await;
    scene.archives_to("store", false);
    scene.pends().await;
    sleep(CHECK_EVERY).await;
    scene.pends().await;
    assert!(scene.health.borrow().is_none(), "nothing to be tried");
    scene.has_data();
    let repository = scene.opens().await;
    assert_eq!(repository.root.relative(), format!("uid/{SYSTEM}"));
    scene.works().await;
    assert!(scene.path("store").join(format!("uid/{SYSTEM}/repository.json")).is_file());
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_not_there_is_told_and_tried_again() {
    let mut scene = Scene::open().await;
    scene.archives_to("absent", false);
    scene.pends().await;
    scene.fails("cannot use the destination").await;
    assert!(scene.health.borrow().as_ref().unwrap().why.as_ref().unwrap().contains("absent"));
    fs::create_dir(scene.path("absent")).unwrap();
    let begun = Instant::now();
    scene.opens().await;
    assert!(begun.elapsed() <= RETRY_EVERY + LOOK_EVERY, "{:?}", begun.elapsed());
}

/// Whoever uses it sees what fails.
#[tokio::test(start_paused = true)]
async fn one_that_stops_working_stays_open_and_is_told() {
    let mut scene = Scene::open().await;
    let description = scene.path("store").join(format!("uid/{SYSTEM}/repository.json"));
    fs::write(&description, "{}").unwrap();
    scene.fails("repository.json in the store is not what it should be").await;
    scene.opens().await;
    fs::remove_file(&description).unwrap();
    scene.works().await;
}

#[tokio::test(start_paused = true)]
async fn changed_credentials_are_taken_without_a_restart() {
    let mut scene = Scene::open().await;
    scene.archives_to("store", true);
    scene.fails("encryption was asked for").await;
    scene.pends().await;
    scene.write_identity(FIRST);
    let begun = Instant::now();
    assert!(scene.opens().await.store.encrypts());
    assert!(begun.elapsed() <= LOOK_EVERY, "{:?}", begun.elapsed());
    scene.works().await;
    // The next one cannot read what the first one wrote.
    scene.write_identity(SECOND);
    scene.fails("cannot encrypt or decrypt").await;
    scene.write_identity(&format!("{SECOND}\n{FIRST}"));
    scene.works().await;
    fs::write(scene.path("credentials").join("accessKeyId"), [0xFF]).unwrap();
    scene.fails("cannot read the credential").await;
    scene.pends().await;
}

/// Keys are replaced while a backup runs, or the destination is.
#[tokio::test]
async fn whoever_is_at_it_goes_on_with_the_keys_of_now_but_never_in_another_place() {
    let service = Service::of(Provider::Amazon).await;
    let with = |bucket: &str, key: &str| Basis {
        config: service.config(bucket),
        uid: "uid".to_owned(),
        system_identifier: SystemIdentifier(SYSTEM),
        credentials: service.credentials(&[("accessKeyId", key), ("secretAccessKey", "secret")]),
    };
    let mut opened = None;
    let running = open(&with("bucket", "old"), &mut opened).unwrap();
    let signed = async |repository: &Repository, key: &str| {
        repository.store.put(&Path::from("a"), b"piece".to_vec()).await.unwrap();
        let asked = service.last();
        let by = asked.header("authorization").contains(&format!("Credential={key}/"));
        by && asked.uri.path() == "/bucket/a"
    };
    assert!(signed(&running, "old").await);
    for key in ["new", "newest"] {
        let now = open(&with("bucket", key), &mut opened).unwrap();
        assert!(signed(&running, key).await && signed(&now, key).await, "{key}");
    }
    open(&with("another", "other"), &mut opened).unwrap();
    assert!(signed(&running, "newest").await);
}

/// Whatever is offered while it counts as disabled is acknowledged, and archived nowhere.
#[tokio::test(start_paused = true)]
async fn an_archive_that_comes_back_is_not_taken_for_none() {
    let mut scene = Scene::open().await;
    scene.works().await;
    scene.config.send_modify(|config| config.archive = None);
    scene.is_disabled().await;
    assert!(scene.health.borrow().is_none());
    scene.archives_to("store", false);
    let begun = Instant::now();
    scene.opens().await;
    assert!(begun.elapsed() <= LOOK_EVERY, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_those_who_want_the_archive() {
    let Scene { connection, task, directory, config, shown, health } = Scene::open().await;
    drop(connection);
    timeout(PATIENCE, task).await.unwrap().unwrap();
    drop((directory, config, shown, health));
}
