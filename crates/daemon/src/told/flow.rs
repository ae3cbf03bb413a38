use std::borrow::Borrow;
use std::sync::Arc;

use offramp_control::ToldBy;
use offramp_rules::{Claims, Decision, Target, Verdict};

use super::choice::{Choice, choose};
use super::{Held, Known};
use crate::shared::{Shared, Wanted};
use crate::sniff::{Decided, Sniffed};

impl Shared {
    /// Whether a name that the app says could change what its being told of names decides.
    pub(crate) fn may_change(&self, claims: &Claims, target: &Target, known: &Known) -> bool {
        let world = Arc::clone(&self.world.borrow());
        choose(&self.policy().rules, claims, &world, target, known, None).may_change
    }

    /// Decides about a flow to an address by the names that its app was told of it, and by the one
    /// that it says itself.
    pub(crate) async fn decide_known(
        &self,
        claims: &Claims,
        target: &Target,
        known: &Known,
        said: Option<&Sniffed>,
    ) -> Decided {
        let by =
            |seen| self.held(move |rules, world| choose(rules, claims, world, target, known, seen));
        let mut choice = by(said.map(|said| &said.name)).await;
        let is_outside = said.is_some_and(|said| said.by == ToldBy::Ech);
        if is_outside && matches!(choice.decision.verdict, Verdict::Direct(_)) {
            // What stands on the outside of a hello opens nothing.
            choice = by(None).await;
        }
        let Choice { decision, name, .. } = choice;
        Decided { decision, name }
    }
}

impl Wanted {
    /// What a flow is shown with: the name that its app has said, or else the one that has decided, of
    /// those that the app was told.
    pub(crate) fn shown(&self, said: Option<Sniffed>, decided: &Decided) -> Option<Sniffed> {
        let name = self.known.as_ref().and(decided.name.clone());
        said.or_else(|| {
            name.map(|name| Sniffed {
                name,
                by: ToldBy::Dns,
            })
        })
    }

    /// What the app was told of the address.
    pub(crate) fn known(&self) -> Option<&Known> {
        self.known.as_ref().map(Held::known)
    }
}

impl Borrow<Decision> for Choice {
    fn borrow(&self) -> &Decision {
        &self.decision
    }
}
