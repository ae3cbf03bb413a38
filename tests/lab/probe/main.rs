//! `offramp-probe`: the small client of the suites, for the sockets that no common program opens.
//!
//! It prints one line for each thing that it saw and never decides whether that is right.

#![expect(clippy::print_stdout, reason = "a test reads what it prints")]

mod bulk;
mod heir;
mod hold;
mod lookups;
mod many;
mod socket;
mod starts;
mod steady;
mod traffic;
mod ways;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};

const USAGE: &str = "offramp-probe tcp|udp [OPTION…] TARGET…, upload|download|ends-first TARGET \
                     BYTES, open|short COUNT TARGET…, starts same|fresh|replaced COUNT PROGRAM, \
                     hold TARGET TARGET6 UDP-TARGET, steady FLOWS MAKERS TARGET UDP-TARGET NAME, \
                     lookups RESOLVER DOMAIN OUTSTANDING MILLISECONDS, \
                     heir SOCKET nothing|garbage|other|offer|state, \
                     traffic MILLISECONDS BANNER UDP-ECHO NAME:PORT [COMMAND…], \
                     ways list|at-start|at-work COMMAND…";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = arguments.split_first() else {
        bail!(USAGE)
    };
    match command.as_str() {
        "tcp" => socket::tcp(&socket::Options::parse(rest)?),
        "udp" => socket::udp(&socket::Options::parse(rest)?),
        "upload" | "download" | "ends-first" => {
            let [target, bytes] = rest else { bail!(USAGE) };
            let (target, bytes) = (
                address(target)?,
                bytes.parse().context("a number of bytes")?,
            );
            match command.as_str() {
                "upload" => bulk::upload(target, bytes),
                "download" => bulk::download(target, bytes),
                _ => bulk::ends_first(target, bytes),
            }
        }
        "hold" | "hold-child" => {
            let [four, six, udp] = rest else { bail!(USAGE) };
            let targets = hold::Targets {
                four: address(four)?,
                six: address(six)?,
                udp: address(udp)?,
            };
            match command.as_str() {
                "hold" => hold::hold(targets),
                _ => hold::child(targets),
            }
        }
        "heir" => {
            let [socket, step] = rest else { bail!(USAGE) };
            heir::heir(socket.as_ref(), step)
        }
        "steady" => {
            let [flows, makers, tcp, udp, name] = rest else {
                bail!(USAGE)
            };
            let count = |text: &String| text.parse().context("a number");
            steady::steady(
                count(flows)?,
                count(makers)?,
                address(tcp)?,
                address(udp)?,
                name,
            )
        }
        "ways" => ways::ways(rest),
        "way" => ways::way(rest),
        "way-launch" => ways::launch_one(rest),
        "way-as" => ways::say_as(rest),
        "way-hold" => ways::hold(),
        "way-open" => ways::open_and_tell(rest),
        "starts" => {
            let [way, count, program] = rest else {
                bail!(USAGE)
            };
            let count = count.parse().context("a number of starts")?;
            starts::starts(way, count, program.as_ref())
        }
        "traffic" => {
            let [patience, banner, echo, name, commands @ ..] = rest else {
                bail!(USAGE)
            };
            let traffic = traffic::Traffic {
                patience: Duration::from_millis(patience.parse().context("milliseconds")?),
                banner: address(banner)?,
                echo: address(echo)?,
                name: name.clone(),
                commands: commands.to_vec(),
            };
            traffic.go_on()
        }
        "lookups" => {
            let [resolver, domain, outstanding, milliseconds] = rest else {
                bail!(USAGE)
            };
            let milliseconds = milliseconds.parse().context("milliseconds")?;
            let outstanding = outstanding.parse().context("a number of look-ups")?;
            let duration = Duration::from_millis(milliseconds);
            lookups::lookups(address(resolver)?, domain, outstanding, duration)
        }
        "open" | "short" => {
            let Some((count, targets)) = rest.split_first() else {
                bail!(USAGE)
            };
            let count = count.parse().context("a number of flows")?;
            let targets = targets
                .iter()
                .map(|target| address(target))
                .collect::<Result<_, _>>()?;
            match command.as_str() {
                "open" => many::open(count, targets),
                _ => many::short(count, targets),
            }
        }
        _ => bail!(USAGE),
    }
}

fn address(text: &str) -> anyhow::Result<SocketAddr> {
    text.parse()
        .with_context(|| format!("{text} is no address and port"))
}
