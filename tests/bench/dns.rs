//! Synthetic answers against those of dnsmasq from its cache: the same client asks the same address,
//! once unmanaged and once managed, by turns.

use std::time::Duration;

use anyhow::Context;
use offramp_tests::{Daemon, Gateway, Lab, Running, binary, wait_until};
use serde_json::json;

use crate::Options;
use crate::rounds::Rounds;

/// The stub resolver that the client asks, and whom that asks.
const RESOLVER: &str = "127.0.0.53";
const SOURCE: &str = "127.0.0.54";
const DOMAIN: &str = "names.test";
/// How many look-ups the client has under way.
const OUTSTANDING: [u16; 2] = [64, 1];
const LIMIT: Duration = Duration::from_secs(60);

/// What is measured of one server with one number of look-ups under way.
#[derive(Default)]
struct Figures {
    /// Answers in a second.
    rate: Rounds,
    /// Microseconds of processor time of the server for an answer.
    processor: Rounds,
    lost: u64,
}

pub(crate) fn measure(options: &Options) -> anyhow::Result<()> {
    let lab = Lab::new();
    let _gateway = Gateway::start(&lab);
    let _source = dnsmasq(
        &lab,
        SOURCE,
        &["--address=/test/203.0.113.13", "--local-ttl=86400"],
    );
    let upstream = format!("--server={SOURCE}");
    let cache = dnsmasq(
        &lab,
        RESOLVER,
        &[&upstream, "--cache-size=10000", "--dns-forward-max=1000"],
    );
    let mut daemon = Daemon::start(&lab);
    let servers = [("dnsmasq", cache.id()), ("offrampd", daemon.process().id())];
    let mut figures: [[Figures; 2]; 2] = Default::default();
    for round in 0..=options.rounds {
        for (figures, outstanding) in figures.iter_mut().zip(OUTSTANDING) {
            for (figures, (server, pid)) in figures.iter_mut().zip(servers) {
                let client = client(&lab, &daemon, server, outstanding, options.milliseconds);
                let before = processor_time(pid)?;
                let said = Running::start(client).finish(LIMIT).success();
                let spent = processor_time(pid)? - before;
                // The first round fills caches.
                if round > 0 {
                    figures.add(&said, spent)?;
                }
            }
        }
    }
    match options.json {
        true => println!("{}", as_json(&figures)),
        false => print(&figures),
    }
    Ok(())
}

impl Figures {
    fn add(&mut self, said: &str, spent: Duration) -> anyhow::Result<()> {
        let numbers: Vec<u64> = said
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let [answered, lost, microseconds] = numbers[..] else {
            anyhow::bail!("the client said {said}");
        };
        let answered = answered as f64;
        self.rate.add(answered / (microseconds as f64 / 1e6));
        self.processor.add(spent.as_secs_f64() * 1e6 / answered);
        self.lost += lost;
        Ok(())
    }
}

fn client(
    lab: &Lab,
    daemon: &Daemon<'_>,
    server: &str,
    outstanding: u16,
    milliseconds: u64,
) -> std::process::Command {
    let probe = binary("offramp-probe");
    let mut command = match server {
        "offrampd" => daemon.command_as(offramp_tests::User::Root, &probe.display().to_string()),
        _ => lab.client().command(probe),
    };
    let (resolver, outstanding) = (format!("{RESOLVER}:53"), outstanding.to_string());
    command.args([
        "lookups",
        &resolver,
        DOMAIN,
        &outstanding,
        &milliseconds.to_string(),
    ]);
    command
}

fn dnsmasq(lab: &Lab, address: &str, arguments: &[&str]) -> Running {
    let listen = format!("--listen-address={address}");
    let line = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--user=root",
        "--pid-file=",
        &listen,
    ];
    let server = lab.client().spawn(&[&line, arguments].concat());
    wait_until("dnsmasq answers", LIMIT, || {
        let server = format!("@{address}");
        let dig = [
            "dig",
            "+short",
            "+time=1",
            "+tries=1",
            &server,
            "first.test",
        ];
        lab.client().run(&dig).stdout.trim() == "203.0.113.13"
    });
    server
}

/// What a process has spent so far in user and kernel mode (proc(5)).
fn processor_time(pid: i32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("a process has a name")?;
    let ticks =
        |index: usize| -> Option<u64> { fields.split_whitespace().nth(index)?.parse().ok() };
    let ticks = ticks(11).zip(ticks(12)).context("a process has times")?;
    let all = u32::try_from(ticks.0 + ticks.1)?;
    Ok(all * Duration::from_millis(10))
}

fn print(figures: &[[Figures; 2]; 2]) {
    for ([dnsmasq, offrampd], outstanding) in figures.iter().zip(OUTSTANDING) {
        println!(
            "{outstanding} look-ups at a time              min     median        max     lost"
        );
        for (name, figures) in [("dnsmasq ", dnsmasq), ("offrampd", offrampd)] {
            println!(
                "  {name}  answers per second {} {:>8}",
                figures.rate.line(),
                figures.lost
            );
            println!(
                "            processor µs each  {}",
                figures.processor.line()
            );
        }
        let microseconds = |figures: &Figures| 1e6 / figures.rate.median();
        if outstanding == 1 {
            println!(
                "  µs for an answer: dnsmasq {:.1}, offrampd {:.1}",
                microseconds(dnsmasq),
                microseconds(offrampd)
            );
        }
        println!(
            "  offrampd : dnsmasq  answers {:.2}, answers for processor time {:.2}",
            offrampd.rate.median() / dnsmasq.rate.median(),
            dnsmasq.processor.median() / offrampd.processor.median()
        );
    }
}

fn as_json(figures: &[[Figures; 2]; 2]) -> serde_json::Value {
    let one = |figures: &Figures| {
        json!({
            "answers_per_second": figures.rate.json(),
            "processor_us_per_answer": figures.processor.json(),
            "lost": figures.lost,
        })
    };
    let rows = figures.iter().zip(OUTSTANDING);
    let rows = rows.map(|([dnsmasq, offrampd], outstanding)| {
        json!({
            "outstanding": outstanding,
            "dnsmasq": one(dnsmasq),
            "offrampd": one(offrampd),
            "ratio": offrampd.rate.median() / dnsmasq.rate.median(),
        })
    });
    json!({ "dns": rows.collect::<Vec<_>>() })
}
