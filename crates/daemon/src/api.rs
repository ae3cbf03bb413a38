//! The server side of the control socket: who asks, for what, and how the answer is written.
//!
//! Rights are not decided here: every call carries the [`Peer`], and [`Api`] decides what that
//! user may see and do.

mod body;
#[cfg(test)]
mod fuzz;
mod patience;
mod peer;

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use offramp_control::{
    Check, Code, ErrorBody, ExplainRequest, Explanation, Flow, FlowEvent, LookupEvent, MAX_BODY,
    NamesAnswer, NamesRequest, ProfileStatus, ProfileText, Refusal, ReloadAnswer, RunAnswer,
    RunRequest, RunningApp, Status, StoreAnswer, SwitchAnswer, SwitchRequest, UserAnswer,
    UserFiles, paths,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::body::{AnswerBody, Events};
use self::patience::Patient;
pub(crate) use self::peer::Peer;
use crate::budget::{Budget, Reached, Share};
use crate::pace::Pace;

/// Connections at one time.
const CLIENTS: usize = 256;
/// Connections that are told that they are too many; more are closed without a word.
const TOLD: usize = 64;
/// Tasks for connections; those that are closed at once have one for a moment.
pub(crate) const MOST: usize = 1024;
/// Streams at one time.
const STREAMS: usize = 64;
/// Calls of one user other than root: in a second on the average, and at once.
const CALLS: (u32, u32) = (100, 500);

/// There is one control socket in a process.
static CONNECTIONS: LazyLock<Arc<Budget>> = LazyLock::new(|| Budget::new(CLIENTS));
static TURNED_AWAY: LazyLock<Arc<Budget>> = LazyLock::new(|| Budget::new(TOLD));
static FOLLOWED: LazyLock<Arc<Budget>> = LazyLock::new(|| Budget::new(STREAMS));
static PACE: LazyLock<Pace> = LazyLock::new(|| Pace::new(CALLS.0, CALLS.1));

/// How long a connection may be idle, or take to send the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// The same for one connection too many, which is only told so.
const FULL_LIMIT: Duration = Duration::from_secs(1);
/// How long the body of a request may take.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may leave an answer, or a line of a stream, where it is.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// How long a call may take until its answer begins.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// What the daemon does for those who ask; one call per endpoint.
///
/// Users other than root see and change only what is theirs; an implementor decides that by the
/// peer's uid. A call is dropped when it takes longer than 30 s.
pub(crate) trait Api: Send + Sync + 'static {
    /// How the daemon and the profiles stand.
    fn status(&self, peer: &Peer) -> impl Future<Output = Result<Status, Refusal>> + Send;
    /// The live flows.
    fn flows(&self, peer: &Peer) -> impl Future<Output = Result<Vec<Flow>, Refusal>> + Send;
    /// The beginnings and ends of flows from now on; the stream ends when the sender is dropped.
    fn follow_flows(
        &self,
        peer: &Peer,
    ) -> impl Future<Output = Result<mpsc::Receiver<FlowEvent>, Refusal>> + Send;
    /// The names that addresses stand for.
    fn names(
        &self,
        peer: &Peer,
        request: NamesRequest,
    ) -> impl Future<Output = Result<NamesAnswer, Refusal>> + Send;
    /// Look-ups as they are answered from now on; the stream ends when the sender is dropped.
    fn follow_lookups(
        &self,
        peer: &Peer,
    ) -> impl Future<Output = Result<mpsc::Receiver<LookupEvent>, Refusal>> + Send;
    /// The running apps.
    fn apps(&self, peer: &Peer) -> impl Future<Output = Result<Vec<RunningApp>, Refusal>> + Send;
    /// Why a flow goes the way it goes.
    fn explain(
        &self,
        peer: &Peer,
        request: ExplainRequest,
    ) -> impl Future<Output = Result<Explanation, Refusal>> + Send;
    /// Takes the profiles of the peer's user.
    fn take_user_files(
        &self,
        peer: &Peer,
        files: UserFiles,
    ) -> impl Future<Output = Result<UserAnswer, Refusal>> + Send;
    /// Labels the process of the peer.
    fn run(
        &self,
        peer: &Peer,
        request: RunRequest,
    ) -> impl Future<Output = Result<RunAnswer, Refusal>> + Send;
    /// Switches profiles off or on.
    fn switch(
        &self,
        peer: &Peer,
        request: SwitchRequest,
    ) -> impl Future<Output = Result<SwitchAnswer, Refusal>> + Send;
    /// The profiles.
    fn profiles(
        &self,
        peer: &Peer,
    ) -> impl Future<Output = Result<Vec<ProfileStatus>, Refusal>> + Send;
    /// One profile with its text.
    fn profile(
        &self,
        peer: &Peer,
        identifier: String,
    ) -> impl Future<Output = Result<ProfileText, Refusal>> + Send;
    /// Installs a profile from its text.
    fn install_profile(
        &self,
        peer: &Peer,
        text: String,
    ) -> impl Future<Output = Result<StoreAnswer, Refusal>> + Send;
    /// Removes a profile.
    fn remove_profile(
        &self,
        peer: &Peer,
        identifier: String,
    ) -> impl Future<Output = Result<StoreAnswer, Refusal>> + Send;
    /// Looks at the surroundings.
    fn doctor(&self, peer: &Peer) -> impl Future<Output = Result<Vec<Check>, Refusal>> + Send;
    /// Reads the configuration again.
    fn reload(&self, peer: &Peer) -> impl Future<Output = Result<ReloadAnswer, Refusal>> + Send;
    /// The metrics as OpenMetrics text.
    fn metrics(&self, peer: &Peer) -> impl Future<Output = Result<String, Refusal>> + Send;
}

/// Answers one client until it leaves; after `stop` the answer under way is still finished. Whether
/// the client may come in is decided at once, before anything is spawned for it.
pub(crate) fn serve_connection(
    stream: UnixStream,
    api: Arc<impl Api>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send {
    let guest = Guest::admit(stream);
    async move {
        if let Some(guest) = guest {
            guest.serve(api, stop).await;
        }
    }
}

/// A client that is answered.
struct Guest {
    stream: UnixStream,
    peer: Peer,
    /// There are too many: it is told so and no more.
    full: Option<Reached>,
    _share: Share,
}

impl Guest {
    fn admit(stream: UnixStream) -> Option<Self> {
        let peer = Peer::of(&stream)
            .inspect_err(|error| {
                tracing::debug!(error = %error, "cannot tell who asks on the control socket");
            })
            .ok()?;
        let (share, full) = match CONNECTIONS.take(peer.uid) {
            Ok(share) => (share, None),
            Err(limit) => (TURNED_AWAY.take(peer.uid).ok()?, Some(limit)),
        };
        Some(Self {
            stream,
            peer,
            full,
            _share: share,
        })
    }

    async fn serve(self, api: Arc<impl Api>, stop: CancellationToken) {
        let (peer, full) = (Arc::new(self.peer), self.full);
        let pid = peer.pid;
        let service = service_fn(|request| {
            let (api, peer, stop) = (api.clone(), peer.clone(), stop.clone());
            async move {
                Ok::<_, Infallible>(match full {
                    Some(limit) => refused(too_many("connections", limit)),
                    None => answer(request, &*api, &peer, stop).await,
                })
            }
        });
        let head_limit = full.map_or(HEAD_LIMIT, |_| FULL_LIMIT);
        let stream = Patient::new(self.stream, READ_LIMIT);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_limit)
            .keep_alive(full.is_none())
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer.pid = pid, error = %error, "control connection broke");
        }
    }
}

fn too_many(what: &str, limit: Reached) -> Refusal {
    let message = format!("too many {what} to the daemon: {limit}");
    Refusal::new(Code::LimitReached, message)
        .hint("end some of your programs that ask the daemon, such as `offramp flows --follow`")
}

/// Whether this user may call once more now.
fn in_pace(peer: &Peer) -> Result<(), Refusal> {
    if peer.is_root() {
        return Ok(());
    }
    PACE.take(peer.uid, Instant::now()).map(drop).map_err(|_| {
        let (rate, burst) = CALLS;
        let message =
            format!("too many calls: one user may make {rate} in a second, {burst} at once");
        Refusal::new(Code::LimitReached, message).hint("try again in a second")
    })
}

async fn answer(
    request: Request<Incoming>,
    api: &impl Api,
    peer: &Peer,
    stop: CancellationToken,
) -> Response<AnswerBody> {
    match timeout(CALL_LIMIT, route(request, api, peer, stop)).await {
        Ok(Ok(response)) => response,
        Ok(Err(refusal)) => refused(refusal),
        Err(_) => refused(Refusal::new(
            Code::Unavailable,
            "the daemon did not answer in time",
        )),
    }
}

async fn route(
    request: Request<Incoming>,
    api: &impl Api,
    peer: &Peer,
    stop: CancellationToken,
) -> Result<Response<AnswerBody>, Refusal> {
    in_pace(peer)?;
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    match (&method, path.as_str()) {
        (&Method::GET, paths::STATUS) => json(&api.status(peer).await?),
        (&Method::GET, paths::FLOWS) if follows(&request) => {
            let share = follower(peer)?;
            Ok(stream(api.follow_flows(peer).await?, share, stop))
        }
        (&Method::GET, paths::DNS) if follows(&request) => {
            let share = follower(peer)?;
            Ok(stream(api.follow_lookups(peer).await?, share, stop))
        }
        (&Method::POST, paths::DNS) => json(&api.names(peer, message(request).await?).await?),
        (&Method::GET, paths::FLOWS) => json(&api.flows(peer).await?),
        (&Method::GET, paths::APPS) => json(&api.apps(peer).await?),
        (&Method::POST, paths::EXPLAIN) => json(&api.explain(peer, message(request).await?).await?),
        (&Method::PUT, paths::USER_POLICIES) => {
            json(&api.take_user_files(peer, message(request).await?).await?)
        }
        (&Method::POST, paths::RUN) => json(&api.run(peer, message(request).await?).await?),
        (&Method::POST, paths::SWITCH) => json(&api.switch(peer, message(request).await?).await?),
        (&Method::GET, paths::PROFILES) => json(&api.profiles(peer).await?),
        (&Method::POST, paths::PROFILES) => {
            json(&api.install_profile(peer, text(request).await?).await?)
        }
        (&Method::GET, paths::DOCTOR) => json(&api.doctor(peer).await?),
        (&Method::POST, paths::RELOAD) => json(&api.reload(peer).await?),
        (&Method::GET, paths::METRICS) => Ok(metrics(api.metrics(peer).await?)),
        (method, path) => match (method, paths::identifier(path)) {
            (&Method::GET, Some(identifier)) => json(&api.profile(peer, identifier).await?),
            (&Method::DELETE, Some(identifier)) => {
                json(&api.remove_profile(peer, identifier).await?)
            }
            (_, identifier) => Err(nowhere(method, path, identifier.is_some())),
        },
    }
}

fn nowhere(method: &Method, path: &str, is_profile: bool) -> Refusal {
    let known = [
        paths::STATUS,
        paths::FLOWS,
        paths::DNS,
        paths::APPS,
        paths::EXPLAIN,
        paths::USER_POLICIES,
        paths::RUN,
        paths::SWITCH,
        paths::PROFILES,
        paths::DOCTOR,
        paths::RELOAD,
        paths::METRICS,
    ];
    if is_profile || known.contains(&path) {
        Refusal::new(
            Code::MethodNotAllowed,
            format!("{path} does not take {method}"),
        )
    } else {
        Refusal::new(Code::NotFound, format!("there is no {path}"))
            .hint("the client and the daemon may be of different versions")
    }
}

/// One more who follows a stream.
fn follower(peer: &Peer) -> Result<Share, Refusal> {
    let taken = FOLLOWED.take(peer.uid);
    taken.map_err(|limit| too_many("streams", limit))
}

fn follows(request: &Request<Incoming>) -> bool {
    request
        .uri()
        .query()
        .is_some_and(|query| query.split('&').any(|part| part == "follow=true"))
}

async fn message<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let bytes = bytes(request).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Refusal::new(
            Code::BadRequest,
            format!("cannot understand the request: {error}"),
        )
    })
}

async fn text(request: Request<Incoming>) -> Result<String, Refusal> {
    String::from_utf8(bytes(request).await?.into())
        .map_err(|_| Refusal::new(Code::BadRequest, "the profile is not UTF-8 text"))
}

async fn bytes(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let whole = Limited::new(request.into_body(), MAX_BODY).collect();
    match timeout(BODY_LIMIT, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Refusal::new(
            Code::TooLarge,
            format!("the body is larger than {MAX_BODY} bytes"),
        )),
        Ok(Err(error)) => Err(Refusal::new(
            Code::BadRequest,
            format!("cannot read the body: {error}"),
        )),
        Err(_) => Err(Refusal::new(
            Code::BadRequest,
            "the body did not arrive in time",
        )),
    }
}

fn json<T: Serialize>(value: &T) -> Result<Response<AnswerBody>, Refusal> {
    let bytes = serde_json::to_vec(value).map_err(|error| {
        Refusal::new(Code::Internal, format!("cannot write the answer: {error}"))
    })?;
    Ok(whole(StatusCode::OK, "application/json", bytes))
}

fn metrics(text: String) -> Response<AnswerBody> {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    whole(StatusCode::OK, kind, text.into_bytes())
}

fn refused(refusal: Refusal) -> Response<AnswerBody> {
    let status = StatusCode::from_u16(refusal.code.status()).expect("codes have valid statuses");
    let is_limit = refusal.code == Code::LimitReached;
    let bytes = serde_json::to_vec(&ErrorBody { error: refusal })
        .expect("a refusal has string keys and no fallible parts");
    let mut response = whole(status, "application/json", bytes);
    if is_limit {
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn whole(status: StatusCode, kind: &'static str, bytes: Vec<u8>) -> Response<AnswerBody> {
    let length = bytes.len();
    let mut response = Response::new(AnswerBody::whole(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}

fn stream(
    events: impl Into<Events>,
    share: Share,
    stop: CancellationToken,
) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::events(events.into(), share, stop));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests;
