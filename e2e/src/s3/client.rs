//! What tests need of S3: put, put only where nothing is, get, list, delete, with signed requests.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use reqwest::{Method, Response, StatusCode};
use sha2::{Digest, Sha256};

use super::{ACCESS_KEY, SECRET_KEY};

/// The server is a hop away and objects are small.
const LIMIT: Duration = Duration::from_secs(30);
/// Any region does: the server has none.
const REGION: &str = "us-east-1";

/// Whether a conditional write was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The object is the one that was given.
    Yes,
    /// There was an object already, which was left alone.
    AlreadyThere,
}

/// A bucket of the server.
#[derive(Clone, Debug)]
pub struct Bucket {
    http: reqwest::Client,
    endpoint: String,
    name: String,
}

impl Bucket {
    pub(super) fn new(endpoint: &str, name: &str) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(LIMIT).build().context("cannot make an HTTP client")?;
        Ok(Self { http, endpoint: endpoint.to_owned(), name: name.to_owned() })
    }

    /// Writes an object, over whatever was there.
    pub async fn put(&self, key: &str, content: &[u8]) -> Result<()> {
        let answer = self.send(Method::PUT, key, &[], content, &[]).await?;
        expect_success(answer).await.map(drop).with_context(|| format!("cannot put {key}"))
    }

    /// Writes an object if there is none of this key.
    pub async fn put_if_absent(&self, key: &str, content: &[u8]) -> Result<Written> {
        let answer = self.send(Method::PUT, key, &[], content, &[("if-none-match", "*")]).await?;
        if answer.status() == StatusCode::PRECONDITION_FAILED {
            return Ok(Written::AlreadyThere);
        }
        expect_success(answer).await.with_context(|| format!("cannot put {key}"))?;
        Ok(Written::Yes)
    }

    /// The object, if there is one.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let answer = self.send(Method::GET, key, &[], b"", &[]).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = expect_success(answer).await.with_context(|| format!("cannot get {key}"))?;
        Ok(Some(answer.bytes().await?.to_vec()))
    }

    /// Removes an object; that there is none is as good.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let answer = self.send(Method::DELETE, key, &[], b"", &[]).await?;
        expect_success(answer).await.map(drop).with_context(|| format!("cannot delete {key}"))
    }

    /// The keys that begin with `prefix`, at most a thousand.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let query = [("list-type", "2"), ("prefix", prefix)];
        let answer = expect_success(self.send(Method::GET, "", &query, b"", &[]).await?);
        let text = answer.await.with_context(|| format!("cannot list {prefix}"))?.text().await?;
        Ok(text
            .split("<Key>")
            .skip(1)
            .filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned()))
            .collect())
    }

    /// A request for the object as it is sent, for programs that have no client: signed for some minutes, and of
    /// HTTP/1.0, so that the answer ends where the connection does.
    pub fn request(&self, key: &str) -> Result<String> {
        let path = &format!("/{}/{}", self.name, encode(key, "/"));
        let (digest, time) = (&hex(&Sha256::digest(b"")), &timestamp());
        let target = Target { method: "GET", host: self.host(), path, query: "", digest, time };
        let (host, authorization) = (self.host(), target.authorization()?);
        Ok(format!(
            "GET {path} HTTP/1.0\r\nhost: {host}\r\nauthorization: {authorization}\r\n\
             x-amz-content-sha256: {digest}\r\nx-amz-date: {time}\r\n\r\n"
        ))
    }

    /// Host and port of the server.
    pub fn host(&self) -> &str {
        self.endpoint.trim_start_matches("http://")
    }

    async fn send(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        content: &[u8],
        headers: &[(&str, &str)],
    ) -> Result<Response> {
        let query: Vec<String> =
            query.iter().map(|(name, value)| format!("{name}={}", encode(value, ""))).collect();
        let target = Target {
            method: method.as_str(),
            host: self.host(),
            path: &format!("/{}/{}", self.name, encode(key, "/")),
            query: &query.join("&"),
            digest: &hex(&Sha256::digest(content)),
            time: &timestamp(),
        };
        let url = format!("{}{}?{}", self.endpoint, target.path, target.query);
        let mut request = self.http.request(method.clone(), url).body(content.to_vec());
        request = request.header("authorization", target.authorization()?);
        request = request.header("x-amz-content-sha256", target.digest).header("x-amz-date", target.time);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.with_context(|| format!("{} does not answer", self.endpoint))
    }
}

async fn expect_success(answer: Response) -> Result<Response> {
    let status = answer.status();
    if !status.is_success() {
        bail!("the S3 server answered {status}: {}", answer.text().await?);
    }
    Ok(answer)
}

/// What a signature (version 4) is made of.
struct Target<'a> {
    method: &'a str,
    host: &'a str,
    path: &'a str,
    query: &'a str,
    digest: &'a str,
    time: &'a str,
}

impl Target<'_> {
    fn authorization(&self) -> Result<String> {
        const SIGNED: &str = "host;x-amz-content-sha256;x-amz-date";
        let Self { method, host, path, query, digest, time } = self;
        let request = format!(
            "{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{digest}\nx-amz-date:{time}\n\n{SIGNED}\n{digest}"
        );
        let day = &time[..8];
        let scope = format!("{day}/{REGION}/s3/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(request)));
        let mut key = format!("AWS4{SECRET_KEY}").into_bytes();
        for part in [day, REGION, "s3", "aws4_request"] {
            key = sign(&key, part)?;
        }
        let signature = hex(&sign(&key, &text)?);
        Ok(format!(
            "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders={SIGNED}, Signature={signature}"
        ))
    }
}

fn timestamp() -> String {
    Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn sign(key: &[u8], text: &str) -> Result<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).context("a key of no use")?;
    mac.update(text.as_bytes());
    Ok(mac.finalize().into_bytes().to_vec())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Percent-encodes all but the unreserved characters and those of `kept`.
fn encode(text: &str, kept: &str) -> String {
    text.bytes().fold(String::new(), |out, byte| {
        let letter = char::from(byte);
        if letter.is_ascii_alphanumeric() || "-._~".contains(letter) || kept.contains(letter) {
            out + &letter.to_string()
        } else {
            out + &format!("%{byte:02X}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_as_signatures_want_them() {
        assert_eq!(encode("a b/ü+c", "/"), "a%20b/%C3%BC%2Bc");
        assert_eq!(encode("a/b", ""), "a%2Fb");
    }
}
