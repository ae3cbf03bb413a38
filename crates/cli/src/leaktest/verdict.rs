//! What came of a door, from what was seen.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use offramp_control::Way;
use serde::Serialize;

use super::attempt::{Attempt, Outcome};
use super::doors::{Kind, Via};

/// What captured sockets have as their address.
const OURS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1)),
];
/// The bits of a mark that say the class.
const CLASS_BITS: u32 = 0xfff0_0000;

/// What came of a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// It leads to the daemon.
    Captured,
    /// It is shut.
    Refused,
    /// It leads straight to the target, as the profile says.
    Direct,
    /// It leads past the proxy.
    Leaked,
    /// Nothing shows where it leads.
    Unclear,
    /// It is not there.
    Absent,
}

/// What is known besides what the process itself saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// The device on which a packet left.
    pub(super) wire: Option<String>,
    /// Whether the devices were watched.
    pub(super) is_watched: bool,
    /// Whether there is no network behind it.
    pub(super) is_offline: bool,
    /// What the daemon did with it.
    pub(super) flow: Option<Way>,
    /// Whether the profile says that the target is reached directly.
    pub(super) is_direct: bool,
}

/// The verdict, and why.
pub(super) fn judge(kind: Kind, attempt: &Attempt, evidence: &Evidence) -> (Verdict, String) {
    if let Outcome::Skipped(why) = &attempt.outcome {
        return (Verdict::Absent, why.clone());
    }
    if let Some(device) = &evidence.wire {
        return out(evidence, format!("seen on the wire of {device}"));
    }
    match evidence.flow {
        Some(Way::Direct) => return (Verdict::Direct, "the daemon reached it directly".to_owned()),
        Some(Way::Relay) => return (Verdict::Captured, with(attempt, "the daemon relays it")),
        // It may not have been decided yet.
        Some(Way::Refused) if evidence.is_direct => {
            let how = "the daemon reaches it directly, as the profile says";
            return (Verdict::Direct, how.to_owned());
        }
        Some(Way::Refused) => return (Verdict::Captured, "it came to the daemon".to_owned()),
        None => {}
    }
    match &attempt.outcome {
        Outcome::Refused(errno) => refused(*errno, attempt, evidence),
        Outcome::Opened => opened(kind, evidence),
        Outcome::Resolved(address) if is_stand_in(*address) => (
            Verdict::Captured,
            format!("answered with {address}, which stands for the name"),
        ),
        _ if kind == Kind::Bus => {
            let how = "systemd-resolved takes questions there, from every program";
            out(evidence, with(attempt, how))
        }
        _ => by_socket(kind, attempt, evidence),
    }
}

fn out(evidence: &Evidence, how: String) -> (Verdict, String) {
    match evidence.is_direct {
        true => (Verdict::Direct, format!("{how}, as the profile says")),
        false => (Verdict::Leaked, how),
    }
}

fn refused(errno: i32, attempt: &Attempt, evidence: &Evidence) -> (Verdict, String) {
    let errno = Errno::from_raw(errno);
    let text = match attempt.took {
        0..100 => format!("{errno:?} at once"),
        took => format!("{errno:?} after {took} ms"),
    };
    // Before anything is sent; the network says none of these, or not where there is none.
    let at_home = matches!(
        errno,
        Errno::EPERM | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL
    ) || errno == Errno::ENETUNREACH && evidence.is_offline;
    if at_home || is_marked(attempt) || evidence.is_watched || attempt.trace.target.is_none() {
        return (Verdict::Refused, text);
    }
    out(evidence, format!("{text}, by the network"))
}

fn opened(kind: Kind, evidence: &Evidence) -> (Verdict, String) {
    match kind {
        Kind::Service(path) => out(evidence, format!("{path} takes questions")),
        _ => out(evidence, "it can be opened".to_owned()),
    }
}

fn by_socket(kind: Kind, attempt: &Attempt, evidence: &Evidence) -> (Verdict, String) {
    let local = attempt.trace.local.map(|local| local.ip().to_canonical());
    let bound = matches!(kind, Kind::Tcp(_, Via::Own) | Kind::Udp(_, Via::Own));
    let silent = attempt.outcome == Outcome::Silent;
    match local {
        Some(local) if OURS.contains(&local) => {
            return (Verdict::Captured, with(attempt, &format!("from {local}")));
        }
        Some(local) if is_foreign(local) && !bound && !(is_marked(attempt) && silent) => {
            return out(
                evidence,
                with(attempt, &format!("it went out from {local}")),
            );
        }
        _ if evidence.is_direct => return out(evidence, with(attempt, "it went out")),
        _ => {}
    }
    match (is_marked(attempt), silent) {
        (true, false) => (Verdict::Captured, with(attempt, "its socket is marked")),
        (true, true) if evidence.is_watched => (
            Verdict::Refused,
            "no answer, and nothing on the wire".to_owned(),
        ),
        (false, _) if attempt.trace.target.is_some() && !evidence.is_watched => {
            out(evidence, with(attempt, "its socket is not marked"))
        }
        _ => (
            Verdict::Unclear,
            with(attempt, "nothing shows where it went"),
        ),
    }
}

/// A source by which packets leave.
fn is_foreign(local: IpAddr) -> bool {
    !local.is_unspecified() && !local.is_loopback()
}

fn is_marked(attempt: &Attempt) -> bool {
    let mark = attempt.trace.mark;
    mark & CLASS_BITS != 0 && mark & !CLASS_BITS == 0
}

/// The addresses that stand for names, unless a profile has others.
fn is_stand_in(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 198 && v4.octets()[1] & 0xfe == 18)
}

fn with(attempt: &Attempt, how: &str) -> String {
    match &attempt.outcome {
        Outcome::Answered(what) => format!("{how}; {what}"),
        Outcome::Resolved(address) => format!("{how}; answered with {address}"),
        _ => how.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaktest::attempt::Trace;
    use crate::leaktest::doors::{Family, Resolver};

    const MARK: u32 = 1 << 20;
    const TCP: Kind = Kind::Tcp(Family::V4, Via::Default);
    const BOUND: Kind = Kind::Tcp(Family::V4, Via::Own);
    const UDP: Kind = Kind::Udp(Family::V4, Via::Default);
    const LOOKUP: Kind = Kind::Lookup(Resolver::Configured);

    fn attempt(local: &str, mark: u32, outcome: Outcome) -> Attempt {
        Attempt {
            door: 0,
            trace: Trace {
                local: local.parse().ok(),
                target: Some("192.0.2.1:443".parse().unwrap()),
                mark,
            },
            outcome,
            took: 1,
        }
    }

    fn known(watched: bool, wire: bool, flow: Option<Way>, direct: bool) -> Evidence {
        Evidence {
            wire: wire.then(|| "eth0".to_owned()),
            is_watched: watched,
            is_offline: false,
            flow,
            is_direct: direct,
        }
    }

    #[test]
    fn verdicts_follow_what_was_seen() {
        use Outcome::{Connected, Opened, Refused, Resolved, Silent, Skipped};
        let nothing = || known(false, false, None, false);
        let watched = || known(true, false, None, false);
        let (none_at_all, offline) = (
            Errno::ENETUNREACH as i32,
            Evidence {
                is_offline: true,
                ..nothing()
            },
        );
        let wire = |direct| known(true, true, None, direct);
        let (ours, own, none) = ("198.18.0.1:5", "10.0.0.5:5", "0.0.0.0:5");
        let (refused, unreachable) = (Errno::ECONNREFUSED as i32, Errno::EHOSTUNREACH as i32);
        let stand_in = Resolved("198.19.3.4".parse().unwrap());
        let foreign = Resolved("203.0.113.4".parse().unwrap());
        let text = Outcome::Answered("no such name".to_owned());
        for (kind, attempt, evidence, verdict) in [
            (
                TCP,
                attempt(ours, MARK, Connected),
                nothing(),
                Verdict::Captured,
            ),
            (TCP, attempt(own, 0, Connected), nothing(), Verdict::Leaked),
            (
                TCP,
                attempt(own, 0, Connected),
                known(false, false, None, true),
                Verdict::Direct,
            ),
            (
                TCP,
                attempt(own, MARK, Connected),
                nothing(),
                Verdict::Leaked,
            ),
            (TCP, attempt(own, 0, Silent), nothing(), Verdict::Leaked),
            (TCP, attempt(own, MARK, Silent), watched(), Verdict::Refused),
            (TCP, attempt(own, MARK, Silent), nothing(), Verdict::Unclear),
            (
                TCP,
                attempt(ours, MARK, Connected),
                wire(false),
                Verdict::Leaked,
            ),
            (
                TCP,
                attempt(own, MARK, Connected),
                wire(true),
                Verdict::Direct,
            ),
            (
                TCP,
                attempt(none, MARK, Refused(refused)),
                nothing(),
                Verdict::Refused,
            ),
            (
                TCP,
                attempt(none, 0, Refused(unreachable)),
                nothing(),
                Verdict::Leaked,
            ),
            (
                TCP,
                attempt(none, 0, Refused(unreachable)),
                watched(),
                Verdict::Refused,
            ),
            (
                BOUND,
                attempt(own, MARK, Connected),
                nothing(),
                Verdict::Captured,
            ),
            (
                BOUND,
                attempt(own, 0, Connected),
                nothing(),
                Verdict::Leaked,
            ),
            (
                UDP,
                attempt(none, MARK, Silent),
                known(false, false, Some(Way::Relay), false),
                Verdict::Captured,
            ),
            (
                UDP,
                attempt(none, MARK, Silent),
                known(false, false, Some(Way::Direct), false),
                Verdict::Direct,
            ),
            (
                UDP,
                attempt(none, MARK, Silent),
                nothing(),
                Verdict::Unclear,
            ),
            (UDP, attempt(none, 0, Silent), nothing(), Verdict::Leaked),
            (
                LOOKUP,
                attempt(none, 0, stand_in.clone()),
                nothing(),
                Verdict::Captured,
            ),
            (
                LOOKUP,
                attempt(none, MARK, foreign.clone()),
                nothing(),
                Verdict::Captured,
            ),
            (
                LOOKUP,
                attempt(none, 0, foreign.clone()),
                nothing(),
                Verdict::Leaked,
            ),
            (
                LOOKUP,
                attempt(none, 0, text.clone()),
                nothing(),
                Verdict::Leaked,
            ),
            (
                Kind::Packet,
                attempt("", 0, Opened),
                watched(),
                Verdict::Leaked,
            ),
            (
                Kind::Service("/x"),
                attempt("", 0, Opened),
                nothing(),
                Verdict::Leaked,
            ),
            (
                Kind::Service("/x"),
                attempt("", 0, Opened),
                known(false, false, None, true),
                Verdict::Direct,
            ),
            (Kind::Bus, attempt("", 0, text), nothing(), Verdict::Leaked),
            (
                Kind::Bus,
                attempt("", 0, Silent),
                nothing(),
                Verdict::Leaked,
            ),
            (
                Kind::Bus,
                attempt("", 0, foreign),
                nothing(),
                Verdict::Leaked,
            ),
            (
                Kind::Bus,
                attempt("", 0, stand_in),
                nothing(),
                Verdict::Captured,
            ),
            (
                Kind::Bus,
                attempt("", 0, Skipped("no".into())),
                nothing(),
                Verdict::Absent,
            ),
            (
                TCP,
                attempt(none, 0, Refused(none_at_all)),
                nothing(),
                Verdict::Leaked,
            ),
            (
                TCP,
                attempt(none, 0, Refused(none_at_all)),
                offline,
                Verdict::Refused,
            ),
            (
                UDP,
                attempt(none, MARK, Silent),
                known(false, false, None, true),
                Verdict::Direct,
            ),
        ] {
            let told = judge(kind, &attempt, &evidence);
            assert_eq!(
                told.0, verdict,
                "{kind:?} {attempt:?} {evidence:?}: {told:?}"
            );
        }
    }
}
