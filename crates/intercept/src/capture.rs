//! Capture as a whole: start, classes, identities, stop.

mod approvals;
mod claim;
mod config;
mod labels;
mod mend;
mod probe;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use offramp_rules::Prefix;
use socket2::SockRef;
use tokio::sync::Mutex;

use crate::class::{Class, ClassId, RETURN_CLASS};
use crate::events::{Event, Events};
use crate::interest::Asking;
use crate::maps::{Approval, Counter, Identity, MapError, Maps};
use crate::namespace::Namespace;
use crate::network::{Changes, ClassRoutes, Network, Survey};
use crate::programs::{self, Loader, Places, Returning, skeleton::types};
use crate::requirements::{cgroup_root, kernel_version, requirements};
use crate::sockets::Sockets;
use crate::sweep::Sweeper;

use self::claim::Claim;
pub use self::config::{Config, StartError};
use self::mend::Health;
pub use self::mend::{Mended, Repairs};
pub use self::probe::{Probe, Way};
pub use self::takeover::{Handed, Prepared};

/// A running capture.
pub struct Capture {
    maps: Maps,
    asking: Asking,
    sweeper: Sweeper,
    network: Mutex<Network>,
    namespace: Arc<Namespace>,
    classes: Mutex<BTreeMap<ClassId, Class>>,
    survey: Mutex<Survey>,
    /// Single targets that are approved besides those of the class.
    approvals: Mutex<BTreeMap<ClassId, BTreeSet<Prefix>>>,
    events: Mutex<Events>,
    changes: Mutex<Changes>,
    health: Health,
    returning: Returning,
    config: Config,
    pins: PathBuf,
    is_first: bool,
    claim: Claim,
}

impl Capture {
    /// Starts capturing for the network namespace of the caller, or takes over what an earlier run
    /// left. Flows of labelled apps arrive at the sockets from here on.
    pub async fn start(config: &Config) -> Result<(Self, Sockets), StartError> {
        if let Some(missing) = requirements(&config.bpffs)
            .into_iter()
            .find(|found| found.remedy.is_some())
        {
            return Err(StartError::Missing(missing));
        }
        let own = netns_cookie().map_err(StartError::Sockets)?;
        let claim = Claim::take(own)?;
        if Maps::pinned_for(&pins(config)).is_some_and(|cookie| cookie != own) {
            return Err(StartError::Elsewhere(config.instance.clone()));
        }
        let is_first = !pins(config).exists();
        let mut started = Self::build(config, claim).await;
        match &mut started {
            Ok((capture, _)) => capture.is_first = is_first,
            // Nobody was labelled yet: what has been added so far goes again.
            Err(_) if is_first => drop(Self::remove(config).await),
            Err(_) => {}
        }
        started
    }

    async fn build(config: &Config, claim: Claim) -> Result<(Self, Sockets), StartError> {
        let path = config.runtime.join("netns");
        let failed = |source| StartError::Namespace {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(&config.runtime).map_err(failed)?;
        let namespace = Arc::new(Namespace::open_or_create(&path).map_err(failed)?);
        let network = Network::start(&namespace, &config.runtime).await?;
        let ipv6 = Path::new("/proc/net/if_inet6").exists();
        let sockets = Sockets::open(&namespace, ipv6).map_err(StartError::Sockets)?;
        let loader = load(config)?;
        Self::begin(config, claim, namespace, network, sockets, loader).await
    }

    /// Puts the programs to work, with sockets that flows can arrive at.
    async fn begin(
        config: &Config,
        claim: Claim,
        namespace: Arc<Namespace>,
        network: Network,
        sockets: Sockets,
        loader: Loader,
    ) -> Result<(Self, Sockets), StartError> {
        let changes = network.watch(&namespace)?;
        let descriptors = sockets.descriptors().map_err(StartError::Sockets)?;
        let devices = (network.device(), network.inner_device());
        let (maps, returning) = put_to_work(loader, config, devices, &namespace, &descriptors)?;
        let pins = pins(config);
        let events = Events::open(&maps.events).map_err(StartError::Events)?;
        let capture = Self {
            asking: Asking::open(&pins)?,
            sweeper: Sweeper::open(&pins)?,
            maps,
            network: Mutex::new(network),
            namespace,
            classes: Mutex::new(BTreeMap::new()),
            survey: Mutex::new(Survey::default()),
            approvals: Mutex::new(BTreeMap::new()),
            events: Mutex::new(events),
            changes: Mutex::new(changes),
            health: Health::default(),
            returning,
            config: config.clone(),
            pins,
            is_first: true,
            claim,
        };
        capture.refresh().await?;
        Ok((capture, sockets))
    }

    /// Whether no earlier run had left anything: nobody is refused who would not be without this one.
    pub fn is_first(&self) -> bool {
        self.is_first
    }

    /// Says that the daemon is well; to be called several times within [`Config::patience`].
    pub fn beat(&self) -> Result<(), MapError> {
        self.maps.beat(monotonic())
    }

    /// Says that all datagrams that had arrived over this family are taken, and users may send as many
    /// again as one may have waiting.
    pub fn took_all(&self, ipv6: bool) {
        if let Err(error) = self.maps.begin_round(ipv6, monotonic()) {
            tracing::debug!(error = %error, "datagrams not let on");
        }
    }

    /// How many datagrams were dropped because their user had as many waiting as one may have.
    pub fn crowded(&self) -> u64 {
        self.maps.crowded()
    }

    /// The classes that are defined, those of an earlier run among them.
    pub fn known_classes(&self) -> Result<Vec<ClassId>, MapError> {
        self.maps.classes()
    }

    /// Defines or changes a class.
    pub async fn set_class(&self, id: ClassId, class: Class) -> Result<(), StartError> {
        let mut classes = self.classes.lock().await;
        let before = classes.get(&id);
        if before != Some(&class) {
            self.apply(id, before, &class).await?;
            classes.insert(id, class);
        }
        Ok(())
    }

    /// Forgets a class that no task is labelled with any more.
    pub async fn remove_class(&self, id: ClassId) -> Result<(), StartError> {
        // Held to the end: an approval meanwhile would be the next class's.
        let mut classes = self.classes.lock().await;
        classes.remove(&id);
        self.approvals.lock().await.remove(&id);
        self.network.lock().await.tables().remove_class(id).await?;
        for target in self.maps.approved(id) {
            self.maps.disapprove(id, target)?;
        }
        // Last: of one that is cut short the next start knows that it was there.
        Ok(self.maps.clear_class(id)?)
    }

    /// Whose an accepted TCP flow is. To be asked once for each flow; none: reset it.
    pub fn identify_tcp(&self, source: SocketAddr, target: SocketAddr) -> Option<Identity> {
        self.maps.take_identity(source, target)
    }

    /// Whose a UDP datagram is; none: drop it.
    pub fn identify_udp(&self, source: SocketAddr, target: SocketAddr) -> Option<Identity> {
        self.maps.identity(source, target)
    }

    /// Forgets the identity of a UDP flow that has ended.
    pub fn forget_udp(&self, source: SocketAddr, target: SocketAddr) {
        self.maps.forget_identity(source, target);
    }

    /// The resolver that the app asked, where `target` stands for one. None: it stands for one that
    /// is forgotten.
    pub fn asked(&self, target: IpAddr) -> Option<IpAddr> {
        match target {
            IpAddr::V4(v4) if v4.octets()[0] == 240 => {
                let [_, b, c, d] = v4.octets();
                Some(Ipv4Addr::new(127, b, c, d).into())
            }
            IpAddr::V6(v6) if v6 == STAND_IN_LOOPBACK => Some(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(v4) if v4.octets()[0] == 242 => self.maps.resolver(target),
            IpAddr::V6(v6) if v6.segments()[..5] == STAND_IN_V6 => self.maps.resolver(target),
            _ => Some(target),
        }
    }

    /// Waits for something to happen in the kernel.
    pub async fn event(&self) -> Option<Event> {
        let event = self.events.lock().await.next().await;
        if let Some(Event::Ended) = event
            && let Err(error) = self.maps.listen_for_ends()
        {
            tracing::warn!(error = %error, "ends of processes are not told");
        }
        event
    }

    /// What has been taken out of the kernel's ring and not been waited for yet. Nothing more is
    /// taken out.
    pub async fn taken_events(&self) -> Vec<Event> {
        self.events.lock().await.taken()
    }

    /// What the kernel programs counted.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.maps.counter(counter)
    }

    /// How many entries each of the kernel's maps has that grows and shrinks; takes a system call
    /// for each entry.
    pub fn map_entries(&self) -> [(&'static str, usize); 4] {
        self.maps.entries()
    }

    /// The host's network as of the last [`Capture::refresh`].
    pub async fn survey(&self) -> Survey {
        self.survey.lock().await.clone()
    }

    /// Looks at the host's network again and tells the kernel programs what changed. Returns
    /// whether anything did.
    pub async fn refresh(&self) -> Result<bool, StartError> {
        // Held while settings are written.
        let network = self.network.lock().await;
        let fresh = network.survey().await?;
        let mut survey = self.survey.lock().await;
        let changed = *survey != fresh;
        self.maps.set_own(&fresh.own)?;
        let mut settings = self.maps.settings()?;
        settings.ipv6 = fresh.ipv6.into();
        self.maps.set_settings(&settings)?;
        *survey = fresh;
        Ok(changed)
    }

    /// Removes what an earlier run left on the machine, without a daemon. Apps that are still labelled go direct
    /// from here on.
    pub async fn uninstall(config: &Config) -> Result<(), StartError> {
        let own = netns_cookie().map_err(StartError::Sockets)?;
        let of = Maps::pinned_for(&pins(config)).unwrap_or(own);
        // A daemon that is alive holds the lock of its namespace.
        let _claim = Claim::take(of)?;
        Self::remove(config).await
    }

    async fn remove(config: &Config) -> Result<(), StartError> {
        let path = config.runtime.join("netns");
        let failed = |source| StartError::Namespace {
            path: path.clone(),
            source,
        };
        // The programs go last: as long as they are there all apps are refused.
        Network::uninstall(&config.runtime).await?;
        Namespace::remove_at(&path).map_err(failed)?;
        release(&pins(config)).map_err(failed)
    }

    /// Removes everything that was added to the machine. Apps that are still labelled go direct
    /// from here on.
    pub async fn stop(&self) -> Result<(), StartError> {
        let failed = |source| StartError::Namespace {
            path: self.pins.clone(),
            source,
        };
        // From here on nothing begins; the programs go last, as in `remove`.
        self.maps.beat(0)?;
        self.network.lock().await.stop().await?;
        self.namespace.remove().map_err(failed)?;
        release(&self.pins).map_err(failed)
    }

    async fn apply(
        &self,
        id: ClassId,
        before: Option<&Class>,
        class: &Class,
    ) -> Result<(), StartError> {
        let wanted: BTreeSet<Prefix> = class.direct.iter().copied().collect();
        // Of a class that an earlier run left, everything that is not wanted goes.
        let known: BTreeSet<Prefix> = match before {
            Some(before) => before.direct.iter().copied().collect(),
            None => {
                let approvals = self.approvals.lock().await;
                let is_single = |target: &Prefix| {
                    let singles = approvals.get(&id);
                    singles.is_some_and(|singles| singles.contains(target))
                };
                let known = self.maps.approved(id).into_iter();
                known.filter(|target| !is_single(target)).collect()
            }
        };
        for target in wanted.difference(&known) {
            self.maps.approve(id, *target, Approval::ByRule)?;
        }
        if let Some(singles) = self.approvals.lock().await.get_mut(&id) {
            singles.retain(|single| !wanted.contains(single) && !known.contains(single));
        }
        let network = self.network.lock().await;
        for target in known.difference(&wanted) {
            network.tables().unthrow(id, *target).await?;
            self.maps.disapprove(id, *target)?;
        }
        let throws = match before {
            Some(_) => wanted.difference(&known).copied().collect(),
            None => wanted.into_iter().collect(),
        };
        network
            .tables()
            .add_class(id, &ClassRoutes { throws })
            .await?;
        Ok(self.maps.set_class(id, id.mark(), class)?)
    }
}

/// How the stand-ins of IPv6 resolvers begin.
const STAND_IN_V6: [u16; 5] = [0x2001, 2, 0, 0x53, 1];
/// The stand-in of ::1, as the kernel programs have it.
const STAND_IN_LOOPBACK: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0x53, 0, 0, 0, 1);

/// Lets all apps go, each class at once with all that it does, and then removes the programs.
fn release(pins: &Path) -> io::Result<()> {
    Maps::release_classes(pins);
    programs::unpin(pins)
}

fn pins(config: &Config) -> PathBuf {
    config.bpffs.join("offramp").join(&config.instance)
}

/// The programs, loaded and not yet attached.
fn load(config: &Config) -> Result<Loader, StartError> {
    Ok(Loader::load(&pins(config), has_connect_unix())?)
}

fn has_connect_unix() -> bool {
    kernel_version().is_some_and(|version| version >= (6, 7))
}

/// Attaches the programs where none are, or in the place of those that are.
fn put_to_work(
    mut loader: Loader,
    config: &Config,
    (device, inner_device): (u32, u32),
    namespace: &Namespace,
    sockets: &[OwnedFd; 4],
) -> Result<(Maps, Returning), StartError> {
    let cgroup = cgroup_root().expect("the requirements were checked");
    let failed = |source| StartError::Namespace {
        path: cgroup.clone(),
        source,
    };
    let cgroup_file = File::open(&cgroup).map_err(failed)?;
    let maps = Maps::open(&pins(config))?;
    let mut settings = maps.settings()?;
    settings = types::settings {
        netns_cookie: netns_cookie().map_err(StartError::Sockets)?,
        patience: u64::try_from(config.patience.as_nanos()).unwrap_or(u64::MAX),
        device,
        inner_device,
        return_mark: RETURN_CLASS.mark(),
        // Everything has just been made whole.
        broken: 0,
        ..settings
    };
    maps.set_settings(&settings)?;
    maps.beat(monotonic())?;
    for (slot, socket) in (0..).zip(sockets) {
        let cookie = SockRef::from(socket)
            .cookie()
            .map_err(StartError::Sockets)?;
        // The one that is there may be this one: it is not taken away for a moment.
        if maps.listener(slot) != Some(cookie) {
            maps.set_listener(slot, socket.as_raw_fd())?;
        }
    }
    loader.attach(&Places {
        cgroup: cgroup_file.as_fd(),
        namespace: namespace.file().as_fd(),
        device,
        connect_unix: has_connect_unix(),
    })?;
    Ok((maps, loader.returning()?))
}

/// The cookie of the caller's network namespace.
fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    cookie(&socket, SO_NETNS_COOKIE)
}

/// One of the cookies of asm-generic/socket.h, which neither nix nor socket2 have.
#[expect(unsafe_code, reason = "calls getsockopt")]
fn cookie(socket: &socket2::Socket, option: libc::c_int) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).expect("8 fits");
    // SAFETY: the option writes eight octets at most, and `cookie` has them.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What `bpf_ktime_get_ns` reads, in nanoseconds.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock exists since Linux 2.6");
    u64::try_from(Duration::from(now).as_nanos()).expect("584 years have not gone by")
}
