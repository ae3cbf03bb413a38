//! The time between the start of the machine and that of the daemon: the apps that profiles name
//! are refused, all others are free.
//!
//! What stays behind is what a daemon that was killed leaves: programs on their hooks, what names
//! apps, classes, the device. The daemon adopts it. There is no listener and no heartbeat that
//! counts, so that nothing is captured meanwhile.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use offramp_intercept::{Capture, Sockets, StartError};
use offramp_rules::{Identity, Profile, Profiles, Rule};

use crate::shared::Shared;
use crate::start::{Parts, check_requirements, make_runtime, restore};
use crate::state::State;
use crate::{Config, chain};

/// Has the kernel refuse the apps that the profiles name, until a daemon serves them. Needs no
/// network, no name service and no other process. Does nothing where no rule names an app, and
/// where a daemon serves this network already.
pub async fn lockdown(config: Config) -> anyhow::Result<()> {
    ask_files_for_names();
    let bpffs = config.capture().bpffs;
    if let Err(error) = offramp_intercept::mount_bpffs(&bpffs) {
        tracing::warn!(path = %bpffs.display(), error = chain(&error), "bpffs not mounted");
    }
    check_requirements(&config)?;
    let loaded = offramp_profile::load(&config.directories(), None);
    let rules = Profiles::new(loaded.profiles.iter().map(|profile| profile.rules.clone()));
    let asks_for_browsers = |profile: &Arc<offramp_profile::Profile>| {
        profile.rules.enabled && !profile.browser_domains.is_empty()
    };
    let naming = count_rules(&rules)
        + loaded
            .profiles
            .iter()
            .filter(|own| asks_for_browsers(own))
            .count();
    if naming == 0 {
        for problem in &loaded.problems {
            tracing::warn!(problem = %problem, "profile problem");
        }
        tracing::info!("no rule names an app: nothing to refuse");
        return Ok(());
    }
    let mut wanted = config.capture();
    // No heartbeat is fresh enough, not even that of the start.
    wanted.patience = Duration::ZERO;
    make_runtime(&config)?;
    let (capture, sockets) = match Capture::start(&wanted).await {
        Ok(started) => started,
        Err(StartError::Busy) => {
            tracing::info!("a daemon serves this network already");
            return Ok(());
        }
        Err(error) => return Err(error).context("nothing is refused: cannot capture"),
    };
    let shared = lock(config, capture, &sockets);
    restore(&shared).await?;
    shared.begin_recognising().await;
    tracing::info!(
        rules = naming,
        "the apps that rules name are refused until the daemon serves them"
    );
    Ok(())
}

/// What the daemon has, without servers. A state folder that cannot be written is none of its matter.
fn lock(config: Config, capture: Capture, sockets: &Sockets) -> Arc<Shared> {
    let state = State::at(&config.state);
    let synthetic_v6 = state.synthetic_v6().unwrap_or_else(|error| {
        tracing::warn!(error = %error, "state folder not written");
        "fd00::/64".parse().expect("it is a block")
    });
    Parts::read(config, synthetic_v6, false).assemble(capture, sockets, &state)
}

/// How many rules of enabled profiles name apps by themselves, not by `offramp run`.
fn count_rules(rules: &Profiles) -> usize {
    let enabled = rules.iter().filter(|profile: &&Profile| profile.enabled);
    let all = enabled.flat_map(|profile| &profile.rules);
    all.filter(|rule: &&Rule| !matches!(rule.identity, Identity::Wrapper(_)))
        .count()
}

/// The names of users and groups are asked of files alone: services that know more may wait for the
/// network.
#[expect(unsafe_code, reason = "glibc has no other way to say so")]
fn ask_files_for_names() {
    unsafe extern "C" {
        /// nss.h of glibc: what nsswitch.conf says of a database counts no more.
        fn __nss_configure_lookup(
            database: *const libc::c_char,
            services: *const libc::c_char,
        ) -> libc::c_int;
    }
    for database in [c"passwd", c"group", c"initgroups"] {
        // SAFETY: both are strings that end with zero, and glibc copies them; nothing is looked up
        // at this time.
        unsafe { __nss_configure_lookup(database.as_ptr(), c"files".as_ptr()) };
    }
}
