//! What survives a daemon: why addresses are approved, one line of JSON for each.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use offramp_intercept::ClassId;
use offramp_rules::DomainName;
use serde::{Deserialize, Serialize};

use super::{Approval, Single};
use crate::files;

const NAME: &str = "approvals";

/// A file of the runtime folder. Lines are appended; where they no longer say how things are, it is
/// written anew.
pub(super) struct Journal {
    path: PathBuf,
    is_stale: bool,
}

/// An approval as the file has it; of several lines for one address all hold.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    class: u16,
    pub(super) address: IpAddr,
    names: Vec<String>,
    pub(super) users: Vec<u32>,
    /// Seconds of CLOCK_MONOTONIC.
    pub(super) answered: u64,
    pub(super) until: u64,
}

impl Journal {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            path: folder.join(NAME),
            is_stale: false,
        }
    }

    /// What is written is no longer so.
    pub(super) fn stale(&mut self) {
        self.is_stale = true;
    }

    pub(super) fn append(&mut self, kept: &Kept) {
        let append = || {
            let mut line = serde_json::to_vec(kept)?;
            line.push(b'\n');
            // Which names somebody has looked up is nobody else's business.
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o600);
            options.open(&self.path)?.write_all(&line)
        };
        let appended: io::Result<()> = append();
        if let Err(error) = appended {
            tracing::warn!(error = %error, "approved address not written");
        }
    }

    pub(super) fn write(&mut self, all: impl Iterator<Item = Kept>) {
        if !self.is_stale {
            return;
        }
        let mut text = Vec::new();
        for kept in all {
            if serde_json::to_writer(&mut text, &kept).is_ok() {
                text.push(b'\n');
            }
        }
        match files::write(&self.path, &text, 0o600) {
            Ok(()) => self.is_stale = false,
            Err(error) => tracing::warn!(error = %error, "approved addresses not written"),
        }
    }

    /// What can be read of it.
    pub(super) fn read(&self) -> Vec<Kept> {
        let text = fs::read(&self.path).unwrap_or_default();
        let lines = text.split(|octet| *octet == b'\n');
        lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }
}

pub(super) fn remove(folder: &Path) {
    files::remove(&folder.join(NAME));
}

impl Kept {
    pub(super) fn of((class, address): Single, approval: &Approval) -> Self {
        Self {
            class: class.number(),
            address,
            names: approval.names.iter().map(ToString::to_string).collect(),
            users: approval.users.keys().copied().collect(),
            answered: approval.answered.as_secs(),
            until: approval.until.as_secs(),
        }
    }

    pub(super) fn single(&self) -> Option<Single> {
        Some((ClassId::new(self.class)?, self.address))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = DomainName> {
        let names = self.names.iter();
        names.filter_map(|name| DomainName::parse(name).ok())
    }
}
