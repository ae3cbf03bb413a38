use std::os::fd::AsFd;
use std::time::Duration;

/// Closes a TCP connection with RST, so that its peer cannot take a broken flow for a whole one.
///
/// For every end of a flow but [`End::Closed`](crate::End::Closed). On other sockets it is a
/// plain close.
pub fn reset<S: AsFd>(stream: S) {
    if let Err(error) = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "linger not set");
    }
}
