//! The objects of a bucket, by S3's protocol: the URLs are signed by rusty-s3, the requests sent by the one
//! HTTP client. Nothing here knows what the objects are for.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use awc::ClientRequest;
use awc::error::SendRequestError;
use awc::http::Method;
use bytes::Bytes;
use futures_util::StreamExt;
use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use secrecy::ExposeSecret;
use tokio::time::timeout;
use url::Url;
use uuid::Uuid;

use crate::config;
use crate::outbound::client::{Client, trouble};

/// For a connection, and for an answer that is not long.
const CONNECT_TIME: Duration = Duration::from_secs(10);
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// The slowest upload that is waited for, in bytes a second.
const SLOWEST: u64 = 100_000;

/// How long a signed URL may be used.
const SIGNED_FOR: Duration = Duration::from_secs(900);

/// The most that is read of an answer but an object's own bytes.
const MAX_ANSWER: usize = 4 << 20;

/// Says which process wrote an object.
const WRITER: &str = "x-amz-meta-writer";

/// A bucket.
pub struct Objects {
    bucket: Bucket,
    credentials: Credentials,
    client: Client,
    /// The name of this process in what it writes.
    writer: String,
    /// Whether the bucket itself sees to it that an object is created once.
    is_conditional: Cell<bool>,
}

/// How creating an object went.
#[derive(Debug, PartialEq, Eq)]
pub enum Created {
    /// It is there now, with this content.
    Now,
    /// This process had created it before, with an answer that was lost.
    Before,
    /// Another process has created it.
    ByAnother,
}

struct Answer {
    status: u16,
    text: String,
    writer: Option<String>,
}

impl Answer {
    fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// What a failed answer says, as far as it is S3's own word.
    fn refusal(&self) -> String {
        let code = self.text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        let is_word = |code: &&str| code.len() < 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        match code.map(|(code, _)| code).filter(is_word) {
            Some(code) => format!("the bucket answers HTTP {} ({code})", self.status),
            None => format!("the bucket answers HTTP {}", self.status),
        }
    }
}

impl Objects {
    /// The bucket of these settings. Nothing is asked yet.
    ///
    /// # Errors
    /// When its name fits into no URL.
    pub fn new(settings: &config::Backup) -> Result<Self, String> {
        let amazon = format!("https://s3.{}.amazonaws.com", settings.region);
        let (endpoint, style) = match &settings.endpoint {
            Some(endpoint) => (endpoint.clone(), UrlStyle::Path),
            None => (Url::parse(&amazon).map_err(|_| "AWS_REGION names no region")?, UrlStyle::VirtualHost),
        };
        let bucket = Bucket::new(endpoint, style, settings.bucket.clone(), settings.region.clone())
            .map_err(|error| format!("BACKUP_URL names no bucket: {error}"))?;
        let (id, secret) = (settings.key_id.clone(), settings.secret.expose_secret().to_string());
        let credentials = match &settings.token {
            Some(token) => Credentials::new_with_token(id, secret, token.expose_secret()),
            None => Credentials::new(id, secret),
        };
        let client = Client::new(bucket.base_url(), CONNECT_TIME);
        let writer = Uuid::new_v4().simple().to_string();
        Ok(Objects { bucket, credentials, client, writer, is_conditional: Cell::new(true) })
    }

    /// All objects whose names begin so, with their sizes.
    ///
    /// # Errors
    /// Why they are not known, in words.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, String> {
        let (mut all, mut more) = (Vec::new(), None);
        loop {
            let mut action = self.bucket.list_objects_v2(Some(&self.credentials));
            action.with_prefix(prefix.to_string());
            if let Some(token) = more {
                action.with_continuation_token(token);
            }
            let answer = self.ask(&Method::GET, &action.sign(SIGNED_FOR)).await?;
            if !answer.is_good() {
                return Err(answer.refusal());
            }
            let not_understood = || "the list of the bucket's objects is not understood";
            let page = ListObjectsV2::parse_response(&answer.text).map_err(|_| not_understood())?;
            for object in page.contents {
                all.push((object.key, object.size.ok_or_else(not_understood)?));
            }
            more = page.next_continuation_token;
            if more.is_none() {
                return Ok(all);
            }
        }
    }

    /// Writes an object's bytes into a file.
    ///
    /// # Errors
    /// Why it is not there whole, in words.
    pub async fn fetch(&self, key: &str, into: &mut File) -> Result<(), String> {
        let url = self.bucket.get_object(Some(&self.credentials), key).sign(SIGNED_FOR);
        let uri = self.client.uri(&url).map_err(|error| trouble(&error))?;
        let begun = self.client.send(&Method::GET, &uri, None, plain);
        let mut response =
            within(ANSWER_TIME, async { begun.await.map_err(|unanswered| trouble(&unanswered.error)) })
                .await?;
        if !response.status().is_success() {
            return Err(read(response).await?.refusal());
        }
        let length =
            response.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        let mut size: u64 = 0;
        while let Some(piece) = within(ANSWER_TIME, async { Ok(response.next().await) }).await? {
            let piece = piece.map_err(|_| "the object breaks off")?;
            size += piece.len() as u64;
            into.write_all(&piece).map_err(|error| format!("it cannot be written: {error}"))?;
        }
        // awc takes a body that breaks off for a whole one.
        if length.is_some_and(|length: u64| length != size) {
            Err("the object breaks off".into())
        } else {
            Ok(())
        }
    }

    /// Creates a small object, and finds out by that whether the bucket sees to it that nobody creates it
    /// again; where it does not, it is looked for before each creation.
    ///
    /// # Errors
    /// Why not, in words. It may be there all the same.
    pub async fn create_first(&self, key: &str, content: &'static str) -> Result<Created, String> {
        let pieces = || std::iter::once(Ok(Bytes::from_static(content.as_bytes())));
        let length = content.len() as u64;
        if self.is_conditional.get() {
            let first = self.put(key, length, pieces()).await?;
            // Not implemented: so Backblaze B2.
            let is_ignored = first.is_good() && self.put(key, length, pieces()).await?.is_good();
            if !is_ignored && first.status != 501 {
                return self.outcome(key, first).await;
            }
            self.is_conditional.set(false);
            log::warn!(
                "the bucket knows no conditional PUT: two processes that write at the same moment are not told apart"
            );
            if is_ignored {
                return Ok(Created::Now);
            }
        }
        self.create(key, length, pieces()).await
    }

    /// Creates an object of this length, unless there is one of that name.
    ///
    /// # Errors
    /// Why not, in words. It may be there all the same.
    pub async fn create(
        &self,
        key: &str,
        length: u64,
        pieces: impl Iterator<Item = io::Result<Bytes>> + 'static,
    ) -> Result<Created, String> {
        if !self.is_conditional.get()
            && let Some(created) = self.created(key).await?
        {
            return Ok(created);
        }
        let answer = self.put(key, length, pieces).await?;
        self.outcome(key, answer).await
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn delete(&self, key: &str) -> Result<(), String> {
        let url = self.bucket.delete_object(Some(&self.credentials), key).sign(SIGNED_FOR);
        let answer = self.ask(&Method::DELETE, &url).await?;
        if answer.is_good() || answer.status == 404 { Ok(()) } else { Err(answer.refusal()) }
    }

    async fn outcome(&self, key: &str, answer: Answer) -> Result<Created, String> {
        match answer.status {
            200..300 => Ok(Created::Now),
            // Created by whom? An answer to this process may have been lost.
            412 => Ok(self.created(key).await?.unwrap_or(Created::ByAnother)),
            _ => Err(answer.refusal()),
        }
    }

    /// Who has created an object, if it is there.
    async fn created(&self, key: &str) -> Result<Option<Created>, String> {
        let url = self.bucket.head_object(Some(&self.credentials), key).sign(SIGNED_FOR);
        let answer = self.ask(&Method::HEAD, &url).await?;
        match answer.status {
            200..300 if answer.writer.as_ref() == Some(&self.writer) => Ok(Some(Created::Before)),
            200..300 => Ok(Some(Created::ByAnother)),
            404 => Ok(None),
            _ => Err(answer.refusal()),
        }
    }

    async fn put(
        &self,
        key: &str,
        length: u64,
        pieces: impl Iterator<Item = io::Result<Bytes>> + 'static,
    ) -> Result<Answer, String> {
        let mut action = self.bucket.put_object(Some(&self.credentials), key);
        let mut headers = vec![(WRITER, self.writer.as_str())];
        if self.is_conditional.get() {
            headers.push(("if-none-match", "*"));
        }
        for (name, value) in &headers {
            action.headers_mut().insert(*name, *value);
        }
        let url = action.sign(SIGNED_FOR);
        let uri = self.client.uri(&url).map_err(|error| trouble(&error))?;
        let dress = |request| {
            let request = plain(request);
            headers.iter().fold(request, |request, header| request.insert_header(*header))
        };
        let limit = ANSWER_TIME + Duration::from_secs(length / SLOWEST);
        within(limit, async {
            let sent = self.client.upload(&uri, length, pieces, dress).await;
            read(sent.map_err(|error: SendRequestError| trouble(&error))?).await
        })
        .await
    }

    async fn ask(&self, method: &Method, url: &Url) -> Result<Answer, String> {
        let uri = self.client.uri(url).map_err(|error| trouble(&error))?;
        within(ANSWER_TIME, async {
            let sent = self.client.send(method, &uri, None, plain).await;
            read(sent.map_err(|unanswered| trouble(&unanswered.error))?).await
        })
        .await
    }
}

fn plain(request: ClientRequest) -> ClientRequest {
    let agent = concat!("mirrorgate/", env!("CARGO_PKG_VERSION"));
    request.insert_header(("user-agent", agent)).insert_header(("accept-encoding", "identity"))
}

async fn read(mut response: awc::ClientResponse) -> Result<Answer, String> {
    let writer = response.headers().get(WRITER).and_then(|value| value.to_str().ok()).map(String::from);
    let status = response.status().as_u16();
    let body = response.body().limit(MAX_ANSWER).await;
    let body = body.map_err(|_| format!("the bucket's answer (HTTP {status}) breaks off"))?;
    Ok(Answer { status, text: String::from_utf8_lossy(&body).into_owned(), writer })
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} seconds", limit.as_secs())))
}
