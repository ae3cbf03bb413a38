//! `offramp dns`.

use std::time::{Duration, UNIX_EPOCH};

use offramp_control::{Answered, Client, Lookup, LookupEvent, NamesAnswer, NamesRequest};

use crate::arguments::Dns;
use crate::failure::{Failure, UNAVAILABLE};
use crate::output::{self, Cell, Table, Tone};

pub(crate) async fn run(client: &Client, arguments: Dns) -> Result<(), Failure> {
    if arguments.follow {
        return follow(client, &arguments).await;
    }
    let request = NamesRequest {
        name: arguments.name,
        profile: arguments.profile,
    };
    let answer = client.names(&request).await?;
    if arguments.json {
        output::print_json(&answer)
    } else {
        output::print(&render(&answer, output::colour()))
    }
}

async fn follow(client: &Client, wanted: &Dns) -> Result<(), Failure> {
    let mut stream = client.follow_lookups().await?;
    while let Some(event) = stream.next().await? {
        let is_wanted = match &event {
            LookupEvent::Answered { lookup } => is_wanted(lookup, wanted),
            LookupEvent::Missed { .. } => true,
        };
        if is_wanted {
            output::print_event(&event, wanted.json, line)?;
        }
    }
    Err(Failure::new(UNAVAILABLE, output::STREAM_ENDED))
}

fn is_wanted(lookup: &Lookup, wanted: &Dns) -> bool {
    let is = |wanted: &Option<String>, has: &str| wanted.as_ref().is_none_or(|text| text == has);
    let name = wanted.name.as_ref().is_none_or(|name| {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let above = lookup.name.to_ascii_lowercase();
        let above = above.strip_suffix(&name);
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
            || lookup.records.contains(&name)
    });
    name && is(&wanted.profile, &lookup.profile)
        && is(&wanted.app, output::program(&lookup.app))
        && wanted.pid.is_none_or(|pid| pid == lookup.app.pid)
}

/// The names, the addresses that are reached directly, and how many there are.
fn render(answer: &NamesAnswer, colour: bool) -> String {
    let mut text = match answer.names.is_empty() {
        true => "No address stands for a name at the moment.\n".to_owned(),
        false => names(answer, colour),
    };
    if answer.is_cut {
        text.push_str("There are more: name one, or a profile.\n");
    }
    if !answer.approved.is_empty() {
        text.push_str(&format!("\n{}", approved(answer, colour)));
    }
    if !answer.answers.is_empty() {
        text.push_str(&format!("\n{}", answers(answer, colour)));
    }
    for count in &answer.counts {
        let of = match count.profiles.is_empty() {
            true => "no profile at work".to_owned(),
            false => count.profiles.join(", "),
        };
        let line = format!(
            "{of}: {} names with an IPv4 address, {} with an IPv6 one, of {} each",
            count.ipv4, count.ipv6, count.most
        );
        text.push_str(&format!("\n{}", output::clean(&line)));
    }
    text + "\n"
}

fn names(answer: &NamesAnswer, colour: bool) -> String {
    let mut table = Table::new(["ADDRESS", "NAME", "ASKED BY", "UNUSED", "FLOWS", "PROFILES"]);
    for known in &answer.names {
        table.row([
            known.address.as_str().into(),
            known.name.as_str().into(),
            users(&known.users).into(),
            output::duration(known.unused_ms).into(),
            known.flows.to_string().into(),
            output::or_dash(Some(&known.profiles.join(", "))).into(),
        ]);
    }
    table.render(colour)
}

/// What is kept of the far side's answers.
fn answers(answer: &NamesAnswer, colour: bool) -> String {
    let mut table = Table::new([
        "KEPT", "TYPE", "ANSWER", "FOR", "ASKED", "KEPT FOR", "PROFILE",
    ]);
    for kept in &answer.answers {
        table.row([
            kept.name.as_str().into(),
            kept.kind.as_str().into(),
            format!("{}, {}", kept.code, output::bytes(kept.bytes)).into(),
            user(kept.user).into(),
            kept.server.as_str().into(),
            output::duration(kept.expires_ms).into(),
            kept.profile.as_str().into(),
        ]);
    }
    table.render(colour)
}

/// The addresses of excluded names.
fn approved(answer: &NamesAnswer, colour: bool) -> String {
    let mut table = Table::new(["DIRECT", "NAME", "ASKED BY", "STAYS", "PROFILES"]);
    for approved in &answer.approved {
        table.row([
            approved.address.as_str().into(),
            output::or_dash(Some(&approved.names.join(", "))).into(),
            users(&approved.users).into(),
            output::duration(approved.expires_ms).into(),
            approved.profiles.join(", ").into(),
        ]);
    }
    table.render(colour)
}

fn users(uids: &[u32]) -> String {
    let users: Vec<_> = uids.iter().map(|uid| user(*uid)).collect();
    output::or_dash(Some(&users.join(", ")))
}

fn user(uid: u32) -> String {
    match uid {
        0 => "root".to_owned(),
        uid => uid.to_string(),
    }
}

fn line(event: &LookupEvent) -> String {
    let lookup = match event {
        LookupEvent::Answered { lookup } => lookup,
        LookupEvent::Missed { count } => return output::missed(*count),
    };
    let mut table = Table::plain();
    let records = match lookup.records.is_empty() {
        true => String::new(),
        false => format!(" {}", lookup.records.join(", ")),
    };
    let text = format!(
        "{} {}[{}] user {} {} {} {}",
        time(lookup.time),
        output::program(&lookup.app),
        lookup.app.pid,
        user(lookup.app.uid),
        lookup.profile,
        lookup.kind,
        lookup.name,
    );
    let (word, tone) = word(lookup.answered);
    table.row([
        text.into(),
        Cell::toned(word, tone),
        Cell::toned(format!("{}{records}", lookup.code), tone_of(&lookup.code)),
        format!("{} µs", lookup.took_us).into(),
    ]);
    table.render(output::colour())
}

fn word(answered: Answered) -> (&'static str, Tone) {
    match answered {
        Answered::Synthetic => ("synthetic", Tone::Good),
        Answered::Here => ("here", Tone::Plain),
        Answered::System => ("system", Tone::Doubtful),
        Answered::Far => ("far", Tone::Good),
    }
}

fn tone_of(code: &str) -> Tone {
    match code {
        "No Error" | "Non-Existent Domain" => Tone::Plain,
        _ => Tone::Bad,
    }
}

/// The time of day, in UTC.
fn time(unix_ms: u64) -> String {
    let since = Duration::from_millis(unix_ms);
    let seconds = UNIX_EPOCH
        .checked_add(since)
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default()
        .as_secs()
        % 86_400;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!(
        "{hours:02}:{minutes:02}:{:02}.{:03}Z",
        seconds % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use offramp_control::{App, Approved, CachedAnswer, KnownName, NameCount};

    use super::*;

    fn lookup() -> Lookup {
        Lookup {
            time: 86_400_000 * 3 + 3_723_004,
            app: App {
                pid: 42,
                uid: 1000,
                executable: "/usr/bin/curl".into(),
                command: None,
            },
            profile: "work".into(),
            server: "127.0.0.53:53".into(),
            name: "www.example.com".into(),
            kind: "A".into(),
            answered: Answered::Synthetic,
            code: "No Error".into(),
            records: vec!["198.18.1.2".into()],
            took_us: 31,
        }
    }

    #[test]
    fn names_are_a_table() {
        let answer = NamesAnswer {
            names: vec![KnownName {
                address: "198.18.1.2".into(),
                name: "www.example.com".into(),
                profiles: vec!["work".into(), "home".into()],
                users: vec![0, 1000],
                unused_ms: 1500,
                flows: 2,
            }],
            is_cut: false,
            counts: vec![NameCount {
                profiles: vec!["work".into(), "home".into()],
                ipv4: 1,
                ipv6: 0,
                most: 120_000,
            }],
            answers: vec![CachedAnswer {
                name: "example.com".into(),
                kind: "MX".into(),
                user: 1000,
                server: "192.0.2.53:53".into(),
                profile: "work".into(),
                code: "No Error".into(),
                expires_ms: 90_000,
                bytes: 80,
            }],
            approved: vec![Approved {
                address: "192.0.2.1".into(),
                names: vec!["direct.example".into()],
                users: vec![0],
                expires_ms: 59_000,
                profiles: vec!["work".into()],
            }],
        };
        let expected = "\
ADDRESS     NAME             ASKED BY    UNUSED   FLOWS  PROFILES
198.18.1.2  www.example.com  root, 1000  1500 ms  2      work, home

DIRECT     NAME            ASKED BY  STAYS  PROFILES
192.0.2.1  direct.example  root      59 s   work

KEPT         TYPE  ANSWER          FOR   ASKED          KEPT FOR  PROFILE
example.com  MX    No Error, 80 B  1000  192.0.2.53:53  90 s      work

work, home: 1 names with an IPv4 address, 0 with an IPv6 one, of 120000 each
";
        assert_eq!(render(&answer, false), expected);
    }

    #[test]
    fn look_ups_are_lines() {
        let event = LookupEvent::Answered {
            lookup: Box::new(lookup()),
        };
        let expected = "01:02:03.004Z curl[42] user 1000 work A www.example.com  synthetic  \
                        No Error 198.18.1.2  31 µs\n";
        assert_eq!(line(&event), expected);
        let mut hostile = lookup();
        hostile.name = "\x1b[2J".into();
        assert!(
            !line(&LookupEvent::Answered {
                lookup: Box::new(hostile),
            })
            .contains('\x1b')
        );
    }

    #[test]
    fn look_ups_are_told_apart() {
        let wanted = |name: Option<&str>, app: Option<&str>, pid| Dns {
            name: name.map(ToOwned::to_owned),
            profile: None,
            follow: true,
            app: app.map(ToOwned::to_owned),
            pid,
            json: false,
        };
        for (is, wanted) in [
            (true, wanted(None, None, None)),
            (true, wanted(Some("Example.com."), Some("curl"), Some(42))),
            (true, wanted(Some("198.18.1.2"), None, None)),
            (false, wanted(Some("ample.com"), None, None)),
            (false, wanted(None, Some("/usr/bin/curl"), None)),
            (false, wanted(None, None, Some(7))),
        ] {
            assert_eq!(is_wanted(&lookup(), &wanted), is, "{wanted:?}");
        }
    }
}
