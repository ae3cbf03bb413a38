//! The kernel side of offramp: captures the flows of labelled apps and hands them out.
//!
//! eBPF programs on the root cgroup mark the sockets of labelled processes; a rule and a route for
//! each mark bring their packets through a pair of devices into a private network namespace, where
//! every address is local and two listeners take what arrives. Nothing here decides which app is
//! labelled, what happens to a flow or how it is relayed. Start with [`Capture`] and [`Identity`].

mod capture;
mod class;
mod events;
mod files;
mod interest;
mod label;
mod maps;
mod namespace;
mod neighbours;
mod network;
mod programs;
mod requirements;
mod sockets;
mod sweep;

pub use capture::{Capture, Config, Handed, Mended, Prepared, Probe, Repairs, StartError, Way};
pub use class::{Class, ClassId, MARK_MASK};
pub use events::Event;
pub use label::{Exec, FileId, Interest, Label, Labelled, Swept};
pub use maps::{Counter, Identity, MapError};
pub use neighbours::{Neighbour, neighbours};
pub use network::{Change, Conflict, DEVICE, NetworkError, SOURCE_V4, SOURCE_V6, Survey};
pub use requirements::{Requirement, mount_bpffs, requirements};
pub use sockets::{Datagram, Replies, Sockets, UdpIntake};
