use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use offramp_relay::capsule::{self, Decoder};
use offramp_relay::datagram::Queue;
use offramp_relay::{Counters, End};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Datagrams that wait for a client that does not read, and their bytes.
const WAITING: usize = 256;
const WAITING_BYTES: usize = 512 * 1024;
/// Capsule bytes that are handed to the client's stream at one time.
const BATCH: usize = 32 * 1024;
/// Reads in one poll, so that one association lets others run.
const ROUNDS: usize = 64;
/// What is read from the client at one time.
const PIECE: usize = 16 * 1024;

/// Moves datagrams between capsules on the client's stream and a socket that is connected to the
/// target, until the client ends, a side breaks, nothing moves for `idle`, or `stop`.
pub(crate) async fn relay<S>(
    client: &mut S,
    socket: &UdpSocket,
    idle: Duration,
    counters: &Counters,
    dropped: &AtomicU64,
    stop: &CancellationToken,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A new socket counts as full until the reactor has looked at it: its first datagram would be
    // lost on a busy machine.
    if let Err(error) = socket.writable().await {
        return End::FarReset(error);
    }
    let mut stopped = pin!(stop.cancelled());
    let mut clock = pin!(sleep_until(Instant::now() + idle));
    let mut association = Association {
        decoder: Decoder::new(),
        queue: Queue::new(WAITING, WAITING_BYTES),
        out: BytesMut::new(),
        unflushed: false,
        lost: 0,
        sent: 0,
        received: 0,
    };
    let mut moved = Instant::now();
    let end = poll_fn(|cx| {
        if stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Stopped);
        }
        let end = association.poll(cx, client, socket);
        let sent = std::mem::take(&mut association.sent);
        let received = std::mem::take(&mut association.received);
        counters.sent.fetch_add(sent, Ordering::Relaxed);
        counters.received.fetch_add(received, Ordering::Relaxed);
        if sent + received > 0 {
            moved = Instant::now();
        }
        if end.is_ready() {
            return end;
        }
        while clock.as_mut().poll(cx).is_ready() {
            if moved + idle <= Instant::now() {
                return Poll::Ready(End::Idle);
            }
            clock.as_mut().reset(moved + idle);
        }
        Poll::Pending
    })
    .await;
    dropped.fetch_add(
        association.queue.dropped() + association.lost,
        Ordering::Relaxed,
    );
    end
}

struct Association {
    decoder: Decoder,
    queue: Queue,
    out: BytesMut,
    unflushed: bool,
    lost: u64,
    sent: u64,
    received: u64,
}

impl Association {
    fn poll<S>(&mut self, cx: &mut Context<'_>, client: &mut S, socket: &UdpSocket) -> Poll<End>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if let Poll::Ready(end) = self.poll_up(cx, client, socket) {
            return Poll::Ready(end);
        }
        self.poll_receive(cx, socket);
        match self.poll_down(cx, client) {
            Poll::Ready(Err(error)) => Poll::Ready(End::AppReset(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    fn poll_up<S>(&mut self, cx: &mut Context<'_>, client: &mut S, socket: &UdpSocket) -> Poll<End>
    where
        S: AsyncRead + Unpin,
    {
        for _ in 0..ROUNDS {
            loop {
                match self.decoder.next() {
                    Ok(Some(datagram)) => self.send(cx, socket, &datagram),
                    Ok(None) => break,
                    Err(error) => return Poll::Ready(End::AppReset(io::Error::other(error))),
                }
            }
            let mut space = [MaybeUninit::uninit(); PIECE];
            let mut read = ReadBuf::uninit(&mut space);
            match ready!(Pin::new(&mut *client).poll_read(cx, &mut read)) {
                Ok(()) if read.filled().is_empty() => return Poll::Ready(End::Closed),
                Ok(()) => self.decoder.push(Bytes::copy_from_slice(read.filled())),
                Err(error) => return Poll::Ready(End::AppReset(error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends or loses: errors such as a port that is closed just now concern one datagram.
    fn send(&mut self, cx: &mut Context<'_>, socket: &UdpSocket, datagram: &[u8]) {
        match socket.poll_send(cx, datagram) {
            Poll::Ready(Ok(size)) => self.sent += size as u64,
            Poll::Ready(Err(_)) | Poll::Pending => self.lost += 1,
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, socket: &UdpSocket) {
        let mut space = [MaybeUninit::uninit(); 65_536];
        for _ in 0..ROUNDS {
            let mut read = ReadBuf::uninit(&mut space);
            match socket.poll_recv(cx, &mut read) {
                Poll::Ready(Ok(())) => self.queue.push(Bytes::copy_from_slice(read.filled())),
                Poll::Ready(Err(_)) => self.lost += 1,
                Poll::Pending => return,
            }
        }
        cx.waker().wake_by_ref();
    }

    fn poll_down<S>(&mut self, cx: &mut Context<'_>, client: &mut S) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin,
    {
        loop {
            while self.out.len() < BATCH
                && let Some(datagram) = self.queue.pop()
            {
                self.received += datagram.len() as u64;
                capsule::encode_datagram(&datagram, &mut self.out);
            }
            if self.out.is_empty() {
                break;
            }
            let written = ready!(Pin::new(&mut *client).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut *client).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}
