//! Whether a server accepts the credentials, asked before a flow depends on it.

use std::time::Duration;

use tokio::time::timeout;

use offramp_rules::{DomainName, Host, Target};

use crate::connection::Connection;
use crate::error::{ConnectError, OpenError};
use crate::reply::Failure;
use crate::slot::Slot;
use crate::{h1, h2, tls};

/// Never resolves (RFC 6761 section 6.4), so nothing is reached where the credentials are right.
const NOWHERE: &str = "offramp.invalid";
/// Credentials are turned down at once; who takes longer is looking for the target.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes one more stream.
pub(crate) async fn over_h2(slot: &Slot, connection: &Connection) -> Result<(), ConnectError> {
    let lease = slot.seat(connection, false);
    let asked = timeout(PATIENCE, h2::connect(slot, lease, &nowhere())).await;
    accepted(asked.ok().and_then(Result::err))
}

/// Uses the connection up.
pub(crate) async fn over_h1(slot: &Slot, stream: tls::Stream) -> Result<(), ConnectError> {
    let target = nowhere();
    let asked = h1::connect(slot, Box::new(stream), false, &target);
    let asked = timeout(PATIENCE, asked).await;
    accepted(asked.ok().and_then(Result::err))
}

/// Whatever is not said about the credentials, they were accepted.
fn accepted(failure: Option<Failure>) -> Result<(), ConnectError> {
    match failure {
        Some(Failure::Server(OpenError::Unauthorized {
            server,
            status,
            advice,
        })) => Err(ConnectError::Unauthorized {
            server,
            status,
            advice,
        }),
        Some(Failure::Server(OpenError::Unavailable { server, source })) if source.is_refusal() => {
            Err(ConnectError::LockedOut { server })
        }
        _ => Ok(()),
    }
}

fn nowhere() -> Target {
    Target {
        host: Host::Name(DomainName::parse(NOWHERE).expect("it is a name")),
        port: 443,
    }
}
