//! Those who follow what happens, each on a stream of the control socket.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use offramp_control::{FlowEvent, LookupEvent};
use tokio::sync::mpsc;

/// How many events a slow follower may be behind before it misses some.
const QUEUE: usize = 1024;

/// All who follow events of one sort.
pub(crate) struct Followers<E> {
    /// Whether there are any: mostly there are none, and nothing is to be made for them.
    any: AtomicBool,
    all: Mutex<Vec<Follower<E>>>,
}

struct Follower<E> {
    /// None sees what is of every user.
    uid: Option<u32>,
    events: mpsc::Sender<E>,
    missed: u64,
}

/// What is told.
pub(crate) trait Event {
    /// So many are left out.
    fn missed(count: u64) -> Self;
}

impl Event for FlowEvent {
    fn missed(count: u64) -> Self {
        Self::Missed { count }
    }
}

impl Event for LookupEvent {
    fn missed(count: u64) -> Self {
        Self::Missed { count }
    }
}

impl<E> Default for Followers<E> {
    fn default() -> Self {
        Self {
            any: AtomicBool::new(false),
            all: Mutex::default(),
        }
    }
}

impl<E: Event> Followers<E> {
    /// Events of a user, or of all, from now on.
    pub(crate) fn follow(&self, uid: Option<u32>) -> mpsc::Receiver<E> {
        let (events, received) = mpsc::channel(QUEUE);
        let mut all = self.all.lock().expect("nothing panics with the followers");
        all.retain(|follower| !follower.events.is_closed());
        all.push(Follower {
            uid,
            events,
            missed: 0,
        });
        self.any.store(true, Ordering::Relaxed);
        received
    }

    /// Whether anybody may follow.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Tells what happened to an app of this user's.
    pub(crate) fn tell(&self, uid: u32, event: impl Fn() -> E) {
        if !self.any() {
            return;
        }
        let mut all = self.all.lock().expect("nothing panics with the followers");
        all.retain_mut(|follower| match follower.uid {
            Some(other) if other != uid => !follower.events.is_closed(),
            _ => follower.tell(event()),
        });
        self.any.store(!all.is_empty(), Ordering::Relaxed);
    }
}

impl<E: Event> Follower<E> {
    /// Whether anybody still listens.
    fn tell(&mut self, event: E) -> bool {
        if self.missed > 0 && self.events.try_send(E::missed(self.missed)).is_ok() {
            self.missed = 0;
        }
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.missed += 1;
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hears_what_is_theirs_and_what_they_have_missed() {
        let followers = Followers::<FlowEvent>::default();
        assert!(!followers.any());
        followers.tell(1, || unreachable!("nobody follows"));
        let (mut one, mut root) = (followers.follow(Some(1)), followers.follow(None));
        assert!(followers.any());
        for number in 0..QUEUE as u64 + 5 {
            followers.tell(2, || FlowEvent::missed(number));
        }
        assert!(one.try_recv().is_err(), "others' are not for this one");
        for number in 0..QUEUE as u64 {
            assert_eq!(root.try_recv(), Ok(FlowEvent::missed(number)));
        }
        followers.tell(1, || FlowEvent::missed(77));
        assert_eq!(root.try_recv(), Ok(FlowEvent::missed(5)));
        assert_eq!(root.try_recv(), Ok(FlowEvent::missed(77)));
        assert_eq!(one.try_recv(), Ok(FlowEvent::missed(77)));
        drop((one, root));
        followers.tell(1, || FlowEvent::missed(0));
        assert!(!followers.any());
    }
}
