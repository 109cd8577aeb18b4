//! Objects are handed out in large parts. The crate reads 4 KiB at a time, each by another thread, which takes longer
//! than all that a client does with them.

use std::io::SeekFrom;
use std::path::Path;

use futures::TryStreamExt;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::header::CONTENT_RANGE;
use s3s::{Body, HttpResponse};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

/// Read and sent at once.
const PART: usize = 1 << 20;

/// The same answer to a request for `path`, with the same bytes in its body. What is no object stays as it is.
pub(crate) async fn read_in_large_parts(folder: &Path, path: &str, answer: HttpResponse) -> HttpResponse {
    let range = answer.headers().get(CONTENT_RANGE).map(|range| range.to_str().ok().and_then(bounds));
    // Of keys that are encoded in the path the file has another name.
    let plain = super::bucket_of_object(path).is_some() && !path.contains(['%', '+']);
    if !plain || !answer.status().is_success() || range == Some(None) {
        return answer;
    }
    match open(&folder.join(&path[1..]), range.flatten()).await {
        Ok(body) => answer.map(|_| body),
        Err(_) => answer,
    }
}

async fn open(path: &Path, range: Option<(u64, u64)>) -> std::io::Result<Body> {
    let mut file = File::open(path).await?;
    file.set_max_buf_size(PART);
    let (first, length) = range.unwrap_or((0, file.metadata().await?.len()));
    file.seek(SeekFrom::Start(first)).await?;
    let parts = ReaderStream::with_capacity(file.take(length), PART);
    Ok(Body::http_body_unsync(StreamBody::new(parts.map_ok(Frame::data))))
}

/// The first byte of a `Content-Range`, and how many there are.
fn bounds(range: &str) -> Option<(u64, u64)> {
    let (first, rest) = range.strip_prefix("bytes ")?.split_once('-')?;
    let (last, _) = rest.split_once('/')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    Some((first, (last + 1).checked_sub(first)?))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn text(answer: HttpResponse) -> String {
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn answer(range: Option<&str>) -> HttpResponse {
        let mut answer = HttpResponse::new(Body::from("as it was".to_owned()));
        if let Some(range) = range {
            answer.headers_mut().insert(CONTENT_RANGE, range.parse().unwrap());
        }
        answer
    }

    #[tokio::test]
    async fn only_objects_are_read_anew() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("bucket")).unwrap();
        std::fs::write(folder.path().join("bucket/key"), "0123456789").unwrap();
        let got =
            async |path, range| text(read_in_large_parts(folder.path(), path, answer(range)).await).await;
        assert_eq!(got("/bucket/key", None).await, "0123456789");
        assert_eq!(got("/bucket/key", Some("bytes 3-5/10")).await, "345");
        for (path, range) in [
            ("/bucket/", None),
            ("/bucket", None),
            ("/bucket/k%65y", None),
            ("/bucket/other", None),
            ("/bucket/key", Some("nonsense")),
        ] {
            assert_eq!(got(path, range).await, "as it was", "{path} {range:?}");
        }
    }
}
