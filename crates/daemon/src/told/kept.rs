//! What was told, in a file.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use offramp_rules::{Claims, DomainName};
use serde::{Deserialize, Serialize};

use super::{App, By, KEEP, NAMES, Told};
use crate::classes::KeptClaims;

#[derive(Serialize, Deserialize)]
struct KeptApp {
    uid: u32,
    claims: KeptClaims,
    addresses: Vec<KeptAddress>,
}

#[derive(Serialize, Deserialize)]
struct KeptAddress {
    address: IpAddr,
    names: Vec<KeptName>,
    more: bool,
    /// Seconds until it is forgotten.
    left: u64,
}

#[derive(Serialize, Deserialize)]
struct KeptName {
    name: String,
    system: bool,
}

impl Told {
    /// As a file has it.
    pub(crate) fn save(&self) -> io::Result<Vec<u8>> {
        let now = Instant::now();
        let mut apps = HashMap::<App, KeptApp>::new();
        for ((app, address), entry) in &self.lock().entries {
            let until = match entry.holders {
                0 => entry.turn.0,
                _ => entry.turn.0.max(now + KEEP[0]),
            };
            let left = until.saturating_duration_since(now).as_secs();
            let names = entry.names.iter().map(|known| KeptName {
                name: known.name.to_string(),
                system: known.by == By::System,
            });
            let kept = KeptAddress {
                address: *address,
                names: names.collect(),
                more: entry.more,
                left,
            };
            let of_app = apps.entry(app.clone()).or_insert_with(|| KeptApp {
                uid: app.uid,
                claims: KeptClaims::of(&app.claims),
                addresses: Vec::new(),
            });
            of_app.addresses.push(kept);
        }
        let apps: Vec<_> = apps.into_values().collect();
        serde_json::to_vec(&apps).map_err(io::Error::other)
    }

    /// Takes up what [`Told::save`] gave. An address with a name that cannot be read is left out.
    pub(crate) fn load(&self, text: &[u8]) -> io::Result<()> {
        let apps: Vec<KeptApp> = serde_json::from_slice(text)?;
        let now = Instant::now();
        for app in apps {
            let claims = Arc::new(app.claims.to_claims());
            for kept in app.addresses {
                self.restore(app.uid, &claims, kept, now);
            }
        }
        Ok(())
    }

    fn restore(&self, uid: u32, claims: &Arc<Claims>, kept: KeptAddress, now: Instant) {
        let names = kept.names.iter().take(NAMES).map(|known| {
            let by = match known.system {
                true => By::System,
                false => By::Far,
            };
            DomainName::parse(&known.name).map(|name| (name, by))
        });
        let Ok(names) = names.collect::<Result<Vec<_>, _>>() else {
            return;
        };
        let left = Duration::from_secs(kept.left).min(KEEP[1]);
        let place = super::place(uid, claims, kept.address);
        let mut table = self.lock();
        for (name, by) in names {
            table.tell(place.clone(), &name, by, now + left, &self.budget);
        }
        if let Some(entry) = table.entries.get_mut(&place) {
            entry.more |= kept.more;
        }
    }
}
