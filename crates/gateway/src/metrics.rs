use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// What a gateway counts, for OpenMetrics.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: AtomicU64,
    pub(crate) connections_live: AtomicI64,
    pub(crate) handshakes_failed: AtomicU64,
    pub(crate) flows_live: AtomicI64,
    pub(crate) datagrams_dropped: AtomicU64,
    answers: [AtomicU64; 6],
    sent: AtomicU64,
    received: AtomicU64,
}

impl Metrics {
    pub(crate) fn flow_ended(&self, status: u16, sent: u64, received: u64) {
        self.flows_live.fetch_sub(1, Ordering::Relaxed);
        let class = usize::from(status / 100).min(self.answers.len() - 1);
        self.answers[class].fetch_add(1, Ordering::Relaxed);
        self.sent.fetch_add(sent, Ordering::Relaxed);
        self.received.fetch_add(received, Ordering::Relaxed);
    }

    /// The text form of OpenMetrics 1.0.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let count = |value: &AtomicU64| value.load(Ordering::Relaxed);
        counter(
            &mut text,
            "connections",
            "client connections",
            count(&self.connections),
        );
        gauge(
            &mut text,
            "connections_live",
            "client connections now",
            &self.connections_live,
        );
        let failed = count(&self.handshakes_failed);
        counter(
            &mut text,
            "handshakes_failed",
            "TLS handshakes that failed",
            failed,
        );
        gauge(&mut text, "flows_live", "flows now", &self.flows_live);
        let dropped = count(&self.datagrams_dropped);
        counter(&mut text, "datagrams_dropped", "datagrams dropped", dropped);
        counter(
            &mut text,
            "sent_bytes",
            "bytes to targets in ended flows",
            count(&self.sent),
        );
        let received = count(&self.received);
        counter(
            &mut text,
            "received_bytes",
            "bytes from targets in ended flows",
            received,
        );
        let name = "offramp_gateway_flows";
        let _ = writeln!(
            text,
            "# TYPE {name} counter\n# HELP {name} ended flows by answer"
        );
        for (class, flows) in self.answers.iter().enumerate() {
            let class = match class {
                0 => "none".to_owned(),
                class => format!("{class}xx"),
            };
            let _ = writeln!(text, "{name}_total{{answer=\"{class}\"}} {}", count(flows));
        }
        text.push_str("# EOF\n");
        text
    }
}

fn counter(text: &mut String, name: &str, help: &str, value: u64) {
    let name = format!("offramp_gateway_{name}");
    let _ = writeln!(
        text,
        "# TYPE {name} counter\n# HELP {name} {help}\n{name}_total {value}"
    );
}

fn gauge(text: &mut String, name: &str, help: &str, value: &AtomicI64) {
    let name = format!("offramp_gateway_{name}");
    let value = value.load(Ordering::Relaxed);
    let _ = writeln!(
        text,
        "# TYPE {name} gauge\n# HELP {name} {help}\n{name} {value}"
    );
}
