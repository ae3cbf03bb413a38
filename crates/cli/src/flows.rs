//! `offramp flows`.

use offramp_control::{Client, Flow, FlowEvent, FlowState, Protocol, Way};

use crate::arguments;
use crate::failure::{Failure, UNAVAILABLE};
use crate::output::{self, Cell, Table, Tone, or_dash};

pub(crate) async fn run(client: &Client, arguments: arguments::Flows) -> Result<(), Failure> {
    if arguments.follow {
        return follow(client, arguments.json).await;
    }
    let flows = client.flows().await?;
    if arguments.json {
        output::print_json(&flows)
    } else if flows.is_empty() {
        output::print("No managed app has a flow at the moment.\n")
    } else {
        output::print(&render(&flows, output::colour()))
    }
}

async fn follow(client: &Client, json: bool) -> Result<(), Failure> {
    let mut stream = client.follow_flows().await?;
    while let Some(event) = stream.next().await? {
        output::print_event(&event, json, line)?;
    }
    Err(Failure::new(UNAVAILABLE, output::STREAM_ENDED))
}

/// Flows as a table: number, who, where to, by which way, how much, how long.
pub(crate) fn render(flows: &[Flow], colour: bool) -> String {
    let mut table = Table::new([
        "FLOW", "APP", "PID", "TARGET", "", "WAY", "UPSTREAM", "SENT", "RECEIVED", "TIME", "STATE",
    ]);
    for flow in flows {
        table.row([
            flow.id.to_string().into(),
            output::program(&flow.app).into(),
            flow.app.pid.to_string().into(),
            target(flow).into(),
            protocol(flow).into(),
            way(flow),
            or_dash(flow.upstream.as_deref()).into(),
            output::bytes(flow.sent).into(),
            output::bytes(flow.received).into(),
            output::duration(flow.duration_ms).into(),
            outcome(flow).into(),
        ]);
    }
    table.render(colour)
}

/// Where to, with the name that the app has told.
fn target(flow: &Flow) -> String {
    match &flow.told {
        Some(told) => format!("{} ({} {})", flow.target, told.by, told.name),
        None => flow.target.clone(),
    }
}

fn line(event: &FlowEvent) -> String {
    let (mark, flow) = match event {
        FlowEvent::Begin { flow } => ("begin", flow),
        FlowEvent::End { flow } => ("end  ", flow),
        FlowEvent::Missed { count } => {
            return output::missed(*count);
        }
    };
    let mut text = format!(
        "{mark} #{} {}[{}] {} {}",
        flow.id,
        output::program(&flow.app),
        flow.app.pid,
        protocol(flow),
        target(flow)
    );
    if is_decided(flow) {
        text.push_str(&format!(" {}", word(flow.way)));
    }
    if let Some(upstream) = &flow.upstream {
        text.push_str(&format!(" via {upstream}"));
    }
    if matches!(event, FlowEvent::End { .. }) {
        text.push_str(&format!(
            ", sent {}, received {}, {}",
            output::bytes(flow.sent),
            output::bytes(flow.received),
            output::duration(flow.duration_ms)
        ));
    }
    if let Some(error) = &flow.error {
        text.push_str(&format!(": {error}"));
    }
    output::clean(&text) + "\n"
}

fn protocol(flow: &Flow) -> &'static str {
    match flow.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// A flow that is still opening has no way yet.
fn is_decided(flow: &Flow) -> bool {
    flow.way != Way::Refused || flow.state != FlowState::Opening
}

fn way(flow: &Flow) -> Cell {
    if !is_decided(flow) {
        return "-".into();
    }
    let tone = match flow.way {
        Way::Relay => Tone::Good,
        Way::Direct => Tone::Doubtful,
        Way::Refused => Tone::Bad,
    };
    Cell::toned(word(flow.way), tone)
}

fn word(way: Way) -> &'static str {
    match way {
        Way::Relay => "relay",
        Way::Direct => "direct",
        Way::Refused => "refused",
    }
}

fn outcome(flow: &Flow) -> &str {
    match (&flow.error, flow.state) {
        (Some(error), _) => error,
        (None, FlowState::Opening) => "opening",
        (None, FlowState::Open) => "open",
        (None, FlowState::HalfClosed) => "half closed",
        (None, FlowState::Closed) => "closed",
    }
}

#[cfg(test)]
mod tests {
    use offramp_control::{App, Told, ToldBy};

    use super::*;

    fn flow() -> Flow {
        Flow {
            id: 7,
            app: App {
                pid: 42,
                uid: 1000,
                executable: "/usr/bin/curl".into(),
                command: None,
            },
            profile: "work".into(),
            protocol: Protocol::Tcp,
            source: "198.18.0.1:40000".into(),
            target: "example.com:443".into(),
            told: None,
            way: Way::Relay,
            upstream: Some("proxy.example:443".into()),
            sent: 80,
            received: 2048,
            started: 0,
            duration_ms: 12,
            state: FlowState::Open,
            error: None,
        }
    }

    #[test]
    fn flows_are_a_table() {
        let mut refused = flow();
        (refused.way, refused.upstream) = (Way::Refused, None);
        refused.error = Some("proxy away".into());
        let expected = "\
FLOW  APP   PID  TARGET                WAY      UPSTREAM           SENT  RECEIVED  TIME   STATE
7     curl  42   example.com:443  tcp  relay    proxy.example:443  80 B  2.0 KiB   12 ms  open
7     curl  42   example.com:443  tcp  refused  -                  80 B  2.0 KiB   12 ms  proxy away
";
        assert_eq!(render(&[flow(), refused], false), expected);
    }

    #[test]
    fn events_are_lines() {
        let begin = line(&FlowEvent::Begin { flow: flow() });
        let expected = "begin #7 curl[42] tcp example.com:443 relay via proxy.example:443";
        assert_eq!(begin, format!("{expected}\n"));
        let mut opening = flow();
        (opening.way, opening.upstream) = (Way::Refused, None);
        opening.state = FlowState::Opening;
        let begin = line(&FlowEvent::Begin { flow: opening });
        assert_eq!(begin, "begin #7 curl[42] tcp example.com:443\n");
        let mut told = flow();
        told.target = "203.0.113.5:443".into();
        told.told = Some(Told {
            name: "example.com".into(),
            by: ToldBy::Sni,
        });
        let begin = line(&FlowEvent::Begin { flow: told });
        let expected = "begin #7 curl[42] tcp 203.0.113.5:443 (sni example.com) relay via";
        assert!(begin.starts_with(expected), "{begin}");
        let end = line(&FlowEvent::End { flow: flow() });
        assert!(
            end.ends_with(", sent 80 B, received 2.0 KiB, 12 ms\n"),
            "{end}"
        );
    }
}
