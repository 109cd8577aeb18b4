//! Restores: Matriarch's into a new Database, a copy and unpacking of the same objects by hand, and pgBackRest's. The
//! latter two write into a folder of a volume of the same kind.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context, Result, ensure};
use proto::wire::backup::{BackupSummary, REPOSITORY_PATH, Repository};

use super::{
    ROUNDS,
    figure::{self, Series},
    ground::{Ground, LIMIT, scratch},
    stages::{Stages, stages},
};
use crate::{
    bench::Line,
    scenario::{verdict, wait::say},
};

/// Of what a copy by hand does in the same time.
const SHARE: f64 = 70.0;
/// Gets the objects whose requests are on its standard input one after the other and unpacks what comes: each line is
/// host, port, and the request with its line ends escaped.
const UNPACK: &str = r#"
while read -r host port request; do
  exec 3<> "/dev/tcp/$host/$port"
  printf '%b' "$request" >&3
  read -r _ status _ <&3
  [ "$status" = 200 ] || { echo "the store answered $status" >&2; exit 1; }
  while read -r header <&3 && [ "$header" != $'\r' ]; do :; done
  cat <&3
  exec 3>&-
done | zstd --decompress --quiet --stdout | tar --extract --directory "$scratch"
[ -e "$scratch/PG_VERSION" ]
"#;

/// Measures.
pub(super) async fn measure(
    ground: &Ground<'_>,
    backup: &BackupSummary,
    lines: &mut Vec<Line>,
) -> Result<()> {
    let empty = format!("scratch={0}\nrm -rf $scratch\nmkdir --mode=700 $scratch", scratch());
    let series = || Series { bytes: backup.size_bytes, times: Vec::new() };
    let [mut unpacked, mut durable, mut by_hand, mut theirs] = [series(), series(), series(), series()];
    for round in 1..=ROUNDS {
        ground.settle().await?;
        let (parts, serving) = ours(ground, round).await?;
        unpacked.times.push(parts.unpacking);
        durable.times.push(parts.unpacking + parts.flushing);
        ground.shell.run(&empty, "").await?;
        ground.settle().await?;
        let input = requests(ground, &backup.name).await?;
        let copied = ground.shell.timed(&format!("scratch={}", scratch()), UNPACK, &input).await?;
        by_hand.times.push(copied);
        ground.shell.run(&empty, "").await?;
        ground.settle().await?;
        let restored = ground.shell.timed("", &ground.pgbackrest(round).restore(&scratch()), "").await?;
        theirs.times.push(restored);
        say(&format!("restore {round}/{ROUNDS}: {}", told(&parts, serving, copied, restored)));
    }
    ground.shell.run(&format!("rm -rf {}", scratch()), "").await?;
    lines.push(figure::share("unpacking beside a copy by hand", &unpacked, &by_hand, SHARE));
    lines.push(figure::faster("unpacked, flushed: beside pgBackRest's", &durable, &theirs));
    Ok(())
}

/// Returns also how long it took from `kubectl apply` until it served.
async fn ours(ground: &Ground<'_>, round: u32) -> Result<(Stages, Duration)> {
    let database = ground.restored(&format!("restored-{round}")).await?;
    let serving = verdict::whole(&database, 1, LIMIT).await?;
    let pod = database.primary().await?.name;
    let log = database.kubectl(&["logs", &pod, "--container", proto::pod::RESTORE_CONTAINER]).await?;
    let parts =
        stages(&log).with_context(|| format!("the log of {pod} does not tell how it was restored"))?;
    database.delete(LIMIT).await?;
    Ok((parts, serving))
}

/// For [`UNPACK`]: signed just now, since a signature is good for some minutes only.
async fn requests(ground: &Ground<'_>, backup: &str) -> Result<String> {
    let answer = ground.peer.get(REPOSITORY_PATH).send().await?.error_for_status()?;
    let repository: Repository = answer.json().await?;
    let (bucket, folder) = ground.bucket()?;
    let keys = bucket.list(&format!("{folder}/{}/backup/{backup}/base.tar.zst/", repository.path)).await?;
    ensure!(!keys.is_empty(), "no piece of {backup} is in the store");
    let (host, port) = bucket.host().rsplit_once(':').context("the server has no port")?;
    let mut lines = String::new();
    for key in &keys {
        writeln!(lines, "{host} {port} {}", escaped(&bucket.request(key)?))?;
    }
    Ok(lines)
}

/// On one line, for bash's `printf %b`.
fn escaped(request: &str) -> String {
    request.replace('\\', r"\\").replace('\r', r"\r").replace('\n', r"\n")
}

fn told(parts: &Stages, serving: Duration, copied: Duration, restored: Duration) -> String {
    let [unpacking, flushing, whole] =
        [parts.unpacking, parts.flushing, parts.whole].map(|time| time.as_secs_f64());
    let [serving, copied, restored] = [serving, copied, restored].map(|time| time.as_secs_f64());
    format!(
        "Matriarch unpacks in {unpacking:.2} s, flushes in {flushing:.2} s, with replay {whole:.2} s, serves after \
         {serving:.2} s; by hand {copied:.2} s; pgBackRest {restored:.2} s"
    )
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        process::{Command, Stdio},
        thread,
    };

    use super::*;

    fn answer(listener: &TcpListener, status: &str, body: &[u8]) -> String {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        stream.write_all(format!("HTTP/1.1 {status}\r\nx: y\r\n\r\n").as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        String::from_utf8(request).unwrap()
    }

    /// `UNPACK` with a program in place of zstd that changes nothing.
    fn unpacked(bodies: Vec<Vec<u8>>, status: &'static str) -> (bool, tempfile::TempDir, Vec<String>) {
        let scratch = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let request = escaped("GET /a%2Fb HTTP/1.0\r\nhost: x\r\n\r\n");
        let input = format!("127.0.0.1 {port} {request}\n").repeat(bodies.len());
        let server = thread::spawn(move || {
            bodies.iter().map(|body| answer(&listener, status, body)).collect::<Vec<_>>()
        });
        let script =
            format!("set -euo pipefail\nzstd() {{ cat; }}\nscratch={}\n{UNPACK}", scratch.path().display());
        let mut bash = Command::new("bash");
        let mut bash =
            bash.args(["-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        bash.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let success = bash.wait().unwrap().success();
        (success, scratch, server.join().unwrap())
    }

    fn tar() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("PG_VERSION"), "15\n").unwrap();
        std::fs::write(folder.path().join("page"), vec![7; 300_000]).unwrap();
        let mut tar = Command::new("tar");
        tar.arg("--create").arg("--directory").arg(folder.path()).args(["PG_VERSION", "page"]);
        tar.output().unwrap().stdout
    }

    #[test]
    fn pieces_are_fetched_and_unpacked_in_their_order() {
        let tar = tar();
        let (one, two) = tar.split_at(200_000);
        let (success, scratch, requests) = unpacked(vec![one.to_vec(), two.to_vec()], "200 OK");
        assert!(success);
        assert_eq!(std::fs::read(scratch.path().join("page")).unwrap(), vec![7; 300_000]);
        assert_eq!(requests, ["GET /a%2Fb HTTP/1.0\r\nhost: x\r\n\r\n"; 2]);
    }

    #[test]
    fn a_store_that_refuses_fails_it() {
        assert!(!unpacked(vec![tar()], "403 Forbidden").0);
    }
}
