use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use offramp_control::{
    App, AppClaim, ClaimedBy, Client, ClientError, Content, ExplainTarget, FlowState, KnownName,
    Lifecycle, ProfileState, Protocol, Subject, UserFile, Way, blocking,
};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::*;

/// Answers everything, with what it was asked inside.
pub(super) struct Echo {
    pub(super) events: Vec<FlowEvent>,
    pub(super) hold_stream: bool,
}

impl Api for Echo {
    async fn status(&self, peer: &Peer) -> Result<Status, Refusal> {
        Ok(Status {
            version: "1".into(),
            instance: format!("pid {} uid {}", peer.pid, peer.uid),
            lifecycle: Lifecycle::Ready,
            uptime_ms: 1,
            profiles: vec![profile("work")],
            problems: Vec::new(),
            counters: BTreeMap::from([("flows".into(), 3)]),
        })
    }

    async fn flows(&self, _: &Peer) -> Result<Vec<Flow>, Refusal> {
        Ok(vec![flow(7)])
    }

    async fn follow_flows(&self, _: &Peer) -> Result<mpsc::Receiver<FlowEvent>, Refusal> {
        let (sender, receiver) = mpsc::channel(self.events.len() + 1);
        for event in &self.events {
            sender.try_send(event.clone()).unwrap();
        }
        if self.hold_stream {
            std::mem::forget(sender);
        }
        Ok(receiver)
    }

    async fn names(&self, _: &Peer, request: NamesRequest) -> Result<NamesAnswer, Refusal> {
        Ok(NamesAnswer {
            names: vec![KnownName {
                address: "198.18.1.2".into(),
                name: request.name.unwrap_or_default(),
                profiles: vec!["work".into()],
                users: vec![0],
                unused_ms: 1,
                flows: 2,
            }],
            ..NamesAnswer::default()
        })
    }

    async fn follow_lookups(&self, _: &Peer) -> Result<mpsc::Receiver<LookupEvent>, Refusal> {
        let (sender, receiver) = mpsc::channel(1);
        let missed = LookupEvent::Missed { count: 9 };
        sender.try_send(missed).unwrap();
        Ok(receiver)
    }

    async fn run(&self, peer: &Peer, request: RunRequest) -> Result<RunAnswer, Refusal> {
        match request.profile {
            Some(profile) => Ok(RunAnswer {
                profile,
                label: u64::from(peer.pid),
                notices: vec![request.program],
            }),
            None => Err(Refusal::new(Code::Conflict, "more than one profile").hint("name one")),
        }
    }

    async fn apps(&self, _: &Peer) -> Result<Vec<RunningApp>, Refusal> {
        Ok(vec![running()])
    }

    async fn explain(&self, _: &Peer, request: ExplainRequest) -> Result<Explanation, Refusal> {
        Ok(Explanation {
            subject: format!("{:?} {:?}", request.subject, request.target),
            facts: Vec::new(),
            findings: Vec::new(),
            kernel: None,
            decisions: Vec::new(),
            notes: Vec::new(),
        })
    }

    async fn take_user_files(&self, _: &Peer, files: UserFiles) -> Result<UserAnswer, Refusal> {
        let all = files.policies.iter().chain(&files.credentials);
        let shown = all.map(|file| {
            let content = String::from_utf8_lossy(&file.content.0);
            format!("{}: {content}", file.name)
        });
        Ok(UserAnswer {
            changed: true,
            profiles: shown.collect(),
            problems: Vec::new(),
        })
    }

    async fn switch(&self, _: &Peer, request: SwitchRequest) -> Result<SwitchAnswer, Refusal> {
        Ok(SwitchAnswer {
            changed: request.profile.into_iter().collect(),
        })
    }

    async fn profiles(&self, _: &Peer) -> Result<Vec<ProfileStatus>, Refusal> {
        Ok(vec![profile("work")])
    }

    async fn profile(&self, _: &Peer, identifier: String) -> Result<ProfileText, Refusal> {
        Ok(ProfileText {
            status: profile(&identifier),
            text: "{}".into(),
        })
    }

    async fn install_profile(&self, _: &Peer, text: String) -> Result<StoreAnswer, Refusal> {
        Ok(StoreAnswer {
            identifier: text.len().to_string(),
            changed: true,
            problems: vec![],
        })
    }

    async fn remove_profile(&self, _: &Peer, identifier: String) -> Result<StoreAnswer, Refusal> {
        Ok(StoreAnswer {
            identifier,
            changed: false,
            problems: vec![],
        })
    }

    async fn doctor(&self, _: &Peer) -> Result<Vec<Check>, Refusal> {
        Err(Refusal::new(Code::NotPermitted, "only root may"))
    }

    async fn reload(&self, _: &Peer) -> Result<ReloadAnswer, Refusal> {
        Ok(ReloadAnswer {
            changed: true,
            problems: vec![],
        })
    }

    async fn metrics(&self, _: &Peer) -> Result<String, Refusal> {
        Ok("# EOF\n".into())
    }
}

/// A server on a socket of its own for as long as it lives.
struct Server {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Server {
    fn start(api: Echo) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let stop = CancellationToken::new();
        let (api, token) = (Arc::new(api), stop.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve_connection(stream, api.clone(), token.clone()));
            }
        });
        Self {
            _folder: folder,
            socket,
            stop,
            _tasks: tasks,
        }
    }

    fn echo() -> Self {
        Self::start(Echo {
            events: Vec::new(),
            hold_stream: false,
        })
    }

    fn client(&self) -> Client {
        Client::new(&self.socket)
    }
}

fn profile(identifier: &str) -> ProfileStatus {
    ProfileStatus {
        identifier: identifier.into(),
        visible_name: None,
        layer: "managed".into(),
        order: 0,
        enabled: true,
        on: true,
        state: ProfileState::Connected,
        reason: None,
        server: Some("https://proxy.example:443".into()),
        protocol: Some("h2".into()),
        udp: Some(true),
        apps: 1,
        flows: 1,
        token: None,
        source: None,
    }
}

fn flow(id: u64) -> Flow {
    Flow {
        id,
        app: App {
            pid: 1,
            uid: 2,
            executable: "/usr/bin/curl".into(),
            command: None,
        },
        profile: "work".into(),
        protocol: Protocol::Tcp,
        source: "198.18.0.1:40000".into(),
        target: "example.com:443".into(),
        told: None,
        way: Way::Relay,
        upstream: Some("proxy.example".into()),
        sent: 10,
        received: 20,
        started: 1_700_000_000_000,
        duration_ms: 5,
        state: FlowState::Open,
        error: None,
    }
}

fn running() -> RunningApp {
    RunningApp {
        pid: 7,
        uid: 1000,
        user: Some("alice".into()),
        program: "/usr/bin/python3".into(),
        script: Some("/home/alice/x.py".into()),
        claims: vec![AppClaim {
            profile: "work".into(),
            rule: None,
            by: ClaimedBy::Wrapper,
        }],
        class: Some(3),
        way: Way::Relay,
        verdict: "relay through work".into(),
    }
}

/// Writes bytes as they are and returns all that comes back.
async fn exchange(socket: &Path, request: String) -> String {
    let socket = socket.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn every_endpoint_reaches_its_call() {
    let server = Server::echo();
    let client = server.client();
    let status = client.status().await.unwrap();
    let own = format!("pid {} uid {}", std::process::id(), nix::unistd::geteuid());
    assert_eq!(status.instance, own);
    assert_eq!(client.flows().await.unwrap(), [flow(7)]);
    assert_eq!(client.profiles().await.unwrap(), [profile("work")]);
    assert_eq!(
        client.profile("a/b c").await.unwrap().status.identifier,
        "a/b c"
    );
    assert_eq!(
        client.install_profile("12345").await.unwrap().identifier,
        "5"
    );
    assert_eq!(client.remove_profile("x").await.unwrap().identifier, "x");
    let off = SwitchRequest {
        profile: Some("work".into()),
        on: false,
    };
    assert_eq!(client.switch(&off).await.unwrap().changed, ["work"]);
    assert!(client.reload().await.unwrap().changed);
    assert_eq!(client.metrics().await.unwrap(), "# EOF\n");
}

#[tokio::test]
async fn apps_questions_and_files_reach_their_calls() {
    let server = Server::echo();
    let client = server.client();
    assert_eq!(client.apps().await.unwrap(), [running()]);
    let question = ExplainRequest {
        subject: Some(Subject::Flow(9)),
        target: Some(ExplainTarget::Name("example.com".into())),
    };
    let answer = client.explain(&question).await.unwrap();
    assert_eq!(answer.subject, r#"Some(Flow(9)) Some(Name("example.com"))"#);
    let file = |name: &str, content: &str| UserFile {
        name: name.into(),
        content: Content(content.into()),
    };
    let files = UserFiles {
        policies: vec![file("a.json", "{}")],
        credentials: vec![file("gateway", "alice:secret")],
    };
    let answer = client.send_user_files(&files).await.unwrap();
    assert_eq!(answer.profiles, ["a.json: {}", "gateway: alice:secret"]);
}

#[tokio::test]
async fn a_refusal_keeps_code_message_and_hint() {
    let server = Server::echo();
    match server.client().doctor().await {
        Err(ClientError::Refused(refusal)) => {
            assert_eq!(refusal, Refusal::new(Code::NotPermitted, "only root may"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_launcher_call_is_answered() {
    let server = Server::echo();
    let socket = server.socket.clone();
    let (good, bad) = tokio::task::spawn_blocking(move || {
        let mut request = RunRequest {
            profile: Some("work".into()),
            server: None,
            program: "/usr/bin/curl".into(),
        };
        let good = blocking::run(&socket, &request, Duration::from_secs(10));
        request.profile = None;
        (
            good,
            blocking::run(&socket, &request, Duration::from_secs(10)),
        )
    })
    .await
    .unwrap();
    assert_eq!(good.unwrap().label, u64::from(std::process::id()));
    match bad {
        Err(ClientError::Refused(refusal)) => assert_eq!(refusal.hint.unwrap(), "name one"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn events_arrive_in_order_and_the_stream_ends() {
    let events = vec![
        FlowEvent::Begin { flow: flow(1) },
        FlowEvent::Missed { count: 4 },
        FlowEvent::End { flow: flow(1) },
    ];
    let server = Server::start(Echo {
        events: events.clone(),
        hold_stream: false,
    });
    let mut stream = server.client().follow_flows().await.unwrap();
    for event in events {
        assert_eq!(stream.next().await.unwrap(), Some(event));
    }
    assert_eq!(stream.next().await.unwrap(), None);
    let mut stream = server.client().follow_lookups().await.unwrap();
    let missed = Some(LookupEvent::Missed { count: 9 });
    assert_eq!(stream.next().await.unwrap(), missed);
    assert_eq!(stream.next().await.unwrap(), None);
}

#[tokio::test]
async fn names_are_asked_for_by_name() {
    let request = NamesRequest {
        name: Some("a.example".into()),
        profile: None,
    };
    let answer = Server::echo().client().names(&request).await.unwrap();
    assert_eq!(answer.names[0].name, "a.example");
}

#[tokio::test]
async fn a_stream_ends_when_the_daemon_stops() {
    let server = Server::start(Echo {
        events: Vec::new(),
        hold_stream: true,
    });
    let mut stream = server.client().follow_flows().await.unwrap();
    server.stop.cancel();
    assert_eq!(stream.next().await.unwrap(), None);
}

#[tokio::test]
async fn bad_requests_are_told_apart() {
    let server = Server::echo();
    let big = "x".repeat(MAX_BODY + 1);
    let big = format!("content-length: {}\r\n\r\n{big}", big.len());
    for (head, rest, status, code) in [
        ("GET /v1/nothing", "\r\n", "404", "not_found"),
        ("PUT /v1/status", "\r\n", "405", "method_not_allowed"),
        (
            "PATCH /v1/profiles/work",
            "\r\n",
            "405",
            "method_not_allowed",
        ),
        (
            "POST /v1/run",
            "content-length: 1\r\n\r\n{",
            "400",
            "bad_request",
        ),
        ("POST /v1/profiles", &*big, "413", "too_large"),
    ] {
        let request = format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{rest}");
        let answer = exchange(&server.socket, request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{head}: {answer}"
        );
        assert!(
            answer.contains(&format!("\"code\":\"{code}\"")),
            "{head}: {answer}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stopped_is_cut() {
    let events = vec![FlowEvent::Begin { flow: flow(1) }; 5000];
    let (client, server) = UnixStream::pair().unwrap();
    let api = Arc::new(Echo {
        events,
        hold_stream: true,
    });
    let served = serve_connection(server, api, CancellationToken::new());
    client.writable().await.unwrap();
    client
        .try_write(b"GET /v1/flows?follow=true HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    let began = tokio::time::Instant::now();
    timeout(Duration::from_secs(60), served)
        .await
        .expect("it is cut");
    assert_eq!(began.elapsed().as_secs(), 10);
}
