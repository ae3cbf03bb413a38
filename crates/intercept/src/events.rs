//! What the kernel programs tell without being asked.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Something that happened in the kernel.
#[derive(Clone, Debug)]
pub enum Event {
    /// A program was started that may be an app's. A hint: of one that is lost the question is there
    /// all the same.
    Exec {
        /// What [`crate::Capture::question`] is asked for.
        number: u32,
        /// Who has started it: a user, or of a user namespace whoever made it. Many programs of one
        /// must not keep others waiting.
        asker: u32,
    },
    /// A process came into a cgroup of interest.
    Moved {
        /// The process.
        pid: u32,
    },
    /// Processes with a label have ended since the last such event. A hint: it may be lost.
    Ended,
    /// A UDP socket of an app is gone; its flow ends with it.
    SocketClosed {
        /// The cookie of its [`crate::Identity`].
        cookie: u64,
    },
}

/// The ring buffer as a stream.
pub(crate) struct Events {
    descriptor: AsyncFd<OwnedFd>,
    ring: std::sync::Mutex<RingBuffer<'static>>,
    received: mpsc::Receiver<Event>,
}

impl Events {
    pub(crate) fn open(map: &MapHandle) -> libbpf_rs::Result<Self> {
        // As many as the ring has room for, so that nothing taken out of it is lost.
        let (sender, received) = mpsc::channel(16_384);
        let mut builder = RingBufferBuilder::new();
        builder.add(map, move |bytes| {
            if let Some(event) = parse(bytes) {
                // What does not fit is found by the next look at who is labelled, or ends by its idle limit.
                let _ = sender.try_send(event);
            }
            0
        })?;
        let ring = builder.build()?;
        let descriptor = watch(&ring)?;
        Ok(Self {
            descriptor,
            ring: std::sync::Mutex::new(ring),
            received,
        })
    }

    /// What is out of the ring already.
    pub(crate) fn taken(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.received.try_recv().ok()).collect()
    }

    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Ok(event) = self.received.try_recv() {
                return Some(event);
            }
            let mut ready = self.descriptor.readable().await.ok()?;
            let ring = self
                .ring
                .lock()
                .expect("nothing panics while it holds the ring");
            let _ = ring.poll(Duration::ZERO);
            ready.clear_ready();
        }
    }
}

#[expect(unsafe_code, reason = "registers a descriptor")]
fn watch(ring: &RingBuffer<'_>) -> libbpf_rs::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the ring owns the descriptor and lives through this call.
    let borrowed = unsafe { BorrowedFd::borrow_raw(ring.epoll_fd()) };
    let descriptor = borrowed.try_clone_to_owned()?;
    // SAFETY: an OwnedFd stays the same open descriptor for as long as it lives.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }
        .map_err(|error| std::io::Error::from(error).into())
}

fn parse(bytes: &[u8]) -> Option<Event> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    match word(0)? {
        1 => Some(Event::Ended),
        2 => Some(Event::SocketClosed {
            cookie: u64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?),
        }),
        5 => Some(Event::Exec {
            number: word(8)?,
            asker: word(4)?,
        }),
        4 => Some(Event::Moved { pid: word(4)? }),
        _ => None,
    }
}

#[cfg(test)]
mod fuzz {
    use offramp_fuzz::fuzz;

    /// The kernel writes these; what a program is called and given stands in them as it is.
    #[test]
    fn events() {
        let seeds: Vec<Vec<u8>> = [64, 256, 1024, 8192]
            .into_iter()
            .flat_map(|length| {
                (0..8).map(move |kind| {
                    let mut event = vec![b'a'; length];
                    event[..4].copy_from_slice(&u32::to_ne_bytes(kind));
                    event
                })
            })
            .collect();
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        fuzz("events", &seeds, |input| {
            super::parse(input);
            crate::interest::read_exec(input);
        });
    }
}
