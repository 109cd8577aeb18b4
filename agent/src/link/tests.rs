//! The line against a scripted supervisor.

use std::{fs::File, future::Future};

use proto::{
    identity::{Epoch, RunId},
    postgres::{Lsn, Timeline, WalPosition},
    wire::supervisor::{Data, Request, Response, Server},
};
use rustix::fs::{FlockOperation, flock};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixListener,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn report(run: &str) -> Report {
    serde_json::from_value(serde_json::json!({
        "run": run, "at": 1, "data": "empty",
        "server": {"stopped": {"last": null, "shutdown": null}},
        "job": null, "lastJob": null, "fence": null, "generation": "", "pendingRestart": [],
        "fenceCount": 0, "worstLatenessUs": 0, "diskOkAt": null, "terminating": false, "clockJumpedAt": null,
    }))
    .unwrap()
}

/// Answers reports, refuses kills, seals at 0/10, and never answers anything else.
async fn supervisor(listener: &UnixListener, run: &str, until: impl Future<Output = ()>) {
    let (stream, _) = listener.accept().await.unwrap();
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let answering = async {
        while let Ok(Some(line)) = lines.next_line().await {
            let request: Request = serde_json::from_str(&line).unwrap();
            let result = match request.order {
                Order::Report => Ok(Answer::Report(Box::new(report(run)))),
                Order::Seal { .. } => {
                    Ok(Answer::Sealed(WalPosition { timeline: Timeline::FIRST, lsn: Lsn(16) }))
                }
                Order::Kill => Err(Refusal { transient: true, message: "not now".into() }),
                _ => continue,
            };
            let response = serde_json::to_string(&Response { id: request.id, result }).unwrap();
            writer.write_all(format!("{response}\n").as_bytes()).await.unwrap();
        }
    };
    tokio::select! { () = answering => {}, () = until => {} }
}

async fn wait_for(contact: &mut watch::Receiver<Contact>, what: impl Fn(&Contact) -> bool) -> Contact {
    timeout(PATIENCE, contact.wait_for(|state| what(state))).await.unwrap().unwrap().clone()
}

#[tokio::test]
async fn orders_reports_and_proof_of_death() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, lock) = (directory.path().join("socket"), directory.path().join("lock"));
    let held = File::create(&lock).unwrap();
    flock(&held, FlockOperation::LockShared).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let (link, mut contact, task) = line(&socket, &lock);
    let task = tokio::spawn(task.run());

    let (stop, stopped) = oneshot::channel::<()>();
    let ((), ()) = tokio::join!(supervisor(&listener, "one", async { stopped.await.unwrap() }), async {
        let up = wait_for(&mut contact, |state| matches!(state, Contact::Up { .. })).await;
        let Contact::Up { report } = up else { unreachable!() };
        assert_eq!((report.run, report.data), (RunId("one".into()), Data::Empty));
        assert_eq!(report.server, Server::Stopped { last: None, shutdown: None });
        let sealed = link.begin(Order::Seal { epoch: Epoch(3) }).wait().await.unwrap();
        assert_eq!(sealed, Answer::Sealed(WalPosition { timeline: Timeline::FIRST, lsn: Lsn(16) }));
        let refused = link.begin(Order::Kill).wait().await.unwrap_err();
        assert_eq!(refused.to_string(), "the supervisor refused: not now");
        stop.send(()).unwrap();
    });

    // As when PID 1 dies: nobody listens any more.
    drop(listener);
    wait_for(&mut contact, |state| matches!(state, Contact::Broken { dead: None })).await;
    let lost = link.begin(Order::Kill).wait().await;
    assert!(matches!(lost, Err(OrderError::Broken | OrderError::Timeout)), "{lost:?}");
    assert!(matches!(&*contact.borrow(), Contact::Broken { dead: None }), "a process lives");
    drop(held);
    wait_for(&mut contact, |state| matches!(state, Contact::Broken { dead: Some(_) })).await;

    std::fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let ((), ()) = tokio::join!(supervisor(&listener, "two", async { stopped.await.unwrap() }), async {
        let two = |state: &Contact| matches!(state, Contact::Up { report, .. } if report.run.0 == "two");
        wait_for(&mut contact, two).await;
        stop.send(()).unwrap();
    });
    drop(link);
    timeout(PATIENCE, task).await.unwrap().unwrap();
}
