use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::error::{check_answer, read_json};
use crate::{
    Check, ClientError, ExplainRequest, Explanation, Flow, FlowEvent, LookupEvent, MAX_ANSWER,
    MAX_LINE, NamesAnswer, NamesRequest, ProfileStatus, ProfileText, ReloadAnswer, RunningApp,
    Status, StoreAnswer, SwitchAnswer, SwitchRequest, UserAnswer, UserFiles, paths,
};

const DEFAULT_LIMIT: Duration = Duration::from_secs(10);
/// When to knock again at a socket with more clients than the daemon has let in.
const AGAIN: Duration = Duration::from_millis(10);

/// Asks the daemon; every call has a connection of its own and a time limit (10 s by default).
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    limit: Duration,
}

impl Client {
    /// A client for the daemon at this socket; nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            limit: DEFAULT_LIMIT,
        }
    }

    /// The same with another time limit per call.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The socket that it asks at.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How the daemon and its profiles stand.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.json(Method::GET, paths::STATUS, Bytes::new()).await
    }

    /// The live flows.
    pub async fn flows(&self) -> Result<Vec<Flow>, ClientError> {
        self.json(Method::GET, paths::FLOWS, Bytes::new()).await
    }

    /// The beginnings and ends of flows from now on; the time limit holds for its start alone.
    pub async fn follow_flows(&self) -> Result<EventStream<FlowEvent>, ClientError> {
        self.follow(paths::FLOWS_FOLLOW).await
    }

    /// The names that addresses stand for.
    pub async fn names(&self, request: &NamesRequest) -> Result<NamesAnswer, ClientError> {
        self.json(Method::POST, paths::DNS, encode(request)).await
    }

    /// Look-ups as they are answered from now on; the time limit holds for its start alone.
    pub async fn follow_lookups(&self) -> Result<EventStream<LookupEvent>, ClientError> {
        self.follow(paths::DNS_FOLLOW).await
    }

    /// The running apps that a profile claims.
    pub async fn apps(&self) -> Result<Vec<RunningApp>, ClientError> {
        self.json(Method::GET, paths::APPS, Bytes::new()).await
    }

    /// Why a flow goes the way it goes.
    pub async fn explain(&self, request: &ExplainRequest) -> Result<Explanation, ClientError> {
        self.json(Method::POST, paths::EXPLAIN, encode(request))
            .await
    }

    /// Sends all of the asking user's own profiles and credentials.
    pub async fn send_user_files(&self, files: &UserFiles) -> Result<UserAnswer, ClientError> {
        self.json(Method::PUT, paths::USER_POLICIES, encode(files))
            .await
    }

    /// Switches a profile, or all, off or on.
    pub async fn switch(&self, request: &SwitchRequest) -> Result<SwitchAnswer, ClientError> {
        self.json(Method::POST, paths::SWITCH, encode(request))
            .await
    }

    /// The profiles that the user may see.
    pub async fn profiles(&self) -> Result<Vec<ProfileStatus>, ClientError> {
        self.json(Method::GET, paths::PROFILES, Bytes::new()).await
    }

    /// One profile with its text.
    pub async fn profile(&self, identifier: &str) -> Result<ProfileText, ClientError> {
        self.json(Method::GET, &paths::profile(identifier), Bytes::new())
            .await
    }

    /// Installs a profile from its text.
    pub async fn install_profile(&self, text: &str) -> Result<StoreAnswer, ClientError> {
        self.json(
            Method::POST,
            paths::PROFILES,
            Bytes::copy_from_slice(text.as_bytes()),
        )
        .await
    }

    /// Removes a profile.
    pub async fn remove_profile(&self, identifier: &str) -> Result<StoreAnswer, ClientError> {
        self.json(Method::DELETE, &paths::profile(identifier), Bytes::new())
            .await
    }

    /// What the daemon finds when it looks at its surroundings.
    pub async fn doctor(&self) -> Result<Vec<Check>, ClientError> {
        self.json(Method::GET, paths::DOCTOR, Bytes::new()).await
    }

    /// Has the configuration read again.
    pub async fn reload(&self) -> Result<ReloadAnswer, ClientError> {
        self.json(Method::POST, paths::RELOAD, Bytes::new()).await
    }

    /// The metrics as OpenMetrics text.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let body = self.call(Method::GET, paths::METRICS, Bytes::new()).await?;
        String::from_utf8(body.into())
            .map_err(|_| ClientError::Garbled("metrics are not UTF-8".into()))
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        read_json(&self.call(method, path, body).await?)
    }

    async fn follow<E>(&self, path: &str) -> Result<EventStream<E>, ClientError> {
        let open = async {
            let (response, connection) = self.open(Method::GET, path, Bytes::new()).await?;
            let mut stream = EventStream {
                connection: Some(connection),
                status: response.status().as_u16(),
                body: response.into_body(),
                pending: BytesMut::new(),
                _event: PhantomData,
            };
            if !(200..300).contains(&stream.status) {
                let body = stream.rest().await?;
                check_answer(stream.status, &body)?;
            }
            Ok(stream)
        };
        self.limited(open).await
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        self.limited(async {
            let (response, mut connection) = self.open(method, path, body).await?;
            let status = response.status().as_u16();
            let whole = collect(response.into_body());
            let body = drive(&mut connection, whole).await?;
            check_answer(status, &body)?;
            Ok(body)
        })
        .await
    }

    /// Waits while more clients knock than the daemon has let in: a socket that does not block says
    /// EAGAIN then (unix(7)).
    async fn connect(&self) -> Result<UnixStream, ClientError> {
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(AGAIN).await,
                Err(source) => {
                    let socket = self.socket.clone();
                    return Err(ClientError::Unreachable { socket, source });
                }
            }
        }
    }

    async fn open(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Connection), ClientError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(lost)?;
        let mut connection: Connection = Box::pin(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "offramp")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("paths are constants or percent-encoded");
        let response = drive(&mut connection, async {
            sender.send_request(request).await.map_err(lost)
        })
        .await?;
        Ok((response, connection))
    }

    async fn limited<T>(
        &self,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        match timeout(self.limit, call).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::TimedOut { limit: self.limit }),
        }
    }
}

/// A stream of events; dropping it ends the call.
pub struct EventStream<E> {
    connection: Option<Connection>,
    status: u16,
    body: Incoming,
    pending: BytesMut,
    _event: PhantomData<fn() -> E>,
}

impl<E: DeserializeOwned> EventStream<E> {
    /// The next event, or none when the daemon has ended the stream; waits without limit.
    pub async fn next(&mut self) -> Result<Option<E>, ClientError> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line = self.pending.split_to(end + 1);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return read_json(&line).map(Some);
            }
            if self.pending.len() > MAX_LINE {
                return Err(ClientError::Garbled(
                    "a line of the stream is too long".into(),
                ));
            }
            match self.frame().await? {
                Some(data) => self.pending.extend_from_slice(&data),
                None => return Ok(None),
            }
        }
    }
}

impl<E> EventStream<E> {
    async fn rest(&mut self) -> Result<Bytes, ClientError> {
        let mut whole = BytesMut::new();
        while let Some(data) = self.frame().await? {
            whole.extend_from_slice(&data);
            if whole.len() > MAX_ANSWER {
                return Err(ClientError::Garbled("the answer is too large".into()));
            }
        }
        Ok(whole.freeze())
    }

    /// The next piece of the body, with the connection kept moving meanwhile.
    async fn frame(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = match &mut self.connection {
                Some(connection) => tokio::select! {
                    biased;
                    frame = self.body.frame() => frame,
                    ended = connection => {
                        self.connection = None;
                        ended.map_err(lost)?;
                        continue;
                    }
                },
                None => self.body.frame().await,
            };
            match frame.transpose().map_err(lost)? {
                Some(frame) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
                None => return Ok(None),
            }
        }
    }
}

type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// Waits for `work` while the connection moves; the connection may end first.
async fn drive<T>(
    connection: &mut Connection,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        ended = connection => ended.map_err(lost)?,
    }
    work.await
}

async fn collect(body: Incoming) -> Result<Bytes, ClientError> {
    Limited::new(body, MAX_ANSWER)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(ClientError::Lost)
}

fn lost(error: hyper::Error) -> ClientError {
    ClientError::Lost(Box::new(error))
}

fn encode<T: Serialize>(message: &T) -> Bytes {
    serde_json::to_vec(message)
        .expect("messages have string keys and no fallible parts")
        .into()
}

#[cfg(test)]
mod tests;
