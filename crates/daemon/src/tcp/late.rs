//! An app that is silent while a rule needs a name: its flow is opened as the address says, so that
//! a server which speaks first is heard. If the app is the first, and tells a name, the flow is
//! decided about once more: nothing has gone either way.

use std::io;
use std::sync::atomic::Ordering;

use offramp_rules::Verdict;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::{Far, Opening, Road};
use crate::shared::Shared;
use crate::sniff::{self, Decided, Sniffed};

/// What is taken of a server that speaks first, in bytes.
const FIRST: usize = 2048;

/// Who was the first to say something.
enum First {
    App(Option<Sniffed>),
    Server(io::Result<usize>),
    Nobody,
}

impl Opening<'_> {
    /// Opens the way that is decided, and another one where the app tells a name before the server
    /// says anything.
    pub(super) async fn open_again(
        &self,
        stream: &mut TcpStream,
        decided: Decided,
    ) -> Option<Road> {
        let verdict = decided.decision.verdict.clone();
        let mut opening = Box::pin(self.open(decided));
        let mut app = Box::pin(sniff::later(stream));
        let opened = tokio::select! {
            biased;
            told = &mut app => Err(told),
            road = &mut opening => Ok(road?),
        };
        let mut road = match opened {
            Ok(road) => road,
            Err(None) => return opening.await,
            Err(Some(told)) => {
                let decided = self.decide_anew(told).await;
                if is_same(&verdict, &decided.decision.verdict) {
                    return opening.await.map(|road| self.renamed(road, decided));
                }
                drop(opening);
                return self.open_another(decided).await;
            }
        };
        let mut heard = [0; FIRST];
        let first = tokio::select! {
            biased;
            told = &mut app => First::App(told),
            () = road.leg.cut.cancelled() => First::Server(Err(io::Error::other("stopped"))),
            read = road.far.read(&mut heard) => First::Server(read),
            () = sleep(self.shared.limits.idle) => First::Nobody,
        };
        drop(app);
        match first {
            First::App(Some(told)) => {
                let decided = self.decide_anew(told).await;
                if is_same(&verdict, &decided.decision.verdict) {
                    return Some(self.renamed(road, decided));
                }
                // A flow to one target has one way.
                drop(road);
                self.open_another(decided).await
            }
            First::App(None) | First::Nobody => Some(road),
            First::Server(read) => {
                let read = read.map_err(|error| self.guard.failed(error.to_string()));
                let heard = &heard[..read.ok()?];
                let received = &self.guard.counters().received;
                received.fetch_add(heard.len() as u64, Ordering::Relaxed);
                stream.write_all(heard).await.ok()?;
                Some(road)
            }
        }
    }

    async fn decide_anew(&self, told: Sniffed) -> Decided {
        let decided = self
            .shared
            .decide_told(self.claims, self.wanted, Some(&told))
            .await;
        self.guard.told(told);
        decided
    }

    async fn open_another(&self, decided: Decided) -> Option<Road> {
        let verdict = &decided.decision.verdict;
        self.guard.goes_by(Shared::profile_of(verdict, self.claims));
        self.open(decided).await
    }

    /// The same way, which depends on the name from here on.
    fn renamed(&self, road: Road, decided: Decided) -> Road {
        let (verdict, link) = (decided.decision.verdict, road.link);
        drop(road.leg);
        let target = &self.wanted.target;
        let leg = self
            .guard
            .leg(target, decided.name, &verdict, link.as_deref());
        Road {
            far: road.far,
            leg,
            link,
        }
    }
}

fn is_same(old: &Verdict, new: &Verdict) -> bool {
    match (old, new) {
        (Verdict::Relay(old), Verdict::Relay(new)) => old == new,
        (Verdict::Direct(_), Verdict::Direct(_)) => true,
        _ => false,
    }
}

impl Far {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Far::Tunnel(tunnel) => tunnel.read(buffer).await,
            Far::Direct(direct) => direct.read(buffer).await,
        }
    }
}
