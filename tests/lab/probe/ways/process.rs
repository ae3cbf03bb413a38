//! Processes that try to be somebody else.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getppid, setsid};

use super::{Outcome, Said, Target, raw, tcp, udp};

/// What the suite has told by a variable of the environment.
fn told(name: &str) -> io::Result<PathBuf> {
    let value = std::env::var_os(name).ok_or(io::ErrorKind::NotFound)?;
    Ok(value.into())
}

/// Another program does it, and says so for us.
fn by_program(program: &Path, target: Target, held: bool) -> Outcome {
    let mut command = Command::new(program);
    command.args(["way-as", &target.0.to_string()]);
    if !held {
        command.env_remove("HELD");
    }
    let ended = command.output()?;
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    match said.trim().split_once(' ') {
        Some(("seen", peer)) => Ok(Said::Seen(peer.parse().map_err(io::Error::other)?)),
        Some(("refused", number)) => {
            let number = number.parse().map_err(io::Error::other)?;
            Err(io::Error::from_raw_os_error(number))
        }
        _ => Err(io::Error::other(format!("{said}{ended:?}"))),
    }
}

/// The other program.
pub(crate) fn say_as(number: u8) {
    match tcp::four(Target(number), Vec::new()) {
        Ok(Said::Seen(peer)) => println!("seen {peer}"),
        Ok(other) => println!("other {other:?}"),
        Err(error) => println!("refused {}", error.raw_os_error().unwrap_or(libc::EIO)),
    }
}

pub(super) fn child(target: Target, _: Vec<OwnedFd>) -> Outcome {
    by_program(&told("PLAIN")?, target, false)
}

pub(super) fn setuid(target: Target, _: Vec<OwnedFd>) -> Outcome {
    by_program(&told("SETUID")?, target, false)
}

pub(super) fn thread(target: Target, held: Vec<OwnedFd>) -> Outcome {
    let thread = std::thread::spawn(move || udp::four(target, held));
    thread
        .join()
        .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

/// Waits until nobody that started us is left.
fn be_orphan() {
    let parent = getppid();
    // Bounded: whoever started us returns at once.
    for _ in 0..30_000 {
        if getppid() != parent || parent.as_raw() <= 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Forked twice, in a session of its own.
pub(super) fn daemon(target: Target, held: Vec<OwnedFd>) -> Outcome {
    if !raw::fork()? {
        return Ok(Said::Elsewhere);
    }
    setsid()?;
    if !raw::fork()? {
        return Ok(Said::Elsewhere);
    }
    be_orphan();
    tcp::four(target, held)
}

/// A socket that a child keeps when its parent has ended.
pub(super) fn orphan(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let kept = udp::socket(socket2::Domain::IPV4)?;
    kept.connect(&target.udp4().into())?;
    if !raw::fork()? {
        return Ok(Said::Elsewhere);
    }
    be_orphan();
    kept.send(b"out")?;
    udp::echo(&kept)
}

/// Where the control groups are.
fn groups() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut lines = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let found = lines.find(|line| line.get(2) == Some(&"cgroup2"));
    let path = found.and_then(|line| line.get(1).map(PathBuf::from));
    path.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn join(group: &Path) -> io::Result<()> {
    let mut file = fs::File::options()
        .write(true)
        .open(group.join("cgroup.procs"))?;
    file.write_all(b"0")
}

fn own_group() -> io::Result<PathBuf> {
    let groups = groups()?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    Ok(groups.join(own.unwrap_or_default()))
}

/// In a control group of its own.
pub(super) fn group(target: Target, held: Vec<OwnedFd>) -> Outcome {
    let before = own_group()?;
    let group = groups()?.join(format!("offramp-way-{}", std::process::id()));
    fs::create_dir(&group)?;
    let outcome = join(&group).and_then(|()| tcp::four(target, held));
    join(&before)?;
    fs::remove_dir(&group)?;
    outcome
}

/// As far as a user may move.
pub(super) fn group_of_user(target: Target, held: Vec<OwnedFd>) -> Outcome {
    if join(&groups()?).is_ok() {
        return Err(io::Error::other("a user has left a control group"));
    }
    tcp::four(target, held)
}

pub(super) fn user_namespace(target: Target, held: Vec<OwnedFd>) -> Outcome {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    tcp::four(target, held)
}

pub(super) fn network_namespace(target: Target, held: Vec<OwnedFd>) -> Outcome {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    tcp::four(target, held)
}

/// A socket of the machine's network in a program that has left it.
pub(super) fn carried(target: Target, _: Vec<OwnedFd>) -> Outcome {
    let socket = tcp::socket(target.tcp4())?;
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    tcp::open(socket, target.tcp4())
}

fn enter(namespace: &Path) -> io::Result<()> {
    let file = fs::File::open(namespace)?;
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
    Ok(())
}

/// The network of another machine of the lab.
pub(super) fn other_network(target: Target, held: Vec<OwnedFd>) -> Outcome {
    enter(&told("OTHER_NETWORK")?)?;
    tcp::four(target, held)
}

/// Where the daemon's listeners are.
pub(super) fn inner_network(target: Target, held: Vec<OwnedFd>) -> Outcome {
    enter(&told("INNER_NETWORK")?)?;
    udp::four(target, held)
}
