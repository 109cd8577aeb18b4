//! Mutual TLS on a real socket: members are answered, strangers are not.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use proto::{
    ha::{
        lease::WriteId,
        question::{Question, Reply, SurveyId},
    },
    identity::Ordinal,
    wire::{
        chronicle::{Chronicle as Told, TIMELINE_PATH},
        peer::{QUESTION_PATH, STATUS_PATH, Status},
    },
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    client::{AskError, receive},
    server::{Incoming, routes},
};
use crate::{
    archive::tests::me,
    chronicle::Chronicle,
    published::Published,
    serving::serve,
    tls::{
        Credentials,
        tests::{Authority, credentials, impostor},
    },
};

const HOST: &str = "db-0.db-headless.prod.svc";
const PATIENCE: Duration = Duration::from_secs(10);

/// A member that answers every survey with "empty".
async fn member(authority: &Authority) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (incoming_in, mut incoming) = mpsc::channel(4);
    let (shown, published) = watch::channel(Arc::new(Published::unknown(&me())));
    let archive = crate::archive::tests::without_store(published.clone());
    let (rotate, current) = watch::channel(credentials(authority, HOST));
    let (peers, _) = super::client::peers("db", "prod", current.clone()).unwrap();
    let (backups, _) = crate::backup::backups(archive.clone(), peers, "/nonexistent".into());
    tokio::spawn(async move {
        let _keep = (shown, rotate);
        while let Some(Incoming::Question(_, reply)) = incoming.recv().await {
            reply.send(Reply::Empty).unwrap();
        }
    });
    let chronicle = Chronicle::new("db-0", "db");
    let routes = routes(incoming_in, published, chronicle, archive, backups);
    tokio::spawn(serve(listener, routes, Some(current)));
    address
}

fn client(credentials: &Credentials, address: SocketAddr) -> reqwest::Client {
    reqwest::Client::builder()
        .tls_backend_preconfigured(credentials.client.clone())
        .resolve(HOST, address)
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .unwrap()
}

fn url(address: SocketAddr, path: &str) -> String {
    format!("https://{HOST}:{}{path}", address.port())
}

#[tokio::test]
async fn a_member_is_answered() {
    let authority = Authority::new();
    let address = member(&authority).await;
    let client = client(&credentials(&authority, "db-1.db-headless.prod.svc"), address);
    let status: Status = client.get(url(address, STATUS_PATH)).send().await.unwrap().json().await.unwrap();
    assert_eq!(status.pod, "db-0");
    let told = client.get(url(address, TIMELINE_PATH)).send().await.unwrap();
    assert_eq!(told.json::<Told>().await.unwrap().pod, "db-0");
    let question = Question::Survey { id: SurveyId(WriteId(1)), expired: false };
    let answer = client.post(url(address, QUESTION_PATH)).json(&question).send().await.unwrap();
    assert_eq!(answer.json::<Reply>().await.unwrap(), Reply::Empty);
    let huge = client.post(url(address, QUESTION_PATH)).body(vec![b' '; 1 << 20]).send();
    assert!(timeout(PATIENCE, huge).await.unwrap().is_ok_and(|answer| answer.status().is_client_error()));
}

#[tokio::test]
async fn a_stranger_is_refused_by_both_ends() {
    let authority = Authority::new();
    let address = member(&authority).await;
    let path = url(address, STATUS_PATH);
    let stranger = client(&credentials(&Authority::new(), HOST), address);
    assert!(stranger.get(&path).send().await.is_err(), "it does not trust the member");
    let impostor = client(&impostor(&authority, HOST), address);
    assert!(impostor.get(&path).send().await.is_err(), "its certificate is not of this CA");
    let member = client(&credentials(&authority, HOST), address);
    assert!(member.get(&path).send().await.is_ok(), "the same way with the right certificate works");
}

/// Somebody with a member's certificate who answers this.
async fn babbler(authority: &Authority, body: &'static str, times: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (rotate, current) = watch::channel(credentials(authority, HOST));
    let routes = axum::Router::new().fallback(async move || {
        let _keep = &rotate;
        body.repeat(times)
    });
    tokio::spawn(serve(listener, routes, Some(current)));
    address
}

#[tokio::test]
async fn a_member_that_answers_nonsense_counts_as_silent() {
    let authority = Authority::new();
    for (body, times, wanted) in [
        ("", 1, "nonsense"),
        ("<html>", 1, "nonsense"),
        ("{\"sealed\": {\"dataId\": \"d1\"}}", 1, "nonsense"),
        ("{\"surveyed\": null}", 1, "nonsense"),
        ("\"prophecy\"", 1, "nonsense"),
        ("[[[[[[[[", 1 << 20, "more than"),
    ] {
        let address = babbler(&authority, body, times).await;
        let client = client(&credentials(&authority, "db-1.db-headless.prod.svc"), address);
        let answer: Result<Reply, AskError> =
            receive(Ordinal(0), client.get(url(address, "/question"))).await;
        let error = answer.unwrap_err().to_string();
        assert!(error.contains(wanted), "{body}: {error}");
    }
}
