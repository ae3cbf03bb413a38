//! Many flows at once and many flows in a row.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How many flows are being opened at the same time.
const AT_ONCE: usize = 64;
const LIMIT: Duration = Duration::from_secs(30);

/// Opens `count` echo flows over all targets, says so, waits for a line, uses each of them again,
/// and says how many still work.
pub(crate) fn open(count: usize, targets: Vec<SocketAddr>) -> anyhow::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    runtime()?.block_on(async {
        let flows = run(count, targets, |target, number| async move {
            let mut flow = TcpStream::connect(target).await?;
            echo(&mut flow, number).await?;
            Ok(flow)
        })
        .await;
        println!("open {} {:?}", flows.done.len(), flows.failures);
        io::stdin().read_line(&mut String::new())?;
        let mut working = 0;
        let mut failures = BTreeMap::new();
        for (number, mut flow) in flows.done.into_iter().enumerate() {
            match within(echo(&mut flow, number)).await {
                Ok(()) => working += 1,
                Err(error) => *failures.entry(error.kind().to_string()).or_insert(0) += 1,
            }
        }
        println!("working {working} {failures:?}");
        Ok(())
    })
}

/// Opens, uses and ends `count` echo flows and says how many went well.
pub(crate) fn short(count: usize, targets: Vec<SocketAddr>) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let flows = run(count, targets, |target, number| async move {
            let mut flow = TcpStream::connect(target).await?;
            echo(&mut flow, number).await?;
            flow.shutdown().await?;
            match flow.read(&mut [0; 1]).await? {
                0 => Ok(()),
                _ => Err(ErrorKind::InvalidData.into()),
            }
        })
        .await;
        println!("done {} {:?}", flows.done.len(), flows.failures);
        Ok(())
    })
}

struct Outcome<T> {
    done: Vec<T>,
    failures: BTreeMap<String, usize>,
}

async fn run<T, W>(
    count: usize,
    targets: Vec<SocketAddr>,
    work: impl Fn(SocketAddr, usize) -> W,
) -> Outcome<T>
where
    T: Send + 'static,
    W: Future<Output = io::Result<T>> + Send + 'static,
{
    let targets: Arc<[SocketAddr]> = targets.into();
    let mut running = JoinSet::new();
    let mut outcome = Outcome {
        done: Vec::new(),
        failures: BTreeMap::new(),
    };
    for number in 0..count {
        if running.len() == AT_ONCE {
            outcome.add(running.join_next().await);
        }
        running.spawn(within(work(targets[number % targets.len()], number)));
    }
    while !running.is_empty() {
        outcome.add(running.join_next().await);
    }
    outcome
}

impl<T> Outcome<T> {
    fn add(&mut self, ended: Option<Result<io::Result<T>, tokio::task::JoinError>>) {
        match ended {
            Some(Ok(Ok(value))) => self.done.push(value),
            Some(Ok(Err(error))) => {
                *self.failures.entry(error.kind().to_string()).or_insert(0) += 1;
            }
            Some(Err(panic)) => *self.failures.entry(panic.to_string()).or_insert(0) += 1,
            None => {}
        }
    }
}

/// Sends a token of its own and takes nothing else for an answer.
async fn echo(flow: &mut TcpStream, number: usize) -> io::Result<()> {
    let token = format!("token {number:020}");
    flow.write_all(token.as_bytes()).await?;
    let mut answer = vec![0; token.len()];
    flow.read_exact(&mut answer).await?;
    if answer == token.as_bytes() {
        Ok(())
    } else {
        Err(ErrorKind::InvalidData.into())
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(LIMIT, work)
        .await
        .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}
