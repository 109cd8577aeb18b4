//! With which status `wal fetch` ends: the server takes 1 for the end of the log, and above 125 for a reason to stop.

use std::{
    os::unix::net::UnixListener,
    thread::{self, JoinHandle},
};

use super::*;

const NAME: &str = "000000020000000000000003";
/// Documented: no status that the server takes for the end of the log, or for a signal.
const STOPPED: u8 = 200;

/// Answers one question with `answer`, and hangs up.
fn answering(socket: &Path, answer: Vec<u8>) -> JoinHandle<Request> {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        stream.get_mut().write_all(&answer).unwrap();
        serde_json::from_str(&line).unwrap()
    })
}

fn line(reply: &Reply) -> Vec<u8> {
    (serde_json::to_string(reply).unwrap() + "\n").into_bytes()
}

fn found(length: u64, contents: &[u8]) -> Vec<u8> {
    [&line(&Reply::Found { length }), contents].concat()
}

fn code(socket: PathBuf, path: PathBuf) -> String {
    format!("{:?}", WalCommand::Fetch { socket, name: NAME.to_owned(), path }.run())
}

fn expected(code: u8) -> String {
    format!("{:?}", ExitCode::from(code))
}

/// The status with this answer, and the file if there is one then.
fn fetched(answer: Vec<u8>) -> (String, Option<Vec<u8>>) {
    let directory = tempfile::tempdir().unwrap();
    let (socket, path) = (directory.path().join("wal.sock"), directory.path().join("RECOVERYXLOG"));
    let asked = answering(&socket, answer);
    let code = code(socket, path.clone());
    assert_eq!(asked.join().unwrap(), Request::Fetch { name: NAME.to_owned() });
    (code, fs::read(path).ok())
}

#[test]
fn a_file_that_came_whole_is_a_success() {
    assert_eq!(fetched(found(3, b"wal")), (expected(0), Some(b"wal".to_vec())));
    assert_eq!(fetched(found(3, b"wal, and more")), (expected(0), Some(b"wal".to_vec())));
}

#[test]
fn only_what_is_absent_is_the_end_of_the_log() {
    assert_eq!(fetched(line(&Reply::Absent)), (expected(1), None));
}

#[test]
fn whatever_else_is_answered_stops_recovery() {
    let why = || "the store is away".to_owned();
    for reply in [Reply::Failed { why: why() }, Reply::GiveUp { why: why() }, Reply::Done, Reply::Send] {
        assert_eq!(fetched(line(&reply)), (expected(STOPPED), None), "{reply:?}");
    }
    for answer in ["", "{\"absent\"\n", "\"abs", "\n"] {
        assert_eq!(fetched(answer.into()), (expected(STOPPED), None), "{answer:?}");
    }
    for cut in [&b""[..], b"wa"] {
        assert_eq!(fetched(found(3, cut)).0, expected(STOPPED), "{cut:?}");
    }
}

#[test]
fn nobody_there_and_nowhere_to_write_stop_recovery() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("wal.sock");
    assert_eq!(code(socket.clone(), directory.path().join("file")), expected(STOPPED), "no socket");
    drop(UnixListener::bind(&socket).unwrap());
    assert_eq!(code(socket.clone(), directory.path().join("file")), expected(STOPPED), "no listener");
    fs::remove_file(&socket).unwrap();
    let asked = answering(&socket, found(3, b"wal"));
    assert_eq!(code(socket, directory.path().join("absent/file")), expected(STOPPED), "no folder");
    asked.join().unwrap();
}

/// The server's log says why: another version speaks otherwise, one that was killed says nothing more.
#[test]
fn an_agent_that_is_gone_is_not_taken_for_another_version() {
    let why = |answer: &str| {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("wal.sock");
        let asked = answering(&socket, answer.into());
        let why = fetch(&socket, NAME, &directory.path().join("file")).unwrap_err();
        asked.join().unwrap();
        crate::chain::Chain(&why).to_string()
    };
    for gone in ["", "\"abs"] {
        assert!(why(gone).contains("does not answer"), "{gone:?}: {}", why(gone));
    }
    assert!(why("\"later\"\n").contains("are both of one version?"));
}
