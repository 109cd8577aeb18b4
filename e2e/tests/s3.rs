//! The S3 server of the lab keeps what tests of backups rely on, most of all that of many writers one wins.

use std::time::Duration;

use anyhow::Result;
use e2e::fault::cluster::Cluster;
use e2e::images;
use e2e::s3::{Bucket, Server, Written};
use e2e::scenario::stage::Stage;
use futures::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NAMESPACE: &str = "s3-test";
/// Enough that they do run into each other.
const WRITERS: usize = 16;

#[tokio::test]
#[ignore = "needs the lab"]
async fn of_many_conditional_writers_one_wins() -> Result<()> {
    let stage = Stage::attach().await?;
    let Cluster::Lab(lab) = &stage.cluster else {
        println!("skipped: the image of the S3 server is imported into the lab only");
        return Ok(());
    };
    images::ensure(lab, &["s3".parse()?]).await?;
    stage.namespace(NAMESPACE).await?;
    let server = Server::start(&stage.client, NAMESPACE, &["wal"]).await?;
    let bucket = server.bucket("wal")?;

    bucket.put("a folder/one", b"1").await?;
    assert_eq!(bucket.get("a folder/one").await?.as_deref(), Some(&b"1"[..]));
    assert_eq!(bucket.get("nothing").await?, None);
    assert_eq!(bucket.put_if_absent("a folder/one", b"2").await?, Written::AlreadyThere);
    assert_eq!(bucket.get("a folder/one").await?.as_deref(), Some(&b"1"[..]));
    assert_eq!(bucket.put_if_absent("a folder/two", b"2").await?, Written::Yes);
    assert_eq!(bucket.list("a folder/").await?, ["a folder/one", "a folder/two"]);
    let answer = raw(&bucket, "a folder/one").await?;
    assert!(answer.contains(" 200 OK\r\n") && answer.ends_with("\r\n\r\n1"), "{answer}");
    bucket.delete("a folder/one").await?;
    assert_eq!(bucket.list("").await?, ["a folder/two"]);

    let contents: Vec<String> = (0..WRITERS).map(|writer| format!("{writer}").repeat(100_000)).collect();
    let writes =
        try_join_all(contents.iter().map(|content| bucket.put_if_absent("race", content.as_bytes()))).await?;
    let winners: Vec<usize> = (0..WRITERS).filter(|&writer| writes[writer] == Written::Yes).collect();
    assert_eq!(winners.len(), 1, "{writes:?}");
    assert_eq!(bucket.get("race").await?.as_deref(), Some(contents[winners[0]].as_bytes()));

    stage.without(NAMESPACE).await
}

/// What a program without a client of its own gets.
async fn raw(bucket: &Bucket, key: &str) -> Result<String> {
    let mut stream = TcpStream::connect(bucket.host()).await?;
    stream.write_all(bucket.request(key)?.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}
