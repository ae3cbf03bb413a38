//! An upgrade without a dropped flow: a new daemon goes on in the place of the one that runs.
//!
//! The new one gets everything ready first: its kernel programs are loaded, its proxy servers
//! answer. Then the old one takes no more work, says what it knows ([`wire::State`]), and leaves
//! the sockets where flows arrive, the control socket and the lock to the new one; what comes
//! meanwhile waits in these sockets. From then on the old one touches nothing of the machine's: it
//! relays the flows that it has until they end. The new one shows these as its own ([`before`]),
//! cuts them when rules say so, and passes on what arrives for them. Where the new one fails before
//! it has said that it has everything, the old one goes on.

mod before;
mod give;
mod take;
pub(crate) mod wire;

use std::time::Duration;

pub(crate) use before::{Before, begin};
pub(crate) use give::{Link, Request, Successor, hand_over, listen};
pub(crate) use take::{Asked, adopt, ask, wait_until_connected};

/// How a daemon takes over from another.
#[derive(Clone, Copy, Debug)]
pub struct Takeover {
    /// How long the flows of the old daemon may go on.
    pub drain: Duration,
}

/// How long one side waits for a word of the other that needs no work.
const WORD: Duration = Duration::from_secs(10);
/// How long the new one may take to get ready, while the old one goes on as ever.
const READY: Duration = Duration::from_secs(60);
/// How long the new one may take while neither accepts flows.
const TAKE: Duration = Duration::from_secs(15);
