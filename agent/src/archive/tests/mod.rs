//! From the server's command to the store, with a store that fails in every way that stores do.

pub(crate) mod faulty;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use faulty::{Fault, Faulty};
use object_store::path::Path;
use proto::{
    clock::BootTime,
    ha::{document::Opening, view::Me},
    identity::Ordinal,
    postgres::SystemIdentifier,
    wire::http::State,
};
use tokio::sync::watch;

use super::{
    Archive,
    age::tests::{FIRST, SECOND, identities},
    command::WalCommand,
    connection::{Connection, Repository},
    header,
    layout::Root,
    names::{Segment, WalName},
    push::{PushError, WalFile, push},
    serving,
    store::Store,
    upkeep::UpkeepTask,
};
use crate::{boot_clock, chain::Chain, peer::client::Peers, published::Published};

pub(crate) const SEGMENT: &str = "000000020000000000000003";
pub(crate) const SYSTEM: u64 = 77;

/// The first member of a Database.
pub(crate) fn me() -> Me {
    Me {
        ordinal: Ordinal(0),
        pod: "db-0".into(),
        pod_uid: "uid".into(),
        database: "db".into(),
        namespace: "prod".into(),
    }
}

/// An archive of this connection.
pub(crate) fn with(connection: Connection, published: watch::Receiver<Arc<Published>>) -> Archive {
    Archive {
        me: Arc::new(me()),
        published,
        connection: watch::channel(connection).1,
        health: watch::channel(None).1,
        noted: Arc::default(),
        status: watch::channel(None).1,
        restore: watch::channel(None).1,
    }
}

/// The archive of a Database that has none.
pub(crate) fn without_store(published: watch::Receiver<Arc<Published>>) -> Archive {
    with(Connection::Disabled, published)
}

/// Archives what earlier primaries left on the server at this socket; or returns why not.
pub(crate) async fn fill(
    archive: Archive,
    peers: Peers,
    socket: &str,
    openings: &[Opening],
) -> Result<(), String> {
    let Connection::Open(repository) = archive.connection() else { panic!("no store") };
    let (status, restore) = (watch::Sender::new(None), watch::Sender::new(None));
    let mut task = UpkeepTask::new(archive, peers, socket.into(), status, restore);
    task.fill(&repository, openings, None).await.map_err(|error| Chain(&error).to_string())
}

/// Serves it.
pub(crate) async fn serve(archive: Archive, socket: &std::path::Path) {
    serving::serve(archive, socket).await;
}

pub(crate) fn root() -> Root {
    Root::new(&Path::from("prefix"), "uid", SystemIdentifier(SYSTEM))
}

pub(crate) fn segment(name: &str) -> Vec<u8> {
    header::tests::segment(name.parse::<Segment>().unwrap(), SYSTEM)
}

/// A segment whose later bytes differ.
fn other_segment(name: &str) -> Vec<u8> {
    let mut bytes = segment(name);
    bytes[5000] = 1;
    bytes
}

fn file(name: &str, contents: &[u8]) -> WalFile {
    WalFile::prepare(name.parse().unwrap(), contents).unwrap()
}

async fn put(store: &Faulty, name: &str, contents: &[u8]) -> Result<(), PushError> {
    push(&store.store(), &root(), "db-0", file(name, contents)).await
}

#[tokio::test]
async fn a_file_may_be_offered_twice_but_not_another_of_its_name() {
    for name in [SEGMENT, "00000003.history", "000000020000000000000003.00000028.backup"] {
        let store = Faulty::default();
        put(&store, name, &segment(SEGMENT)).await.unwrap();
        put(&store, name, &segment(SEGMENT)).await.unwrap();
        let error = put(&store, name, &other_segment(SEGMENT)).await.unwrap_err();
        assert!(error.failure().conflict, "{name}: {error}");
        put(&store, name, &segment(SEGMENT)).await.unwrap();
    }
}

/// What a timeline left unfinished may differ each time, and between members.
#[tokio::test]
async fn partial_segments_are_never_in_conflict() {
    let (store, name) = (Faulty::default(), format!("{SEGMENT}.partial"));
    put(&store, &name, &segment(SEGMENT)).await.unwrap();
    put(&store, &name, &other_segment(SEGMENT)).await.unwrap();
    push(&store.store(), &root(), "db-1", file(&name, &segment(SEGMENT))).await.unwrap();
    assert_eq!(store.store().list(&root().wal()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_lost_answer_is_no_conflict_and_no_failure_is_a_success() {
    let store = Faulty::default();
    store.next(Fault::LoseAnswer);
    assert!(matches!(put(&store, SEGMENT, &segment(SEGMENT)).await, Err(PushError::Store { .. })));
    put(&store, SEGMENT, &segment(SEGMENT)).await.unwrap();
    for fault in [Fault::Unavailable, Fault::Forbidden, Fault::CutBody] {
        let store = Faulty::default();
        if fault == Fault::CutBody {
            // The file is there already: what it says is read for comparison.
            put(&store, SEGMENT, &segment(SEGMENT)).await.unwrap();
            store.next(Fault::None);
        }
        store.next(fault);
        let error = put(&store, SEGMENT, &segment(SEGMENT)).await.unwrap_err();
        assert!(!error.failure().conflict, "{fault:?}: {error}");
        put(&store, SEGMENT, &segment(SEGMENT)).await.unwrap();
    }
}

/// Whoever wrote it at the same moment did not finish.
#[tokio::test]
async fn a_file_that_is_said_to_be_there_and_is_not_is_archived_by_the_next_try() {
    for name in [SEGMENT, "00000003.history", "000000020000000000000003.00000028.backup"] {
        let store = Faulty::default();
        store.next(Fault::Conflict);
        let error = put(&store, name, &segment(SEGMENT)).await.unwrap_err();
        assert!(matches!(error, PushError::Vanished { .. }), "{name}: {error}");
        assert!(!error.failure().conflict && error.failure().message.contains(name), "{error}");
        assert_eq!(store.writes(), 0);
        put(&store, name, &segment(SEGMENT)).await.unwrap();
        assert_eq!(store.writes(), 1);
    }
}

/// No two encrypted files are alike, so what they say is compared.
#[tokio::test]
async fn an_encrypted_file_is_compared_by_what_it_says() {
    for name in [SEGMENT, "00000003.history", "000000020000000000000003.00000028.backup"] {
        let faulty = Faulty::default();
        let plain = faulty.store();
        let (first, second) = (plain.clone().encrypting(identities(&[FIRST])), identities(&[FIRST, SECOND]));
        let second = plain.clone().encrypting(second);
        let put = async |store: &Store, contents: Vec<u8>| {
            push(store, &root(), "db-0", file(name, &contents)).await
        };
        put(&first, segment(SEGMENT)).await.unwrap();
        put(&first, segment(SEGMENT)).await.unwrap();
        put(&second, segment(SEGMENT)).await.unwrap();
        assert!(put(&second, other_segment(SEGMENT)).await.unwrap_err().failure().conflict, "{name}");
        let listed = plain.list(&root().wal()).await.unwrap();
        let encrypted = !name.ends_with("history");
        assert_eq!(listed[0].location.extension() == Some("age"), encrypted, "{}", listed[0].location);
        assert_eq!(listed.len(), 1);
    }
}

/// Members read a changed Secret at different times.
#[tokio::test]
async fn a_file_that_cannot_be_decrypted_yet_is_no_conflict() {
    let faulty = Faulty::default();
    let newer = faulty.store().encrypting(identities(&[SECOND]));
    push(&newer, &root(), "db-0", file(SEGMENT, &segment(SEGMENT))).await.unwrap();
    let older = faulty.store().encrypting(identities(&[FIRST]));
    let error = push(&older, &root(), "db-0", file(SEGMENT, &segment(SEGMENT))).await.unwrap_err();
    assert!(!error.failure().conflict, "{error}");
    assert!(error.failure().message.contains("none of the 1 identities"), "{}", error.failure().message);
}

/// What was archived before encryption was turned on stays as it is, and counts.
#[tokio::test]
async fn a_plain_file_is_not_archived_again_encrypted() {
    let faulty = Faulty::default();
    put(&faulty, SEGMENT, &segment(SEGMENT)).await.unwrap();
    let store = faulty.store().encrypting(identities(&[FIRST]));
    push(&store, &root(), "db-0", file(SEGMENT, &segment(SEGMENT))).await.unwrap();
    assert_eq!(faulty.writes(), 1);
    let conflict = push(&store, &root(), "db-0", file(SEGMENT, &other_segment(SEGMENT))).await;
    assert!(conflict.unwrap_err().failure().conflict);
}

#[tokio::test]
async fn a_store_without_conditions_is_asked_before_each_write() {
    let faulty = Faulty::ignoring_conditions();
    let store = faulty.store();
    store.has_no_conditions();
    push(&store, &root(), "db-0", file(SEGMENT, &segment(SEGMENT))).await.unwrap();
    let conflict = push(&store, &root(), "db-0", file(SEGMENT, &other_segment(SEGMENT))).await;
    assert!(conflict.unwrap_err().failure().conflict);
}

/// A member with a socket, and a `pg_wal`.
struct Member {
    directory: tempfile::TempDir,
    shown: watch::Sender<Arc<Published>>,
    archive: Archive,
    task: tokio::task::JoinHandle<()>,
}

impl Member {
    async fn new(connection: Connection, fenced_until: Option<BootTime>) -> Self {
        let mut published = Published::unknown(&me());
        published.fenced_until = fenced_until;
        published.status.state = State::Running;
        let (shown, published) = watch::channel(Arc::new(published));
        let archive = with(connection, published);
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("archive_status")).unwrap();
        let socket = directory.path().join("archive.sock");
        let serving = archive.clone();
        let path = socket.clone();
        let task = tokio::spawn(async move { serving::serve(serving, &path).await });
        while tokio::net::UnixStream::connect(&socket).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { directory, shown, archive, task }
    }

    async fn with_store(store: &Faulty) -> Self {
        let until = boot_clock::now() + Duration::from_mins(10);
        Self::new(open(store), Some(until)).await
    }

    fn write(&self, name: &str, contents: &[u8]) {
        std::fs::write(self.directory.path().join(name), contents).unwrap();
        std::fs::write(self.directory.path().join("archive_status").join(format!("{name}.ready")), "")
            .unwrap();
    }

    async fn push(&self, name: &str) -> String {
        let command = WalCommand::Push { socket: self.path("archive.sock"), path: self.path(name) };
        let code = tokio::task::spawn_blocking(move || command.run()).await.unwrap();
        format!("{code:?}")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn becomes(&self, state: State, fenced_until: Option<BootTime>) {
        self.shown.send_modify(|published| {
            let mut changed = (**published).clone();
            changed.status.state = state;
            changed.fenced_until = fenced_until;
            *published = Arc::new(changed);
        });
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn open(store: &Faulty) -> Connection {
    Connection::Open(Repository { store: store.store(), root: root() })
}

fn success() -> String {
    format!("{:?}", ExitCode::SUCCESS)
}

async fn archived(store: &Faulty, name: &str) -> bool {
    let name: WalName = name.parse().unwrap();
    store.store().exists(&root().wal_file(&name, "db-0")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_goes_to_the_store_with_those_that_follow() {
    let store = Faulty::default();
    let member = Member::with_store(&store).await;
    let names = ["000000020000000000000003", "000000020000000000000004", "000000020000000000000005"];
    for name in names {
        member.write(name, &segment(name));
    }
    assert_eq!(member.push(names[0]).await, success());
    // Of those that were read ahead it is not known that nothing before them is missing.
    assert_eq!(member.archive.noted().last.as_ref().unwrap().name, names[0]);
    for name in names {
        assert!(archived(&store, name).await, "{name}");
        // Asked for by itself later, it is not written again.
        assert_eq!(member.push(name).await, success());
    }
    assert_eq!(store.writes(), names.len());
    assert_eq!(member.archive.noted().last.as_ref().unwrap().name, names[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_did_not_take_is_not_acknowledged() {
    for fault in [Fault::Unavailable, Fault::Forbidden, Fault::LoseAnswer] {
        let store = Faulty::default();
        let member = Member::with_store(&store).await;
        member.write(SEGMENT, &segment(SEGMENT));
        store.next(fault);
        assert_eq!(member.push(SEGMENT).await, format!("{:?}", ExitCode::FAILURE), "{fault:?}");
        assert!(member.archive.noted().error.is_some());
        assert_eq!(member.push(SEGMENT).await, success());
        assert!(member.archive.noted().error.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_what_their_names_say_stay_out() {
    let store = Faulty::default();
    let member = Member::with_store(&store).await;
    member.write(SEGMENT, &segment("000000020000000000000004"));
    assert_eq!(member.push(SEGMENT).await, format!("{:?}", ExitCode::FAILURE));
    member.write(SEGMENT, &header::tests::segment(SEGMENT.parse().unwrap(), SYSTEM + 1));
    assert_eq!(member.push(SEGMENT).await, format!("{:?}", ExitCode::FAILURE));
    assert_eq!(store.writes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_archive_everything_is_acknowledged() {
    let member = Member::new(Connection::Disabled, None).await;
    member.write(SEGMENT, b"not even a segment");
    assert_eq!(member.push(SEGMENT).await, success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_open_yet_acknowledges_nothing() {
    let member = Member::new(Connection::Pending, Some(boot_clock::now() + Duration::from_mins(1))).await;
    member.write(SEGMENT, &segment(SEGMENT));
    assert_eq!(member.push(SEGMENT).await, format!("{:?}", ExitCode::FAILURE));
}

/// A promoted member archives its history file before its agent knows that it leads; a fenced one never.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_member_that_may_write_archives() {
    let store = Faulty::default();
    let member = Member::new(open(&store), None).await;
    member.write(SEGMENT, &segment(SEGMENT));
    let early = member.push(SEGMENT);
    let later = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(store.writes(), 0, "before the fence is armed");
        member.becomes(State::Running, Some(boot_clock::now() + Duration::from_mins(1)));
    };
    assert_eq!(tokio::join!(early, later).0, success());
    let other = "000000020000000000000004";
    member.write(other, &segment(other));
    member.becomes(State::Stopping, Some(boot_clock::now() - Duration::from_millis(1)));
    assert_eq!(member.push(other).await, format!("{:?}", ExitCode::from(255)), "the archiver ends at once");
    assert_eq!(store.writes(), 1);
}

/// A hand-over waits for the server, and the server for its archiver.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_shuts_down_does_not_wait_for_a_slow_store() {
    let store = Faulty::default();
    let member = Member::with_store(&store).await;
    member.write(SEGMENT, &segment(SEGMENT));
    store.next(Fault::Hang);
    member.becomes(State::Stopping, Some(boot_clock::now() + Duration::from_mins(1)));
    let began = std::time::Instant::now();
    assert_eq!(member.push(SEGMENT).await, format!("{:?}", ExitCode::from(255)));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_store_is_described_so_that_nothing_of_it_is_lost() {
    let store: Store = Faulty::default().store();
    let path = root().latest();
    assert_eq!(store.get(&path).await.unwrap(), None);
    store.put(&path, "1").await.unwrap();
    store.put(&path, "2").await.unwrap();
    assert_eq!(store.get(&path).await.unwrap().unwrap(), b"2");
    assert!(store.delete(vec![path.clone(), path.clone()]).await.is_empty(), "absent is as good");
    assert!(!store.exists(&path).await.unwrap());
}

/// What the archive lacks for a moment would be the end of a standby's log.
#[tokio::test(flavor = "multi_thread")]
async fn members_fetch_nothing() {
    let store = Faulty::default();
    put(&store, SEGMENT, &segment(SEGMENT)).await.unwrap();
    let member = Member::with_store(&store).await;
    let (socket, path) = (member.path("archive.sock"), member.path("RECOVERYXLOG"));
    let command = WalCommand::Fetch { socket, name: SEGMENT.to_owned(), path: path.clone() };
    let code = tokio::task::spawn_blocking(move || command.run()).await.unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(200)));
    assert!(!path.exists());
}
