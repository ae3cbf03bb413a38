use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use offramp_relay::{Counters, End};
use tokio::time::Instant;

use crate::answer::Refusal;
use crate::metrics::Metrics;
use crate::request::Ask;
use crate::users::{Chain, Name};

/// One flow from request to end; its drop writes the one line of the access log.
pub(crate) struct Flow {
    pub(crate) counters: Arc<Counters>,
    client: SocketAddr,
    http: &'static str,
    user: Option<Name>,
    ask: Option<Ask>,
    status: u16,
    end: &'static str,
    error: Option<String>,
    started: Instant,
    metrics: Arc<Metrics>,
}

impl Flow {
    pub(crate) fn new(client: SocketAddr, http: &'static str, metrics: Arc<Metrics>) -> Self {
        metrics.flows_live.fetch_add(1, Ordering::Relaxed);
        Self {
            counters: Arc::default(),
            client,
            http,
            user: None,
            ask: None,
            status: 0,
            end: "aborted",
            error: None,
            started: Instant::now(),
            metrics,
        }
    }

    pub(crate) fn of(&mut self, user: Option<Name>) {
        self.user = user;
    }

    pub(crate) fn asks(&mut self, ask: &Ask) {
        self.ask = Some(ask.clone());
    }

    pub(crate) fn answered(&mut self, status: u16) {
        self.status = status;
    }

    pub(crate) fn refused(&mut self, refusal: &Refusal) {
        self.status = refusal.status().as_u16();
        self.end = "refused";
        self.error = Some(Chain(refusal).to_string());
    }

    /// Notes how a flow ended that was not relayed to its end.
    pub(crate) fn ended(&mut self, end: &'static str) {
        self.end = end;
    }

    pub(crate) fn relayed(&mut self, end: &End) {
        self.end = match end {
            End::AppReset(_) => "client reset",
            End::FarReset(_) => "target reset",
            end => end.reason(),
        };
        if let End::AppReset(error) | End::FarReset(error) = end {
            self.error = Some(error.to_string());
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let (sent, received) = (self.counters.sent(), self.counters.received());
        self.metrics.flow_ended(self.status, sent, received);
        let (protocol, target) = match &self.ask {
            Some(Ask::Tcp(target)) => ("tcp", target.to_string()),
            Some(Ask::Udp(target)) => ("udp", target.to_string()),
            Some(Ask::Dns) => ("dns", "-".to_owned()),
            None => ("-", "-".to_owned()),
        };
        tracing::info!(
            client.addr = %self.client,
            user = self.user.as_deref().unwrap_or("-"),
            http = self.http,
            protocol,
            target.addr = %target,
            status = self.status,
            end = self.end,
            error = self.error.as_deref(),
            bytes.sent = sent,
            bytes.received = received,
            duration_ms = self.started.elapsed().as_millis() as u64,
            "flow ended"
        );
    }
}
