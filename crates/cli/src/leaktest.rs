//! `offramp leaktest`: tries every way out under a profile, and tells what came of each.
//!
//! The process under the profile ([`attempt`]) is this program again, started as `offramp run`
//! starts commands. What it says of itself is held against what others saw: the daemon, and as root
//! the devices.

pub(crate) mod attempt;
mod doors;
mod report;
mod verdict;
mod watch;

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use offramp_control::{
    Client, EventStream, ExplainRequest, ExplainTarget, Flow, FlowEvent, ProfileState, Protocol,
    Subject, Way,
};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, timeout, timeout_at};

use self::attempt::{Attempt, Outcome};
pub(crate) use self::doors::Given;
use self::doors::{AVAHI, DOORS, Door, Family, HTTPS, Kind, Plan, Resolver};
use self::report::{Report, Row};
use self::verdict::{Evidence, Verdict, judge};
use self::watch::{Seen, Wanted, Watch};
use crate::arguments;
use crate::failure::{FAILED, Failure, UNAVAILABLE};
use crate::output;

/// How long the process under the profile may take for all; it is told to hurry itself.
const LIMIT: Duration = Duration::from_secs(20);
/// What the daemon and the devices tell after the doors have ended.
const LATE: Duration = Duration::from_millis(300);
const DNS: u16 = 53;
/// Where neighbours are asked for names (RFC 6762).
const MDNS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), 5353);

/// Status 1 where a door leads past the proxy, or may.
pub(crate) async fn run(client: &Client, arguments: arguments::Leaktest) -> Result<(), Failure> {
    let given = arguments.target.clone();
    let mut trial = Trial::start(client, &arguments, given).await?;
    let (attempts, flows) = trial.gather().await?;
    let rows = trial.judge(client, &attempts, &flows).await;
    let report = Report {
        profile: arguments.profile,
        watched: trial.watched,
        state: trial.state,
        rows,
    };
    match arguments.json {
        true => output::print_json(&report)?,
        false => output::print(&report.render(output::colour()))?,
    }
    match report.is_tight() {
        true => Ok(()),
        false => Err(Failure::silent(FAILED)),
    }
}

/// A running test.
struct Trial {
    child: Child,
    pid: u32,
    lines: Lines<BufReader<ChildStdout>>,
    events: EventStream<FlowEvent>,
    watch: Option<Watch>,
    seen: Vec<Seen>,
    watched: bool,
    plan: Plan,
    /// How the profile stands, where it is known which one it is.
    state: Option<(ProfileState, Option<String>)>,
}

impl Trial {
    async fn start(
        client: &Client,
        arguments: &arguments::Leaktest,
        target: Option<Given>,
    ) -> Result<Self, Failure> {
        let profiles = client.profiles().await?;
        let state = profiles
            .iter()
            .find(|known| match &arguments.profile {
                Some(profile) => known.identifier == *profile,
                None => profiles.len() == 1,
            })
            .map(|known| (known.state, known.reason.clone()));
        let events = client.follow_flows().await?;
        let (tcp, udp) = made_before().map_err(|error| failed("a socket", &error))?;
        let mut plan = survey(target);
        (plan.tcp, plan.udp) = (tcp.as_raw_fd(), udp.as_raw_fd());
        let watch = Watch::start(wanted(&plan));
        let mut child = command(client, arguments.profile.as_deref(), &plan)
            .and_then(|mut command| command.spawn())
            .map_err(|error| failed("the test", &error))?;
        let pid = child.id().unwrap_or_default();
        let output = child.stdout.take().expect("it was just asked for");
        Ok(Self {
            child,
            pid,
            lines: BufReader::new(output).lines(),
            events,
            watched: watch.is_some(),
            watch,
            seen: Vec::new(),
            plan,
            state,
        })
    }

    /// What came of the doors, and the flows that the daemon had meanwhile.
    async fn gather(&mut self) -> Result<(Vec<Attempt>, Vec<Flow>), Failure> {
        let end = Instant::now() + LIMIT;
        let progress = io::stderr().is_terminal();
        let (mut attempts, mut flows) = (Vec::new(), Vec::new());
        loop {
            tokio::select! {
                line = self.lines.next_line() => match line {
                    Ok(Some(line)) if line.is_empty() => break,
                    Ok(Some(line)) => attempts.extend(serde_json::from_str::<Attempt>(&line).ok()),
                    // It has said why, if it was not started.
                    Ok(None) | Err(_) => return Err(self.ended().await),
                },
                event = self.events.next() => take(event.ok().flatten(), &mut flows)?,
                () = tokio::time::sleep_until(end) => {
                    return Err(Failure::new(FAILED, "the test does not end"));
                }
            }
            if progress {
                eprint!("\rofframp: {} doors tried", attempts.len());
            }
        }
        if progress {
            eprint!("\r\x1b[K");
        }
        let late = Instant::now() + LATE;
        while let Ok(event) = timeout_at(late, self.events.next()).await {
            take(event.ok().flatten(), &mut flows)?;
        }
        if let Some(watch) = self.watch.take() {
            self.seen = watch.finish();
        }
        Ok((attempts, flows))
    }

    async fn ended(&mut self) -> Failure {
        let status = timeout(LATE, self.child.wait()).await;
        let code = status.ok().and_then(Result::ok).and_then(|s| s.code());
        match code.and_then(|code| u8::try_from(code).ok()) {
            Some(code) if code != 0 => Failure::silent(code),
            _ => Failure::new(FAILED, "the test has ended before all doors were tried"),
        }
    }

    async fn judge(&self, client: &Client, attempts: &[Attempt], flows: &[Flow]) -> Vec<Row> {
        let mut rows = Vec::new();
        for (number, door) in DOORS.iter().enumerate() {
            if door.needs_target() && self.plan.target.is_none() {
                continue;
            }
            let attempt = attempts.iter().find(|attempt| attempt.door == number);
            let Some(attempt) = attempt else {
                rows.push(Row::unfinished(door));
                continue;
            };
            let mut evidence = Evidence {
                wire: self.wire(number, door, attempt),
                is_watched: self.watched,
                is_offline: self.is_offline(door, attempt),
                flow: flow_of(attempt, flows),
                is_direct: false,
            };
            let mut told = judge(door.kind, attempt, &evidence);
            let doubtful = matches!(told.0, Verdict::Leaked | Verdict::Unclear)
                || evidence.flow == Some(Way::Refused);
            if (doubtful || door.needs_target()) && self.is_direct(client, number, attempt).await {
                evidence.is_direct = true;
                told = judge(door.kind, attempt, &evidence);
            }
            rows.push(Row::new(door, attempt, told));
        }
        rows
    }

    fn is_offline(&self, door: &Door, attempt: &Attempt) -> bool {
        let offline = match attempt.trace.target {
            Some(SocketAddr::V4(_)) => self.plan.own4.is_none(),
            Some(SocketAddr::V6(_)) => self.plan.own6.is_none(),
            None => false,
        };
        offline || door.kind == Kind::Namespace
    }

    /// The device on which something of this door has left.
    fn wire(&self, number: usize, door: &Door, attempt: &Attempt) -> Option<String> {
        let label = format!("{}-{number}", self.plan.nonce);
        let from = attempt.trace.local.map_or(0, |local| local.port());
        let target = attempt.trace.target.map(|target| target.ip());
        let target = target.or_else(|| door.kind.target(number, &self.plan).map(|t| t.ip()));
        let is_lookup = matches!(door.kind, Kind::Lookup(_) | Kind::Libc | Kind::Bus);
        let seen = self.seen.iter().find(|seen| {
            if is_lookup && seen.name.is_some() {
                return seen.name.as_deref() == Some(label.as_str());
            }
            // Targets that others may have as well are told apart by our port.
            Some(seen.target) == target && (from == 0 || seen.source_port == from)
        });
        seen.map(|seen| seen.device.clone())
    }

    /// Whether the profile itself says that this target is reached directly.
    async fn is_direct(&self, client: &Client, number: usize, attempt: &Attempt) -> bool {
        let target = match (&DOORS[number].kind, &self.plan.target, attempt.trace.target) {
            (Kind::Service(AVAHI), ..) => ExplainTarget::Address(MDNS.to_string()),
            (Kind::Lookup(_) | Kind::Libc | Kind::Bus, ..) => {
                ExplainTarget::Name(doors::name(number, &self.plan))
            }
            // By its name, which may be what is excluded.
            (_, Some(given), Some(target)) if DOORS[number].needs_target() => {
                ExplainTarget::Address(given.at(target.port()))
            }
            (_, _, Some(target)) => ExplainTarget::Address(target.to_string()),
            (_, _, None) => return false,
        };
        let request = ExplainRequest {
            subject: Some(Subject::Process(self.pid)),
            target: Some(target),
        };
        let explained = client.explain(&request).await;
        explained.is_ok_and(|explained| {
            explained
                .decisions
                .iter()
                .any(|decided| decided.way == Way::Direct)
        })
    }
}

/// Takes note of flows; a daemon that ends them has gone.
fn take(event: Option<FlowEvent>, flows: &mut Vec<Flow>) -> Result<(), Failure> {
    match event {
        Some(FlowEvent::Begin { flow } | FlowEvent::End { flow }) => flows.push(flow),
        Some(FlowEvent::Missed { .. }) => {}
        None => return Err(Failure::new(UNAVAILABLE, "the daemon has gone meanwhile")),
    }
    Ok(())
}

/// What the daemon did with it last, where it had it.
fn flow_of(attempt: &Attempt, flows: &[Flow]) -> Option<Way> {
    let (local, target) = (attempt.trace.local?, attempt.trace.target?);
    let flow = flows.iter().rev().find(|flow| {
        let source: Option<SocketAddr> = flow.source.parse().ok();
        let wanted: Option<SocketAddr> = flow.target.parse().ok();
        source.is_some_and(|source| source.port() == local.port())
            && wanted.is_none_or(|wanted| wanted == target)
    })?;
    // A connected one has said so itself.
    match (flow.protocol, &attempt.outcome) {
        (Protocol::Tcp, Outcome::Refused(_)) => None,
        _ => Some(flow.way),
    }
}

fn failed(what: &str, error: &io::Error) -> Failure {
    Failure::new(FAILED, format!("cannot make {what}: {error}"))
}

/// This program under the profile, with the two sockets that it inherits.
fn command(client: &Client, profile: Option<&str>, plan: &Plan) -> io::Result<Command> {
    let program = std::env::current_exe()?;
    let mut command = Command::new(&program);
    command.arg("--socket").arg(client.socket()).arg("run");
    if let Some(profile) = profile {
        command.args(["--profile", profile]);
    }
    let plan = serde_json::to_string(plan).map_err(io::Error::other)?;
    command
        .arg("--")
        .arg(program)
        .args(["leaktest-doors", &plan])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    Ok(command)
}

/// Sockets that do not close on exec.
fn made_before() -> io::Result<(Socket, Socket)> {
    let make = |kind| {
        let socket = Socket::new(Domain::IPV4, kind, None)?;
        socket.set_cloexec(false)?;
        Ok::<_, io::Error>(socket)
    };
    Ok((make(Type::STREAM)?, make(Type::DGRAM)?))
}

/// What the machine has.
fn survey(target: Option<Given>) -> Plan {
    let own = |any: IpAddr, family| {
        // No packet is sent by this.
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket
            .connect((doors::address(0, family, false), doors::DISCARD))
            .ok()?;
        let own = socket.local_addr().ok()?.ip();
        (!own.is_loopback() && !own.is_unspecified()).then_some(own)
    };
    let own4 = own(Ipv4Addr::UNSPECIFIED.into(), Family::V4);
    let own6 = own(Ipv6Addr::UNSPECIFIED.into(), Family::V6);
    Plan {
        own4: own4.and_then(|own| match own {
            IpAddr::V4(own) => Some(own),
            IpAddr::V6(_) => None,
        }),
        own6: own6.and_then(|own| match own {
            IpAddr::V6(own) => Some(own),
            IpAddr::V4(_) => None,
        }),
        device: own4.or(own6).and_then(device_of),
        resolver: std::fs::read_to_string("/etc/resolv.conf")
            .ok()
            .as_deref()
            .and_then(resolver),
        nonce: format!("leaktest{:x}", std::process::id()),
        target,
        ..Plan::default()
    }
}

fn device_of(own: IpAddr) -> Option<String> {
    let found = getifaddrs().ok()?.find(|interface| {
        let address = interface.address.as_ref();
        let v4 = address
            .and_then(|a| a.as_sockaddr_in())
            .map(|a| IpAddr::V4(a.ip()));
        let v6 = address
            .and_then(|a| a.as_sockaddr_in6())
            .map(|a| IpAddr::V6(a.ip()));
        v4.or(v6) == Some(own)
    })?;
    Some(found.interface_name)
}

/// The first one that a `resolv.conf` names.
fn resolver(text: &str) -> Option<SocketAddr> {
    text.lines().find_map(|line| {
        let address = line.strip_prefix("nameserver")?.trim();
        let address: IpAddr = address.parse().ok()?;
        Some(SocketAddr::new(address, DNS))
    })
}

/// What is to be looked for on the devices.
fn wanted(plan: &Plan) -> Wanted {
    let mut targets = BTreeSet::new();
    for (number, door) in DOORS.iter().enumerate() {
        // Anybody asks the machine's resolver; there the name tells.
        if !matches!(
            door.kind,
            Kind::Lookup(Resolver::Configured | Resolver::ConfiguredTcp)
        ) {
            targets.extend(door.kind.target(number, plan).map(|target| target.ip()));
        }
    }
    // What a name stands for shows only under the profile: our ports tell then.
    let ports = plan.target.iter().flat_map(|given| [given.port, HTTPS]);
    Wanted {
        targets,
        ports: ports.collect(),
        nonce: plan.nonce.clone(),
    }
}
