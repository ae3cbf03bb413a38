//! Single sockets in all their variants.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SockaddrStorage, sendto};
use socket2::{Domain, Socket, Type};
use std::os::fd::{AsFd, AsRawFd};

use crate::address;

const LIMIT: Duration = Duration::from_secs(20);

/// How the socket is made and used.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// The address to bind to first.
    bind: Option<IpAddr>,
    /// The device to bind to first.
    device: Option<String>,
    /// TCP: connect without blocking. UDP: connect.
    connect: bool,
    /// TCP: send data with the SYN.
    fast_open: bool,
    /// Use an IPv6 socket for IPv4 targets.
    mapped: bool,
    targets: Vec<SocketAddr>,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> anyhow::Result<Self> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().context("the option wants a value");
            match argument.as_str() {
                "--bind" => options.bind = Some(value()?.parse()?),
                "--device" => options.device = Some(value()?.clone()),
                "--connect" | "--nonblocking" => options.connect = true,
                "--fast-open" => options.fast_open = true,
                "--mapped" => options.mapped = true,
                target => options.targets.push(address(target)?),
            }
        }
        Ok(options)
    }

    /// A socket of the family of `target`.
    fn open(&self, kind: Type, target: SocketAddr) -> anyhow::Result<Socket> {
        let six = self.mapped || target.is_ipv6();
        let socket = Socket::new(if six { Domain::IPV6 } else { Domain::IPV4 }, kind, None)?;
        if six {
            socket.set_only_v6(false)?;
        }
        if let Some(device) = &self.device {
            socket
                .bind_device(Some(device.as_bytes()))
                .context("SO_BINDTODEVICE")?;
        }
        if let Some(address) = self.bind {
            socket
                .bind(&SocketAddr::new(self.form(address), 0).into())
                .context("bind")?;
        }
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
        Ok(socket)
    }

    /// The address as this kind of socket wants it.
    fn form(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(four) if self.mapped => four.to_ipv6_mapped().into(),
            other => other,
        }
    }

    fn formed(&self, target: SocketAddr) -> SocketAddr {
        SocketAddr::new(self.form(target.ip()), target.port())
    }
}

/// Connects to each target, prints its first line, and checks an echo.
pub(crate) fn tcp(options: &Options) -> anyhow::Result<()> {
    for target in &options.targets {
        let start = Instant::now();
        let outcome = tcp_one(options, *target);
        let after = start.elapsed().as_millis();
        match outcome {
            Ok(line) => println!("{target} ok {line} after_ms={after}"),
            Err(error) => {
                let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
                println!("{target} failed {kind:?} after_ms={after} {error:#}");
            }
        }
    }
    Ok(())
}

fn tcp_one(options: &Options, target: SocketAddr) -> anyhow::Result<String> {
    let socket = options.open(Type::STREAM, target)?;
    let address = options.formed(target);
    if options.fast_open {
        let storage = SockaddrStorage::from(address);
        sendto(
            socket.as_raw_fd(),
            b"early ",
            &storage,
            MsgFlags::from_bits_retain(libc::MSG_FASTOPEN),
        )
        .map_err(io::Error::from)?;
    } else if options.connect {
        connect_without_blocking(&socket, address)?;
    } else {
        socket.connect(&address.into())?;
    }
    let mut flow = TcpStream::from(socket);
    let (peer, local) = (flow.peer_addr()?, flow.local_addr()?);
    flow.write_all(b"token\n")?;
    flow.shutdown(std::net::Shutdown::Write)?;
    let mut said = String::new();
    flow.read_to_string(&mut said)?;
    Ok(format!(
        "said={:?} peername={peer} local={local}",
        said.trim().replace('\n', "|")
    ))
}

fn connect_without_blocking(socket: &Socket, address: SocketAddr) -> anyhow::Result<()> {
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            let limit = PollTimeout::try_from(LIMIT).context("a short time")?;
            if poll(&mut waiting, limit)? == 0 {
                bail!("the connect did not end");
            }
            if let Some(error) = socket.take_error()? {
                return Err(error.into());
            }
        }
        Err(error) => return Err(error.into()),
    }
    socket.set_nonblocking(false)?;
    Ok(())
}

/// Sends a datagram of its own to each target, twice over, from one socket, and prints what
/// comes back from whom.
pub(crate) fn udp(options: &Options) -> anyhow::Result<()> {
    let first = options.targets.first().context("no target")?;
    let socket = UdpSocket::from(options.open(Type::DGRAM, *first)?);
    for round in ["a", "b"] {
        for target in &options.targets {
            let address = options.formed(*target);
            let payload = format!("{round}-{target}");
            let sent = if options.connect {
                socket
                    .connect(address)
                    .and_then(|()| socket.send(payload.as_bytes()))
            } else {
                socket.send_to(payload.as_bytes(), address)
            };
            if let Err(error) = sent {
                println!("{target} failed {:?} {error}", error.kind());
                continue;
            }
            answer(&socket, *target)?;
        }
    }
    Ok(())
}

fn answer(socket: &UdpSocket, target: SocketAddr) -> anyhow::Result<()> {
    let mut buffer = vec![0; 65536];
    match socket.recv_from(&mut buffer) {
        Ok((count, from)) => {
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            println!(
                "{target} ok from={from} {}",
                String::from_utf8_lossy(&buffer[..count])
            );
        }
        Err(error) => println!("{target} failed {:?} {error}", error.kind()),
    }
    Ok(())
}
