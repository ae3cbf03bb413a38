//! The demo with a command of the person's own, on the real network.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context;
use offramp_control::{Client, EventStream, Flow, FlowEvent};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::parts::{Folder, Program, daemon, entering, gateway, managed};
use super::story::wait_connected;
use crate::failure::{FAILED, Failure};
use crate::{flows, output};

const LOOPBACK: &str = "127.0.0.1";
/// Flows that are shown; later ones are counted.
const SHOWN: usize = 1000;
/// How long flows that are open at the command's end are waited for.
const LATE: Duration = Duration::from_secs(2);
/// How the daemon tells that a gateway did not want to reach a target.
const NOT_ALLOWED: &str = "does not allow this target";

pub(super) async fn run(command: Vec<OsString>) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    folder.certify(LOOPBACK)?;
    let line = gateway(&folder, "127.0.0.1:0", None)?;
    let (_daemon, _gateway, events) = super::interruptible(async {
        let (gateway, address, lines) = Program::serve(&folder, "gateway", None, &line).await?;
        folder.declare(&address)?;
        let mut daemon = Program::start(&folder, "daemon", None, &daemon(&folder)?)?;
        let client = Client::new(folder.socket());
        wait_connected(&client, &mut daemon).await?;
        Ok((daemon, (gateway, lines), client.follow_flows().await?))
    })
    .await?;
    let mut notes = Notes {
        events,
        open: BTreeSet::new(),
        ended: Vec::new(),
        left_out: 0,
    };
    let child = entering(None, invoker())?
        .args(managed(&folder, &command)?)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the command")?;
    let status = wait(child, &mut notes).await?;
    // What is open now belongs to processes that the command has left behind.
    let _ = timeout(LATE, notes.settle()).await;
    eprint!("\n{}", notes.render());
    if status.success() {
        return Ok(());
    }
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    let code = code
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(FAILED);
    Err(Failure::silent(code).into())
}

/// Waits for the command; Ctrl-C is the command's affair, other signals end it.
async fn wait(mut child: Child, notes: &mut Notes) -> anyhow::Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            status = child.wait() => return status.context("cannot wait for the command"),
            () = notes.take() => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => child.start_kill()?,
            _ = hangup.recv() => child.start_kill()?,
        }
    }
}

/// The user who called sudo, if somebody did.
fn invoker() -> Option<u32> {
    std::env::var("SUDO_UID")
        .ok()?
        .parse()
        .ok()
        .filter(|uid| *uid != 0)
}

/// The flows of the command.
struct Notes {
    events: EventStream<FlowEvent>,
    open: BTreeSet<u64>,
    ended: Vec<Flow>,
    left_out: u64,
}

impl Notes {
    /// Takes note of the next event; waits for ever after the last.
    async fn take(&mut self) {
        match self.events.next().await {
            Ok(Some(FlowEvent::Begin { flow })) => {
                self.open.insert(flow.id);
            }
            Ok(Some(FlowEvent::End { flow })) => {
                self.open.remove(&flow.id);
                if self.ended.len() < SHOWN {
                    self.ended.push(flow);
                } else {
                    self.left_out += 1;
                }
            }
            Ok(Some(FlowEvent::Missed { count })) => self.left_out += count,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Waits until all flows have ended and nothing more is told for a moment.
    async fn settle(&mut self) {
        while !self.open.is_empty() {
            self.take().await;
        }
        while timeout(Duration::from_millis(200), self.take())
            .await
            .is_ok()
        {}
    }

    fn render(&self) -> String {
        if self.ended.is_empty() && self.open.is_empty() {
            return "The command had no flows.\n".into();
        }
        let mut text = flows::render(&self.ended, output::colour());
        let refused = |flow: &Flow| {
            let error = flow.error.as_deref();
            error.is_some_and(|error| error.ends_with(NOT_ALLOWED))
        };
        if self.ended.iter().any(refused) {
            text.push_str("The demo's gateway reaches public addresses alone, and no port 25.\n");
        }
        for (count, what) in [
            (self.open.len() as u64, "still open"),
            (self.left_out, "left out here"),
        ] {
            if count > 0 {
                text.push_str(&format!("({count} flows are {what})\n"));
            }
        }
        text
    }
}
