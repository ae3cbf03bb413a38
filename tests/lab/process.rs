//! Processes that a test starts and that never outlive it.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A started process and its process group; both are killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    output: [Collected; 2],
    stop: Signal,
}

impl Running {
    /// Starts `command` in a process group of its own and collects what it prints.
    pub fn start(mut command: Command) -> Self {
        let name = format!("{command:?}");
        command
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let output = [
            Collected::of(child.stdout.take()),
            Collected::of(child.stderr.take()),
        ];
        Self {
            name,
            child,
            output,
            stop: Signal::SIGKILL,
        }
    }

    /// Ends it with `signal` when it is dropped, and with SIGKILL when that does not help.
    pub fn stop_with(mut self, signal: Signal) -> Self {
        self.stop = signal;
        self
    }

    /// The process id, which is the started program's own.
    pub fn id(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id()), signal).expect("the process has not been waited for");
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Takes the standard input, to write to it; only once and only if the command piped it.
    pub fn input(&mut self) -> std::process::ChildStdin {
        self.child
            .stdin
            .take()
            .expect("the command was started with a piped input")
    }

    /// What it has printed until now.
    pub fn said(&self) -> String {
        self.output[0].text()
    }

    /// What it has complained about until now.
    pub fn complained(&self) -> String {
        self.output[1].text()
    }

    /// Waits for the end; a process that takes longer than `limit` is killed and the test fails.
    pub fn finish(mut self, limit: Duration) -> Finished {
        let status = self.wait(limit);
        // What is left of the group may hold the pipes open.
        self.kill_group();
        let [stdout, stderr] = self.output.each_mut().map(Collected::finish);
        let Some(status) = status else {
            panic!("{} did not end in {limit:?}\n{stdout}\n{stderr}", self.name)
        };
        Finished {
            name: self.name.clone(),
            status,
            stdout,
            stderr,
        }
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                _ => return None,
            }
        }
    }

    fn kill_group(&mut self) {
        // The group may be gone already; what is left of it must go.
        let _ = kill(Pid::from_raw(-self.id()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() && self.stop != Signal::SIGKILL {
            self.signal(self.stop);
            self.wait(Duration::from_secs(10));
        }
        self.kill_group();
    }
}

/// What comes out of a pipe, as it comes.
#[derive(Debug)]
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Collected {
    fn of(pipe: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::default();
        let reader = pipe.map(|mut pipe| {
            let bytes: Arc<Mutex<Vec<u8>>> = Arc::clone(&bytes);
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                // A pipe that breaks off has said all it had to say.
                while let Ok(count @ 1..) = pipe.read(&mut piece) {
                    let mut bytes = bytes.lock().expect("nobody panics with the lock");
                    bytes.extend_from_slice(&piece[..count]);
                }
            })
        });
        Self { bytes, reader }
    }

    fn text(&self) -> String {
        let bytes = self.bytes.lock().expect("nobody panics with the lock");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reading a pipe does not panic");
        }
        self.text()
    }
}

/// A process that has ended.
#[derive(Debug)]
pub struct Finished {
    name: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Finished {
    /// What it printed, provided that it ended well; fails the test otherwise.
    #[track_caller]
    pub fn success(self) -> String {
        assert!(self.status.success(), "{self}");
        self.stdout
    }

    /// What it complained about, provided that it failed; fails the test otherwise.
    #[track_caller]
    pub fn failure(self) -> String {
        assert!(!self.status.success(), "this should have failed: {self}");
        self.stderr
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {}\n{}\n{}",
            self.name, self.status, self.stdout, self.stderr
        )
    }
}

/// Waits until `done` says so, at most `limit`; fails the test with `what` after that.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
