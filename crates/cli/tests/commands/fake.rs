//! A daemon that answers one connection after the other with what it was given.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// What somebody asked, and what they were at that moment.
pub(crate) struct Asked {
    pub(crate) pid: i32,
    pub(crate) threads: usize,
    pub(crate) body: String,
}

pub(crate) struct Fake {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// Answers each connection with the next of these statuses and bodies, and then no more.
    pub(crate) fn start(answers: Vec<(String, String)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        // Ends with its answers, or with the test process.
        thread::spawn(move || {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                // Before the answer: with it the test may go on.
                heard.lock().unwrap().push(listen(&stream));
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len());
                stream
                    .write_all((head + "\r\n" + &body).as_bytes())
                    .unwrap();
            }
        });
        Self {
            _folder: folder,
            socket,
            asked,
        }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn listen(stream: &UnixStream) -> Asked {
    let pid = getsockopt(stream, PeerCredentials).unwrap().pid();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .count();
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(count) = line.strip_prefix("content-length: ") {
            length = count.trim().parse().unwrap();
        }
    }
    let mut asked = vec![0; length];
    reader.read_exact(&mut asked).unwrap();
    Asked {
        pid,
        threads,
        body: String::from_utf8(asked).unwrap(),
    }
}
