//! How profiles, counters and problems are shown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use offramp_control as control;
use offramp_control::{ProfileState, ProfileStatus, Severity};
use offramp_intercept::{ClassId, Counter, Labelled};
use offramp_profile::{Problem, Profile};
use offramp_rules::{Claims, Layer};
use offramp_upstream::State as UpstreamState;

use super::user::may_see;
use super::{Desk, scope, sees};
use crate::api::Peer;
use crate::policy::Policy;

impl Desk {
    /// The profiles that this user may see: those of the machine, and their own.
    pub(super) fn visible(&self, peer: &Peer) -> Vec<ProfileStatus> {
        let policy = self.shared.policy();
        let own = policy
            .active
            .values()
            .filter(|active| active.owner.is_some_and(|uid| sees(peer, uid)))
            .map(|active| &active.profile);
        let loaded = policy.loaded.profiles.iter();
        let loaded = loaded.filter(|profile| may_see(peer, profile));
        let mut profiles: Vec<_> = loaded.chain(own).collect();
        profiles.sort_by(|a, b| a.rules.cmp(&b.rules));
        let (uid, apps) = (scope(peer), self.apps());
        profiles
            .into_iter()
            .map(|profile| self.describe(profile, &policy, &apps, uid))
            .collect()
    }

    /// The claims of every app that runs, with its user.
    pub(super) fn apps(&self) -> Vec<(Arc<Claims>, u32)> {
        let classes = self.shared.classes();
        let labelled = self.shared.labelled().unwrap_or_default();
        let of_class = |(class, processes): (ClassId, Vec<Labelled>)| {
            let claims = classes.get(&class).cloned();
            let each = move |process: Labelled| Some((claims.clone()?, process.uid));
            processes.into_iter().filter_map(each)
        };
        labelled.into_iter().flat_map(of_class).collect()
    }

    pub(super) fn describe(
        &self,
        profile: &Profile,
        policy: &Policy,
        apps: &[(Arc<Claims>, u32)],
        uid: Option<u32>,
    ) -> ProfileStatus {
        let id = profile.id();
        let active = policy.active.get(id);
        let on = !self.shared.off().contains(id);
        let state = active.map(|active| {
            active
                .link()
                .upstream()
                .map(|up| up.state().borrow().clone())
        });
        let (state, reason, server, protocol, udp) = match state {
            None => (
                ProfileState::Disconnected,
                Some("it is disabled".into()),
                None,
                None,
                None,
            ),
            Some(Err(reason)) => (
                ProfileState::Disconnected,
                Some(reason.into()),
                None,
                None,
                None,
            ),
            Some(Ok(UpstreamState::Connecting)) => {
                (ProfileState::Connecting, None, None, None, None)
            }
            Some(Ok(UpstreamState::Connected {
                server,
                protocol,
                udp,
            })) => (
                ProfileState::Connected,
                None,
                Some(server),
                Some(protocol.into()),
                Some(udp),
            ),
            Some(Ok(UpstreamState::Reasserting { reason })) => {
                (ProfileState::Reasserting, Some(reason), None, None, None)
            }
            Some(Ok(UpstreamState::Disconnected { reason })) => {
                (ProfileState::Disconnected, Some(reason), None, None, None)
            }
        };
        let own = apps
            .iter()
            .filter(|(claims, user)| claims.is_under(id) && uid.is_none_or(|uid| uid == *user));
        ProfileStatus {
            identifier: id.to_string(),
            visible_name: Some(profile.visible_name.clone()),
            layer: layer(profile, active.is_some_and(|active| active.owner.is_some())).into(),
            order: profile.rules.order.into(),
            enabled: profile.rules.enabled,
            on,
            state: if on {
                state
            } else {
                ProfileState::Disconnected
            },
            reason: if on {
                reason
            } else {
                Some("it is switched off".into())
            },
            server: server.or_else(|| active.map(|active| active.server())),
            protocol,
            udp,
            apps: own.count() as u64,
            flows: self.shared.flows.count_of(id, uid),
            token: Some(profile.token.clone()),
            source: profile
                .source
                .file
                .as_ref()
                .map(|file| file.display().to_string()),
        }
    }

    /// Limits that were reached lately, as far as they concern this user.
    pub(super) fn limits_reached(&self, peer: &Peer) -> Vec<control::Problem> {
        let now = std::time::Instant::now();
        let reached = self.shared.flows.refusals.shown(scope(peer), now);
        let shown = reached.into_iter().map(|message| control::Problem {
            severity: Severity::Warning,
            code: Some("LimitReached".into()),
            file: None,
            line: None,
            column: None,
            key: None,
            message,
            hint: Some("open flows go on; end some of them".into()),
        });
        shown.collect()
    }

    pub(super) fn counters(&self) -> BTreeMap<String, u64> {
        let (flows, counts) = (&self.shared.flows, &self.shared.counts);
        let own = [
            ("flows_relayed", &flows.relayed),
            ("flows_direct", &flows.direct),
            ("flows_refused", &flows.refused),
            ("unidentified", &counts.unidentified),
            ("unknown_names", &counts.unknown_names),
            ("lookups", &counts.lookups),
            ("over_budget", &counts.over_budget),
            ("dropped_datagrams", &counts.dropped_datagrams),
        ];
        let own = own.map(|(name, count)| (name.to_owned(), count.load(Ordering::Relaxed)));
        let kernel = Counter::ALL.map(|(counter, name)| {
            (
                format!("kernel_{name}"),
                self.shared.capture.counter(counter),
            )
        });
        let repairs = ("repairs".to_owned(), self.shared.capture.repairs().times);
        let crowded = (
            "crowded_datagrams".to_owned(),
            self.shared.capture.crowded(),
        );
        let others = [repairs, crowded];
        own.into_iter().chain(kernel).chain(others).collect()
    }
}

pub(super) fn problem(found: &Problem) -> control::Problem {
    control::Problem {
        severity: match found.code {
            code if code.is_information() => Severity::Warning,
            _ => Severity::Error,
        },
        code: Some(found.code.to_string()),
        file: found.file.as_ref().map(|file| file.display().to_string()),
        line: u32::try_from(found.line).ok().filter(|line| *line > 0),
        column: u32::try_from(found.column)
            .ok()
            .filter(|column| *column > 0),
        key: Some(found.key_path.clone()).filter(|key| !key.is_empty()),
        message: found.message.clone(),
        hint: found.hint.clone(),
    }
}

fn layer(profile: &Profile, made_by_run: bool) -> &'static str {
    match profile.rules.layer {
        _ if made_by_run => "run",
        Layer::Managed => "managed",
        Layer::User => "user",
        Layer::Recommended => "recommended",
        Layer::Vendor => "vendor",
    }
}
