//! The parts of the demo: folder, certificate, profile, and the programs that run.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::remains::{self, PREFIX, instance};

pub(super) const PROFILE: &str = "org.offramp.demo";

const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// The last lines of a log that are shown when its program fails.
const SHOWN_LINES: usize = 20;

/// Everything that the demo writes, removed with it.
#[derive(Debug)]
pub(super) struct Folder {
    folder: TempDir,
}

impl Folder {
    pub(super) fn new() -> anyhow::Result<Self> {
        remains::remove_folders();
        let folder = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .permissions(PermissionsExt::from_mode(0o755))
            .tempdir()
            .context("cannot make a temporary directory")?;
        let made = Self { folder };
        for part in [
            "config/policies/managed",
            "config/credentials",
            "state",
            "run",
        ] {
            std::fs::create_dir_all(made.path(part))
                .with_context(|| format!("cannot make {part} in the temporary directory"))?;
        }
        std::fs::set_permissions(made.path("config"), PermissionsExt::from_mode(0o700))?;
        Ok(made)
    }

    pub(super) fn path(&self, part: &str) -> PathBuf {
        self.folder.path().join(part)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.path("run/control.sock")
    }

    fn write(&self, part: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path(part);
        std::fs::write(&path, text)
            .and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Makes an authority and has it sign a certificate for the gateway's address.
    pub(super) fn certify(&self, address: &str) -> anyhow::Result<()> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "offramp demo authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let signed = CertificateParams::new([address.to_owned()])?.signed_by(&key, &authority)?;
        self.write("config/credentials/demo-ca", &authority.pem())?;
        self.write("gateway.crt", &signed.pem())?;
        self.write("gateway.key", &key.serialize_pem())
    }

    /// Writes the small profile, with the gateway as its server.
    pub(super) fn declare(&self, gateway: &str) -> anyhow::Result<()> {
        let profile = json!({
            "Type": "org.offramp.configuration.network.vpn",
            "Identifier": PROFILE,
            "Payload": {
                "VisibleName": "The demo",
                "Servers": [{
                    "URL": format!("https://{gateway}"),
                    "TLS": { "AnchorsAssetReference": "credential:demo-ca" }
                }]
            }
        });
        self.write(
            "config/policies/managed/demo.json",
            &format!("{profile:#}\n"),
        )
    }
}

/// A program that runs for the demo and ends with it.
#[derive(Debug)]
pub(super) struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts a program that says at which address it listens.
    pub(super) async fn serve(
        folder: &Folder,
        name: &'static str,
        netns: Option<&Path>,
        line: &[OsString],
    ) -> anyhow::Result<(Self, String, Lines<BufReader<ChildStdout>>)> {
        let mut program = Self::start(folder, name, netns, line)?;
        let stdout = program
            .child
            .stdout
            .take()
            .expect("standard output is piped");
        let mut lines = BufReader::new(stdout).lines();
        match timeout(START_LIMIT, lines.next_line()).await {
            Ok(Ok(Some(line))) if line.starts_with("listening on ") => {
                let address = line["listening on ".len()..].to_owned();
                Ok((program, address, lines))
            }
            _ => bail!("the {name} did not start{}", program.last_words()),
        }
    }

    /// Starts a program in the background.
    pub(super) fn start(
        folder: &Folder,
        name: &'static str,
        netns: Option<&Path>,
        line: &[OsString],
    ) -> anyhow::Result<Self> {
        let log = folder.path(&format!("{name}.log"));
        let file = std::fs::File::create(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let child = entering(netns, None)?
            .args(line)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            // Ctrl-C is for the demo, which ends its programs in the right order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the {name}"))?;
        Ok(Self { name, child, log })
    }

    /// Ends it at once, as a crash would.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("cannot end the {}", self.name))
    }

    /// What it said last, for a message about its failure.
    pub(super) fn last_words(&self) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = said.lines().collect();
        let last = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        if last.is_empty() {
            String::new()
        } else {
            format!("; it said:\n{}", last.join("\n"))
        }
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }
}

impl Drop for Program {
    /// Asks it to end and waits: the daemon takes back what it has added to the system.
    fn drop(&mut self) {
        let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) else {
            return;
        };
        // It may have ended in this moment.
        let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        let deadline = std::time::Instant::now() + STOP_LIMIT;
        while std::time::Instant::now() < deadline {
            if self.has_ended() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!(
            "offramp: demo: the {} does not end and is killed",
            self.name
        );
    }
}

/// The own program as the one that enters a namespace and becomes what is added as arguments.
pub(super) fn entering(netns: Option<&Path>, user: Option<u32>) -> anyhow::Result<Command> {
    let mut command = Command::new(beside("offramp")?);
    command.args(["demo-enter", "--parent", &std::process::id().to_string()]);
    if let Some(netns) = netns {
        command.arg("--netns").arg(netns);
    }
    if let Some(user) = user {
        command.args(["--user", &user.to_string()]);
    }
    command.arg("--");
    Ok(command)
}

/// A program that lies beside this one; `offramp` is this one.
pub(super) fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the own program")?;
    if name == "offramp" {
        return Ok(own);
    }
    let path = own.with_file_name(name);
    if !path.exists() {
        bail!(
            "{} is missing: build or install it beside offramp",
            path.display()
        );
    }
    Ok(path)
}

/// Looks for programs that the demo calls.
pub(super) fn require(programs: &[&str]) -> anyhow::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    let is_there = |program: &str| folders.iter().any(|folder| folder.join(program).is_file());
    let missing: Vec<_> = programs
        .iter()
        .copied()
        .filter(|program| !is_there(program))
        .collect();
    if !missing.is_empty() {
        bail!(
            "not found: {}; install iproute2 and curl",
            missing.join(", ")
        );
    }
    Ok(())
}

/// The command line of the gateway.
pub(super) fn gateway(
    folder: &Folder,
    listen: &str,
    allow: Option<&str>,
) -> anyhow::Result<Vec<OsString>> {
    let mut line = words(&[
        beside("offramp-gateway")?.as_os_str(),
        "--listen".as_ref(),
        listen.as_ref(),
        "--certificate".as_ref(),
        folder.path("gateway.crt").as_os_str(),
        "--key".as_ref(),
        folder.path("gateway.key").as_os_str(),
    ]);
    if let Some(block) = allow {
        line.extend(words(&["--allow".as_ref(), block.as_ref()]));
    }
    Ok(line)
}

/// The command line of the daemon.
pub(super) fn daemon(folder: &Folder) -> anyhow::Result<Vec<OsString>> {
    Ok(words(&[
        beside("offrampd")?.as_os_str(),
        "--config".as_ref(),
        folder.path("config").as_os_str(),
        "--state".as_ref(),
        folder.path("state").as_os_str(),
        "--runtime".as_ref(),
        folder.path("run").as_os_str(),
        "--instance".as_ref(),
        instance().as_ref(),
    ]))
}

/// The command line that runs another one under the demo's profile.
pub(super) fn managed(folder: &Folder, command: &[OsString]) -> anyhow::Result<Vec<OsString>> {
    let mut line = words(&[
        beside("offramp")?.as_os_str(),
        "--socket".as_ref(),
        folder.socket().as_os_str(),
        "run".as_ref(),
        "--quiet".as_ref(),
        "--profile".as_ref(),
        PROFILE.as_ref(),
        "--".as_ref(),
    ]);
    line.extend_from_slice(command);
    Ok(line)
}

fn words(words: &[&OsStr]) -> Vec<OsString> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
