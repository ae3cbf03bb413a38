//! Names that addresses stand for: to whom, for how long, and how many there may be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use offramp_tests::addresses::DNS;
use offramp_tests::{
    Daemon, Gateway, Lab, PROFILE, Person, Running, User, binary, port, wait_until,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const ASK: &str = include_str!("names/ask.py");

/// What a program says that takes these steps, a line for each.
fn take(mut command: Command, steps: &[&str]) -> Vec<String> {
    command.args(["-c", ASK, &DNS.to_string()]).args(steps);
    let said = Running::start(command).finish(LIMIT).success();
    let said: Vec<_> = said.lines().map(ToOwned::to_owned).collect();
    assert_eq!(said.len(), steps.len(), "{said:?}");
    said
}

/// The same, by a program of root's under the lab's profile.
fn root(daemon: &Daemon<'_>, steps: &[&str]) -> Vec<String> {
    take(daemon.command_as(User::Root, "/usr/bin/python3"), steps)
}

/// The same, by a user's program.
fn user(daemon: &Daemon<'_>, person: &Person<'_>, steps: &[&str]) -> Vec<String> {
    let mut command = person.command(binary("offramp"));
    command.arg("--socket").arg(daemon.socket());
    command.args(["run", "--profile", PROFILE, "--", "/usr/bin/python3"]);
    take(command, steps)
}

/// The IPv4 and the IPv6 address that were told.
fn addresses(line: &str) -> (String, String) {
    let (v4, v6) = line.split_once(' ').expect("two addresses");
    assert!(v4.starts_with("198.1") && v6.starts_with("fd"), "{line}");
    (v4.to_owned(), v6.to_owned())
}

/// One of the same block that nobody has, close to the end.
fn nobodys(address: &str) -> String {
    match address.parse().expect("an address") {
        IpAddr::V4(_) => "198.19.254.255".to_owned(),
        IpAddr::V6(address) => {
            let last = u128::from(u64::MAX - 0xffff);
            Ipv6Addr::from_bits(address.to_bits() | last).to_string()
        }
    }
}

fn at(verb: &str, address: &str, port: u16) -> String {
    format!("{verb}:{address},{port}")
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn an_address_stands_for_nothing_to_who_has_not_asked() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let (eve, bob) = (Person::new(&lab, 4242), Person::new(&lab, 4343));
    let name = "secret.wild.test";
    let told = user(&daemon, &bob, &["look:secret.wild.test"]);
    let (v4, v6) = addresses(&told[0]);
    let capture = lab.capture();
    for address in [&v4, &v6] {
        let nobodys = nobodys(address);
        let steps = |address: &str| {
            [
                format!("back:{address}"),
                at("tcp", address, port::BANNER),
                at("silent", address, port::ECHO),
            ]
        };
        let own = steps(address);
        let own: Vec<_> = own.iter().map(String::as_str).collect();
        let unknown = steps(&nobodys);
        let unknown: Vec<_> = unknown.iter().map(String::as_str).collect();
        let counted = daemon.counter("unknown_names");
        let eves = user(&daemon, &eve, &own);
        assert_eq!(eves[1], "ConnectionResetError");
        assert_eq!(eves, user(&daemon, &eve, &unknown), "{nobodys}");
        wait_until("four flows are counted", LIMIT, || {
            daemon.counter("unknown_names") == counted + 4
        });
        let udp = at("udp", address, port::ECHO);
        let steps = [own[0], own[1], &udp];
        for said in [user(&daemon, &bob, &steps), root(&daemon, &steps)] {
            assert_eq!(said[0], name);
            assert!(said[1].starts_with("open 10.90.2.2"), "{said:?}");
            assert!(said[2].starts_with("said 10.90.2.2"), "{said:?}");
        }
        assert_eq!(daemon.counter("unknown_names"), counted + 4);
    }
    // Who asks too is told the same address, and sees it from then on.
    let back = format!("back:{v4}");
    let tcp = at("tcp", &v4, port::BANNER);
    let eves = user(&daemon, &eve, &["look:secret.wild.test", &back, &tcp]);
    assert_eq!(eves[..2], [told[0].clone(), name.to_owned()]);
    assert!(eves[2].starts_with("open "), "{eves:?}");
    daemons_go_on_as_another_user(&daemon, &eve);
    the_next_daemon_goes_on(&mut daemon, &eve, &bob);
    capture.packets().assert_only_gateway();
}

/// What root has asked for is for all: daemons look up as root, and connect as another.
fn daemons_go_on_as_another_user(daemon: &Daemon<'_>, eve: &Person<'_>) {
    let told = root(daemon, &["look:roots.wild.test"]);
    let (v4, v6) = addresses(&told[0]);
    let tcp = [at("tcp", &v4, port::BANNER), at("tcp", &v6, port::BANNER)];
    let said = root(daemon, &["become:4545", &tcp[0], &tcp[1]]);
    let back = format!("back:{v6}");
    let eves = user(daemon, eve, &[&back, &tcp[0]]);
    assert_eq!(eves[0], "roots.wild.test");
    for said in [&said[1], &said[2], &eves[1]] {
        assert!(said.starts_with("open "), "{said}");
    }
}

/// The daemon that takes over knows who has asked, and which addresses flows of the old one use.
fn the_next_daemon_goes_on(daemon: &mut Daemon<'_>, eve: &Person<'_>, bob: &Person<'_>) {
    let told = user(daemon, bob, &["look:bobs.wild.test"]);
    let (v4, _) = addresses(&told[0]);
    let keeps = keep(daemon, &v4);
    let flows = |daemon: &Daemon<'_>| {
        let said = daemon.offramp(&["dns", "--json", &v4]);
        read(said)["names"][0]["flows"].clone()
    };
    wait_until("the flow holds the address", LIMIT, || flows(daemon) == 1);
    let old = daemon.take_over();
    assert_eq!(flows(daemon), 1, "the old daemon's flow");
    let steps = [format!("back:{v4}"), at("tcp", &v4, port::BANNER)];
    let steps = [steps[0].as_str(), steps[1].as_str()];
    let bobs = user(daemon, bob, &steps);
    assert_eq!(bobs[0], "bobs.wild.test");
    assert!(bobs[1].starts_with("open "), "{bobs:?}");
    let eves = user(daemon, eve, &steps);
    assert!(eves[0].starts_with("code 3"), "{eves:?}");
    assert_eq!(eves[1], "ConnectionResetError");
    drop(keeps);
    wait_until("nothing holds the address", LIMIT, || flows(daemon) == 0);
    old.finish(LIMIT).success();
}

/// A flow of root's that stays open.
fn keep(daemon: &Daemon<'_>, address: &str) -> Running {
    let mut command = daemon.command_as(User::Root, "/usr/bin/python3");
    let step = at("keep", address, port::BANNER);
    command.args(["-c", ASK, &DNS.to_string(), &step]);
    Running::start({
        command.stdin(Stdio::piped());
        command
    })
}

/// Follows look-ups, as JSON.
fn follow(mut command: Command, daemon: &Daemon<'_>, more: &[&str]) -> Running {
    command.arg("--socket").arg(daemon.socket());
    command.args(["dns", "--follow", "--json"]).args(more);
    Running::start(command)
}

/// What was heard: user, name, type and where the answer is from.
type Heard = (u64, String, String, String);

fn heard(follower: &Running) -> Vec<Heard> {
    let said = follower.said();
    let events = said
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = events.map(|event| {
        let lookup = &event["lookup"];
        assert!(text(&lookup["app"]["executable"]).contains('/'), "{event}");
        assert_eq!(lookup["profile"], PROFILE, "{event}");
        assert_eq!(lookup["server"], format!("{DNS}:53"), "{event}");
        (
            lookup["app"]["uid"].as_u64().expect("a number"),
            text(&lookup["name"]),
            text(&lookup["kind"]),
            text(&lookup["answered"]),
        )
    });
    events.collect()
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn offramp_dns_shows_to_each_what_is_theirs() {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let daemon = Daemon::start(&lab);
    let (eve, bob) = (Person::new(&lab, 4242), Person::new(&lab, 4343));
    let offramp = binary("offramp");
    let of_root = || lab.client().command(&offramp);
    let roots = follow(of_root(), &daemon, &[]);
    let eves = follow(eve.command(&offramp), &daemon, &[]);
    let some = follow(
        of_root(),
        &daemon,
        &["bobs.wild.test", "--app", "python3.11"],
    );
    // From here on each of them hears what there is to hear.
    wait_until("all follow", LIMIT, || {
        user(&daemon, &eve, &["look:begin.wild.test"]);
        user(&daemon, &bob, &["look:bobs.wild.test"]);
        let all = [&roots, &eves, &some];
        all.iter().all(|follower| !follower.said().is_empty())
    });
    user(&daemon, &eve, &["look:eves.wild.test", "back:127.0.0.1"]);
    let line = ["dig", "+short", "+tries=1", "+time=10"];
    let asked = ["excluded.test", "A", "origin.test", "TXT"];
    daemon.run(&[&line[..], &asked].concat()).success();
    let expected = [
        (4242, "eves.wild.test", "A", "synthetic"),
        (4242, "eves.wild.test", "AAAA", "synthetic"),
        (4242, "1.0.0.127.in-addr.arpa", "PTR", "here"),
        (0, "excluded.test", "A", "system"),
        (0, "origin.test", "TXT", "far"),
    ];
    let expected: [Heard; 5] =
        expected.map(|(uid, name, kind, by)| (uid, name.into(), kind.into(), by.into()));
    let all = |follower, expected: &[Heard]| {
        let heard = heard(follower);
        expected.iter().all(|event| heard.contains(event))
    };
    wait_until("root has heard all", LIMIT, || all(&roots, &expected));
    wait_until("eve has heard hers", LIMIT, || all(&eves, &expected[..3]));
    assert!(
        heard(&eves).iter().all(|event| event.0 == 4242),
        "{}",
        eves.said()
    );
    let named = |event: &Heard| event.1 == "bobs.wild.test";
    assert!(heard(&some).iter().all(named), "{}", some.said());
    the_map(&daemon, &eve, &bob);
    explained(&daemon, &eve, &bob);
}

fn read(said: offramp_tests::Finished) -> Value {
    serde_json::from_str(&said.success()).expect("JSON was asked for")
}

/// Each name of an answer, with who has asked.
fn names(answer: &Value) -> Vec<(String, Value)> {
    let names = answer["names"].as_array().expect("a list").iter();
    let name = |known: &Value| known["name"].as_str().expect("a name").to_owned();
    names
        .map(|known| (name(known), known["users"].clone()))
        .collect()
}

/// Names by address: each user's own, and all for root.
fn the_map(daemon: &Daemon<'_>, eve: &Person<'_>, bob: &Person<'_>) {
    let all = names(&read(daemon.offramp(&["dns", "--json"])));
    for (name, user) in [("bobs.wild.test", 4343), ("eves.wild.test", 4242)] {
        let known = (name.to_owned(), json!([user]));
        assert_eq!(
            all.iter().filter(|other| **other == known).count(),
            2,
            "{all:?}"
        );
    }
    let of_eve = read(eve.offramp(daemon, &["dns", "--json"]));
    let is_bobs = |(name, _): &(String, Value)| name == "bobs.wild.test";
    assert!(!names(&of_eve).iter().any(is_bobs), "{of_eve}");
    assert_eq!(names(&of_eve).len(), 4, "{of_eve}");
    let counts = &of_eve["counts"][0];
    assert_eq!(
        (&counts["ipv4"], &counts["most"]),
        (&json!(2), &json!(30_000))
    );
    assert_eq!(of_eve["approved"], json!([]));
    assert_eq!(of_eve["answers"], json!([]));
    let of_bob = read(bob.offramp(daemon, &["dns", "--json", "wild.test"]));
    assert_eq!(names(&of_bob).len(), 2, "{of_bob}");
    let v4 = |known: &&Value| known["address"].as_str().is_some_and(|a| a.contains('.'));
    let known = of_bob["names"].as_array().expect("a list").iter().find(v4);
    let address = known
        .and_then(|known| known["address"].as_str())
        .expect("an address");
    for (person, count) in [(eve, 0), (bob, 1)] {
        let said = read(person.offramp(daemon, &["dns", "--json", address]));
        assert_eq!(names(&said).len(), count, "{said}");
    }
    let text = daemon.offramp(&["dns"]).success();
    assert!(text.contains("bobs.wild.test"), "{text}");
    // A flow is counted for as long as it is open.
    let keeps = keep(daemon, address);
    let flows = || read(daemon.offramp(&["dns", "--json", address]))["names"][0]["flows"].clone();
    wait_until("the flow holds the address", LIMIT, || flows() == 1);
    let seen = read(bob.offramp(daemon, &["dns", "--json", address]));
    assert_eq!(seen["names"][0]["flows"], 0, "it is root's: {seen}");
    drop(keeps);
    wait_until("nothing holds the address", LIMIT, || flows() == 0);
}

/// `explain` tells which addresses stand for a name, to who has asked.
fn explained(daemon: &Daemon<'_>, eve: &Person<'_>, bob: &Person<'_>) {
    let line = ["explain", "--name", "bobs.wild.test"];
    let explain = |person: &Person<'_>| person.offramp(daemon, &line).success();
    let (to_eve, to_bob) = (explain(eve), explain(bob));
    assert!(to_bob.contains("stands for the name (198.1"), "{to_bob}");
    let none = "none yet: no app of user 4242 has asked";
    assert!(to_eve.contains(none), "{to_eve}");
}

/// All of them have addresses of their own, and the same ones again when the daemon was killed in
/// between, also where nobody asks again.
#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn a_hundred_thousand_names_and_a_restart() {
    const NAMES: usize = 100_000;
    const SOME: usize = 2_000;
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let mut daemon = Daemon::start(&lab);
    let eve = Person::new(&lab, 4242);
    let file = |name: &str| lab.directory().join(name).display().to_string();
    let (v4, v6) = (file("v4"), file("v6"));
    let steps = |count: usize| {
        [
            format!("many:{v4},{count},1"),
            format!("many:{v6},{SOME},28"),
        ]
    };
    let ask = |daemon: &Daemon<'_>, count: usize| {
        let steps = steps(count);
        let said = root(daemon, &[&steps[0], &steps[1]]);
        let all = |count| format!("{count} different, 0 changed, 0 failed");
        assert_eq!(said, [all(count), all(SOME)]);
    };
    let capture = lab.capture_only("port 53");
    ask(&daemon, NAMES);
    ask(&daemon, SOME);
    let of_eve = user(&daemon, &eve, &["look:eves.wild.test"]);
    let (eves, _) = addresses(&of_eve[0]);
    let told = std::fs::read(&v4).expect("the program has written it");
    let first = Ipv4Addr::new(told[0], told[1], told[2], told[3]).to_string();
    let back = format!("back:{first}");
    let tcp = [&first, &eves].map(|address| at("tcp", address, port::BANNER));
    let saved = || {
        let state = std::fs::read_dir(daemon.directory().join("state"));
        let files = state.expect("the daemon has made it").flatten();
        let mut texts = files.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default());
        texts.any(|text| text.contains("\neves.wild.test "))
    };
    wait_until("the names are saved", LIMIT, saved);
    daemon.process().signal(Signal::SIGKILL);
    daemon.start_again();
    let said = root(&daemon, &[&back, &tcp[0], &tcp[1]]);
    assert_eq!(said[0], "n000000.wild.test");
    assert!(
        said[1].starts_with("open ") && said[2].starts_with("open "),
        "{said:?}"
    );
    let said = user(&daemon, &eve, &[&tcp[1]]);
    assert!(said[0].starts_with("open "), "{said:?}");
    ask(&daemon, SOME);
    daemon.stop();
    daemon.start_again();
    let said = user(&daemon, &eve, &[&back, &tcp[1]]);
    assert_eq!(said[0], "n000000.wild.test", "root's names are for all");
    assert!(said[1].starts_with("open "), "{said:?}");
    capture.packets().assert_only(|_| false);
}
