//! What is approved, for people.

use super::*;

/// An address that a class reaches directly.
pub(crate) struct Shown {
    pub(crate) class: ClassId,
    pub(crate) address: IpAddr,
    /// Who has asked; of a user nobody else.
    pub(crate) users: Vec<u32>,
    /// The names that were asked for; of a user none where others may have asked for them.
    pub(crate) names: Vec<DomainName>,
    /// How long the answers live on; flows may hold it for longer.
    pub(crate) left: Duration,
}

impl Approvals {
    /// The addresses of a user, or of all.
    pub(crate) async fn shown(&self, uid: Option<u32>) -> Vec<Shown> {
        let ledger = self.ledger.lock().await;
        let now = monotonic();
        let shown = ledger.held.iter().filter_map(|(single, approval)| {
            let is_own = uid.is_none_or(|uid| approval.users.contains_key(&uid));
            let is_alone = uid.is_none() || approval.users.len() == 1;
            let users = approval.users.keys().copied();
            let names = approval.names.iter().filter(|_| is_alone);
            is_own.then(|| Shown {
                class: single.0,
                address: single.1,
                users: users
                    .filter(|user| uid.is_none_or(|uid| uid == *user))
                    .collect(),
                names: names.cloned().collect(),
                left: approval.until.saturating_sub(now),
            })
        });
        shown.collect()
    }
}
