//! Tells decisions and the kernel programs how things are: states, exclusions, classes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use offramp_intercept::{Class, ClassId};
use offramp_rules::{Claims, Prefix, RouteSet, Target, Verdict, Why, World, decide, direct_routes};

use crate::active::Active;
use crate::policy::Policy;
use crate::recognise::has_all_rules;
use crate::shared::{ANYWHERE, Shared};

/// Classes of apps that a user's own profiles may make.
const CLASSES: usize = 128;

impl Shared {
    /// Tells decisions and the kernel programs how things are. To be called with `changing` held.
    pub(crate) async fn publish(&self) {
        let (policy, world) = (self.policy(), self.survey().await);
        self.publish_undecided().await;
        for (class, claims) in self.classes() {
            self.publish_class(class, &claims, &policy, &world).await;
        }
        self.forget_answers(&policy);
        // Those who wait for a state go on when the kernel programs know it too.
        self.world.send_replace(Arc::new(world));
    }

    /// What servers answered that are no longer asked, or are switched off, is forgotten.
    fn forget_answers(&self, policy: &Policy) {
        let off = self.off();
        let stays = |source: &offramp_dns::Source| {
            let active = policy.active.get(&source.profile);
            !off.contains(&source.profile)
                && active.is_some_and(|active| active.link().number() == source.number)
        };
        for (_, book) in policy.books() {
            book.responder.retain(stays);
        }
    }

    /// How things are now.
    pub(crate) async fn survey(&self) -> World {
        let survey = self.capture.survey().await;
        self.ipv6.store(survey.ipv6, Ordering::Relaxed);
        self.policy().world(survey.local, &self.off())
    }

    /// Defines a class for the kernel programs.
    pub(crate) async fn publish_class(
        &self,
        class: ClassId,
        claims: &Claims,
        policy: &Policy,
        world: &World,
    ) {
        let shape = shape(claims, policy, world);
        if let Err(error) = self.capture.set_class(class, shape).await {
            tracing::error!(class = %class, error = crate::chain(&error), "class not defined");
        }
    }

    /// The class of processes with these claims, defined for the kernel programs; none for those
    /// that nothing claims. To be called with `changing` held.
    pub(crate) async fn class_of(&self, claims: &Claims) -> Result<Option<ClassId>, NoClass> {
        if claims.is_empty() {
            return Ok(None);
        }
        if let Some(class) = self.find_class(claims) {
            return Ok(Some(class));
        }
        if self.is_exhausted_by(claims) {
            return Err(NoClass);
        }
        let class = self.add_class(claims).ok_or(NoClass)?;
        let (policy, world) = (self.policy(), Arc::clone(&self.world.borrow()));
        self.publish_class(class, claims, &policy, &world).await;
        Ok(Some(class))
    }

    /// Whether the user whose profile claims an app has as many classes as one may have: rules can be
    /// combined in more ways than there are classes.
    fn is_exhausted_by(&self, claims: &Claims) -> bool {
        let policy = self.policy();
        let owner = |claims: &Claims| policy.claiming(claims).find_map(|own| own.owner());
        let Some(user) = owner(claims).filter(|user| *user != 0) else {
            return false;
        };
        let own = self.classes();
        let own = own.values().filter(|claims| owner(claims) == Some(user));
        own.count() >= CLASSES
    }

    /// Programs that wait for their verdict: every flow comes here, and is decided here.
    async fn publish_undecided(&self) {
        let shape = Class {
            open: true,
            udp: true,
            ..Class::default()
        };
        if let Err(error) = self.capture.set_class(ClassId::UNDECIDED, shape).await {
            tracing::error!(
                error = crate::chain(&error),
                "class of undecided programs not defined"
            );
        }
    }

    /// Marks the classes of rules that are gone: their sockets are given back.
    pub(crate) async fn end_classes(&self, apps: &BTreeMap<u32, Arc<Claims>>) {
        let (policy, world) = (self.policy(), Arc::clone(&self.world.borrow()));
        for (class, claims) in self.classes() {
            let stays = has_all_rules(&claims, &policy.rules);
            if stays || apps.values().any(|of_app| *of_app == claims) {
                continue;
            }
            let ending = Class {
                ending: true,
                ..shape(&claims, &policy, &world)
            };
            if let Err(error) = self.capture.set_class(class, ending).await {
                tracing::error!(class = %class, error = crate::chain(&error), "class not ended");
            }
        }
    }
}

/// All classes have a meaning already, or what a new one means cannot be kept. What needs it stays
/// undecided, and is refused.
pub(crate) struct NoClass;

/// What resolvers are reached by that routing would not bring here (240.0.0.0/4, 2001:2::/48), and
/// the device's own addresses.
pub(crate) fn own_blocks() -> [Prefix; 3] {
    ["240.0.0.0/4", "2001:2::/48", "198.18.0.1/32"]
        .map(|text| text.parse().expect("all are blocks"))
}

/// What the kernel programs are told of the apps with these claims. What stands for names comes
/// here whatever is reached directly.
fn shape(claims: &Claims, policy: &Policy, world: &World) -> Class {
    let anywhere = Target {
        host: ANYWHERE,
        port: 443,
    };
    let verdict = decide(&policy.rules, claims, &anywhere, world).verdict;
    let (open, udp) = match &verdict {
        Verdict::Relay(by) => (
            true,
            policy.active.get(by).is_some_and(|by| by.carries_udp()),
        ),
        Verdict::Direct(_) => (true, true),
        Verdict::Refuse(Why::NotConnected(..)) => {
            let waits = verdict.waits_for().is_some();
            (waits, waits)
        }
        Verdict::Refuse(_) => (false, false),
    };
    // Where addresses do not tell what is excluded, flows come here to be told apart.
    let is_in_force = !matches!(verdict, Verdict::Refuse(Why::NotInForce(_)));
    let comes_here = is_in_force && policy.is_real(claims);
    let claiming: Vec<_> = policy.claiming(claims).collect();
    let all =
        |test: fn(&Active) -> bool| !claiming.is_empty() && claiming.iter().all(|own| test(own));
    let owners = claiming.iter().filter_map(|own| own.owner());
    Class {
        direct: direct_routes(&policy.rules, claims, world)
            .normalised()
            .into_iter()
            .chain(policy.hosts.excluded(&policy.rules, claims, world))
            .collect::<RouteSet>()
            .without(&policy.blocks(claims))
            .without(&own_blocks())
            .normalised(),
        multicast: all(|own| own.profile.rules.exclude_local_networks),
        inbound: all(|own| own.profile.allow_inbound),
        personal: owners.into_iter().find(|uid| *uid != 0),
        tracked: claims.is_only_above(),
        tools: !claims.below.is_empty(),
        open: open || comes_here,
        udp: udp || comes_here,
        ..Class::default()
    }
}
