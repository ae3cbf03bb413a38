use std::fmt;

use super::{Exclusion, Outcome, Step, Verdict, Why};
use crate::UnavailableAction;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Relay(profile) => write!(f, "relay through {profile}"),
            Verdict::Direct(why) => write!(f, "direct: {why}"),
            Verdict::Refuse(why) => write!(f, "refuse: {why}"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Loopback => f.write_str("the target is this machine"),
            Why::Unmanaged => f.write_str("no rule of any profile names the app"),
            Why::Excluded(profile, exclusion) => write!(f, "{profile} excludes {exclusion}"),
            Why::OtherDomain(profile) => {
                write!(
                    f,
                    "{profile} names the app for other targets alone (MatchDomains)"
                )
            }
            Why::OnDemand(profile) => write!(f, "{profile} is not needed on this network"),
            Why::NotConnected(profile, state) => write!(f, "{profile} is {state}"),
            Why::NotInForce(profile) => write!(
                f,
                "the app was started under {profile}, which is disabled or gone"
            ),
            Why::EncryptedResolver(profile, resolver) => write!(
                f,
                "{profile} refuses {resolver}, a resolver that encrypts (RefuseEncryptedResolvers)"
            ),
        }
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exclusion::Domain(suffix) => write!(f, "{suffix}"),
            Exclusion::Route(block) => write!(f, "{block}"),
            Exclusion::LocalNetwork(block) => write!(f, "the local network {block}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.profile)?;
        if let Some(rule) = &self.rule {
            write!(f, "claimed by {rule}, ")?;
        }
        match &self.outcome {
            Outcome::Disabled => f.write_str("passed over, it has Enabled: false"),
            Outcome::NoRule => f.write_str("no rule names the app"),
            Outcome::OtherDomain => {
                f.write_str("its rules name the app for other targets alone (MatchDomains)")
            }
            Outcome::Excluded(exclusion) => write!(f, "and the profile excludes {exclusion}"),
            Outcome::OnDemand => f.write_str("and the profile is not needed on this network"),
            Outcome::EncryptedResolver(resolver) => write!(
                f,
                "and the profile refuses {resolver}, a resolver that encrypts \
                 (RefuseEncryptedResolvers)"
            ),
            Outcome::Relay => f.write_str("and the profile relays"),
            Outcome::NotConnected(state, UnavailableAction::Drop) => {
                write!(f, "and the profile is {state}, so it refuses")
            }
            Outcome::NotConnected(state, UnavailableAction::Direct) => {
                write!(
                    f,
                    "and the profile is {state}; its UnavailableAction is Direct"
                )
            }
        }
    }
}
