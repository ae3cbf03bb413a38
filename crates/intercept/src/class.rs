use std::fmt;

/// The bits of a packet mark that say the class. They keep clear of WireGuard's and Tailscale's.
pub const MARK_MASK: u32 = 0xfff0_0000;
const MARK_SHIFT: u32 = 20;

/// What comes back from the private namespace: its table leads there and nowhere else.
pub(crate) const RETURN_CLASS: ClassId = ClassId(4095);

/// The apps that the same rules of the same profiles match: one mark and one route table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(u16);

impl ClassId {
    /// How many classes may exist at once.
    pub const LIMIT: u16 = 4093;

    /// The class of processes that wait for a verdict. It is defined like any other.
    pub const UNDECIDED: Self = Self(4094);

    /// Class `number`, from 1 to [`ClassId::LIMIT`].
    pub fn new(number: u16) -> Option<Self> {
        (1..=Self::LIMIT).contains(&number).then_some(Self(number))
    }

    /// What the kernel programs mean by `number`; none for unmanaged.
    pub(crate) fn of(number: u16) -> Option<Self> {
        (number == Self::UNDECIDED.0)
            .then_some(Self::UNDECIDED)
            .or_else(|| Self::new(number))
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.0
    }

    /// The mark that the sockets of its apps carry for life.
    pub fn mark(self) -> u32 {
        u32::from(self.0) << MARK_SHIFT
    }
}

impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the kernel needs to know of a class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Targets that are reached directly.
    pub direct: Vec<offramp_rules::Prefix>,
    /// Whether multicast and broadcast go out.
    pub multicast: bool,
    /// Whether others may connect to its apps.
    pub inbound: bool,
    /// The user who chose the upstream: programs that run with other rights (setuid) are refused.
    pub personal: Option<u32>,
    /// Whether flows may begin.
    pub open: bool,
    /// Whether the upstream carries UDP.
    pub udp: bool,
    /// Whether its apps are not captured: the label is inherited, and no more.
    pub tracked: bool,
    /// Whether every program that its apps start is asked about.
    pub tools: bool,
    /// Whether the next sweep gives its sockets back where no captured process holds them.
    pub ending: bool,
}
