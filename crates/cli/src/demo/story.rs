//! The demo without a command: four curls, told as a table.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use offramp_control::{Client, EventStream, Flow, FlowEvent, ProfileState, Way};
use tokio::io::{BufReader, Lines};
use tokio::process::ChildStdout;
use tokio::time::{sleep, timeout};

use super::network::{APP, Network, ORIGIN, PROXY};
use super::parts::{Folder, PROFILE, Program, beside, daemon, entering, gateway, managed};
use super::remains::leftovers;
use super::table::{self, Row};
use crate::output;

const CONNECT_LIMIT: Duration = Duration::from_secs(20);
const CURL_LIMIT: Duration = Duration::from_secs(10);
/// How soon the daemon tells what has happened already.
const TELL_LIMIT: Duration = Duration::from_secs(5);
/// The slowest refusal that still is one at once.
const AT_ONCE: Duration = Duration::from_secs(1);
/// What curl ends with when its connection is refused, or reset before an answer.
const REFUSED: [i32; 4] = [7, 52, 55, 56];

pub(super) async fn tell() -> anyhow::Result<()> {
    output::print(
        "Making an app's machine, a proxy and an origin in namespaces of their own...\n",
    )?;
    let mut stage = Stage::set().await?;
    let mut rows = vec![
        stage.managed_is_relayed().await?,
        stage.unmanaged_is_direct().await?,
    ];
    output::print("Taking the proxy away...\n")?;
    stage.take_gateway_away().await?;
    rows.push(stage.managed_is_refused().await?);
    rows.push(stage.unmanaged_is_direct().await?);
    stage.nobody_else_was_seen().await?;
    output::print(&format!("\n{}\n", table::render(&rows, output::colour())))?;
    drop(stage);
    let left = leftovers();
    ensure!(
        left.is_empty(),
        "not everything could be removed: {}",
        left.join(", ")
    );
    output::print(
        "The managed curl went through the proxy, and nowhere while the proxy was away.\n\
         The other one was left alone. Everything is removed again.\n",
    )?;
    Ok(())
}

/// Everything that runs; fields are dropped in this order.
struct Stage {
    daemon: Program,
    gateway: Program,
    origin: Program,
    /// The address of each client of the origin.
    seen: Lines<BufReader<ChildStdout>>,
    _gateway_lines: Lines<BufReader<ChildStdout>>,
    client: Client,
    network: Network,
    folder: Folder,
}

/// What a curl did.
struct Curl {
    exit: Option<i32>,
    body: String,
    bytes: u64,
    took: Duration,
}

impl Stage {
    async fn set() -> anyhow::Result<Self> {
        for program in ["offramp-gateway", "offrampd"] {
            beside(program)?;
        }
        let folder = Folder::new()?;
        let network = Network::new()?;
        folder.certify(PROXY)?;
        let origin_line = [
            beside("offramp")?.into_os_string(),
            "demo-origin".into(),
            "--listen".into(),
            format!("{ORIGIN}:80").into(),
        ];
        let netns = network.path("origin");
        let (origin, _, seen) =
            Program::serve(&folder, "origin", Some(&netns), &origin_line).await?;
        let line = gateway(&folder, &format!("{PROXY}:443"), Some("203.0.113.0/24"))?;
        let netns = network.path("proxy");
        let (gateway, _, lines) = Program::serve(&folder, "gateway", Some(&netns), &line).await?;
        folder.declare(PROXY)?;
        let netns = network.path("app");
        let daemon = Program::start(&folder, "daemon", Some(&netns), &daemon(&folder)?)?;
        let mut stage = Self {
            daemon,
            gateway,
            origin,
            seen,
            _gateway_lines: lines,
            client: Client::new(folder.socket()),
            network,
            folder,
        };
        wait_connected(&stage.client, &mut stage.daemon).await?;
        Ok(stage)
    }

    async fn managed_is_relayed(&mut self) -> anyhow::Result<Row> {
        let mut events = self.client.follow_flows().await?;
        let curl = self.curl(true).await?;
        self.fetched(&curl, "the managed curl")?;
        let seen = self.next_seen().await?;
        ensure!(
            seen == PROXY,
            "the origin saw the managed curl as {seen}, not as the proxy"
        );
        ensure!(
            curl.body == format!("you come from {PROXY}\n"),
            "the managed curl got another answer than the origin's: {:?}",
            curl.body
        );
        let flow = ended(&mut events).await?;
        ensure!(
            flow.way == Way::Relay,
            "the daemon tells another way: {:?}",
            flow.way
        );
        Ok(Row::of(&flow, "curl, managed", seen))
    }

    async fn unmanaged_is_direct(&mut self) -> anyhow::Result<Row> {
        let curl = self.curl(false).await?;
        self.fetched(&curl, "the unmanaged curl")?;
        let seen = self.next_seen().await?;
        ensure!(
            seen == APP,
            "the origin saw the unmanaged curl as {seen}, not as itself"
        );
        Ok(row("curl", Way::Direct, &curl, seen))
    }

    async fn take_gateway_away(&mut self) -> anyhow::Result<()> {
        self.gateway.kill().await?;
        let noticed = async {
            loop {
                let status = self.client.status().await?;
                let profile = status.profiles.iter().find(|one| one.identifier == PROFILE);
                let state = profile.map(|profile| profile.state);
                if !matches!(
                    state,
                    Some(ProfileState::Connected | ProfileState::Connecting)
                ) {
                    return anyhow::Ok(());
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        match timeout(TELL_LIMIT, noticed).await {
            Ok(noticed) => noticed,
            Err(_) => bail!("the daemon does not notice that the proxy is away"),
        }
    }

    async fn managed_is_refused(&mut self) -> anyhow::Result<Row> {
        let curl = self.curl(true).await?;
        ensure!(
            curl.exit.is_some_and(|exit| REFUSED.contains(&exit)),
            "the managed curl was not refused but ended with status {}: {}",
            curl.exit.unwrap_or(-1),
            curl.body.trim()
        );
        ensure!(
            curl.took < AT_ONCE,
            "the managed curl was refused after {} ms only",
            curl.took.as_millis()
        );
        let refused = row("curl, managed", Way::Refused, &curl, "nobody".to_owned());
        // What curl wrote before the reset came has not left the machine.
        Ok(Row {
            bytes: 0,
            ..refused
        })
    }

    /// Ends the origin and reads what it still has to say: a visit that should not have been.
    async fn nobody_else_was_seen(&mut self) -> anyhow::Result<()> {
        self.origin.kill().await?;
        match timeout(TELL_LIMIT, self.seen.next_line()).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(seen))) => bail!("the origin saw one client more than it should: {seen}"),
            Ok(Err(_)) | Err(_) => bail!("the origin does not tell whom it saw"),
        }
    }

    fn fetched(&self, curl: &Curl, who: &str) -> anyhow::Result<()> {
        ensure!(
            curl.exit == Some(0),
            "{who} failed with status {}: {}{}",
            curl.exit.unwrap_or(-1),
            curl.body.trim(),
            self.daemon.last_words()
        );
        Ok(())
    }

    /// The next client of the origin; one that should not have come shows up here too.
    async fn next_seen(&mut self) -> anyhow::Result<String> {
        match timeout(TELL_LIMIT, self.seen.next_line()).await {
            Ok(Ok(Some(seen))) => Ok(seen),
            _ => bail!("the origin saw nobody"),
        }
    }

    async fn curl(&self, is_managed: bool) -> anyhow::Result<Curl> {
        let mut line: Vec<OsString> = ["curl", "-q", "-sS", "--noproxy", "*", "--max-time", "8"]
            .map(OsString::from)
            .into();
        line.extend(
            [
                "-w",
                "%{stderr}%{size_request} %{size_header} %{size_download}",
            ]
            .map(OsString::from),
        );
        line.push(format!("http://{ORIGIN}/").into());
        if is_managed {
            line = managed(&self.folder, &line)?;
        }
        let started = Instant::now();
        let child = entering(Some(&self.network.path("app")), None)?
            .args(&line)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start curl")?;
        let output = match timeout(CURL_LIMIT, child.wait_with_output()).await {
            Ok(output) => output.context("cannot run curl")?,
            Err(_) => bail!("curl does not end"),
        };
        let took = started.elapsed();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let sizes = said.lines().last().unwrap_or_default();
        let bytes = sizes
            .split(' ')
            .filter_map(|size| size.parse::<u64>().ok())
            .sum();
        let mut body = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            body.push_str(&said);
        }
        Ok(Curl {
            exit: output.status.code(),
            body,
            bytes,
            took,
        })
    }
}

fn row(app: &str, way: Way, curl: &Curl, seen: String) -> Row {
    Row {
        app: app.to_owned(),
        target: format!("{ORIGIN}:80"),
        way,
        upstream: None,
        bytes: curl.bytes,
        milliseconds: u64::try_from(curl.took.as_millis()).unwrap_or(u64::MAX),
        seen,
    }
}

/// The next flow that ends.
async fn ended(events: &mut EventStream<FlowEvent>) -> anyhow::Result<Flow> {
    let next = async {
        while let Some(event) = events.next().await? {
            if let FlowEvent::End { flow } = event {
                return Ok(flow);
            }
        }
        bail!("the daemon has ended the stream of flows")
    };
    match timeout(TELL_LIMIT, next).await {
        Ok(flow) => flow,
        Err(_) => bail!("the daemon does not tell of the flow"),
    }
}

/// Waits until the demo's profile is connected, or the daemon has ended.
pub(super) async fn wait_connected(client: &Client, daemon: &mut Program) -> anyhow::Result<()> {
    let deadline = Instant::now() + CONNECT_LIMIT;
    loop {
        let last = client.status().await;
        if let Ok(status) = &last {
            let profile = status
                .profiles
                .iter()
                .find(|profile| profile.identifier == PROFILE);
            if profile.is_some_and(|profile| profile.state == ProfileState::Connected) {
                return Ok(());
            }
        }
        if daemon.has_ended() {
            bail!("the daemon has ended{}", daemon.last_words());
        }
        if Instant::now() > deadline {
            let why = match last {
                Ok(status) => status
                    .profiles
                    .first()
                    .map_or("there is no profile".into(), |profile| {
                        format!("{:?}: {:?}", profile.state, profile.reason)
                    }),
                Err(error) => crate::failure::chain(&error),
            };
            bail!(
                "the profile is not connected ({why}){}",
                daemon.last_words()
            );
        }
        sleep(Duration::from_millis(50)).await;
    }
}
