//! What survives a restart: the IPv6 block of synthetic addresses, the names, what is switched off.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use offramp_rules::{Prefix, ProfileId};

use crate::files;
use crate::policy::Policy;

/// The folder of `--state`.
pub(crate) struct State {
    folder: PathBuf,
}

impl State {
    /// Makes the folder and sees that it can be written.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let state = Self::at(folder);
        state.write("writable", b"")?;
        fs::remove_file(folder.join("writable"))?;
        Ok(state)
    }

    /// The folder as it is.
    pub(crate) fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// A /64 of a random ULA block (RFC 4193 section 3.2.2), chosen once for this machine.
    pub(crate) fn synthetic_v6(&self) -> io::Result<Prefix> {
        let name = "synthetic-ipv6";
        if let Ok(text) = fs::read_to_string(self.folder.join(name))
            && let Ok(prefix) = text.trim().parse()
        {
            return Ok(prefix);
        }
        let mut octets = [0; 16];
        let mut random = File::open("/dev/urandom")?;
        io::Read::read_exact(&mut random, &mut octets[1..8])?;
        octets[0] = 0xfd;
        let prefix =
            Prefix::containing(Ipv6Addr::from(octets).into(), 64).expect("64 is a length of IPv6");
        self.write(name, prefix.to_string().as_bytes())?;
        Ok(prefix)
    }

    /// The names that synthetic addresses stood for.
    pub(crate) fn load_names(&self, policy: &Policy) {
        for (blocks, book) in policy.books() {
            if let Ok(file) = File::open(self.folder.join(names_file(blocks)))
                && let Err(error) = book.names.load(file)
            {
                tracing::warn!(error = %error, "remembered names not read");
            }
        }
    }

    pub(crate) fn save_names(&self, policy: &Policy) {
        for (blocks, book) in policy.books() {
            let mut text = Vec::new();
            let saved = book
                .names
                .save(&mut text)
                .and_then(|()| self.write(&names_file(blocks), &text));
            if let Err(error) = saved {
                tracing::warn!(folder = %self.folder.display(), error = %error, "names not saved");
            }
        }
    }

    pub(crate) fn off(&self) -> BTreeSet<ProfileId> {
        let text = fs::read(self.folder.join("off.json")).unwrap_or_default();
        let names: Vec<String> = serde_json::from_slice(&text).unwrap_or_default();
        names.iter().map(|name| ProfileId::new(name)).collect()
    }

    pub(crate) fn set_off(&self, off: &BTreeSet<ProfileId>) -> io::Result<()> {
        let names: Vec<&str> = off.iter().map(ProfileId::as_str).collect();
        self.write(
            "off.json",
            &serde_json::to_vec(&names).map_err(io::Error::other)?,
        )
    }

    fn write(&self, name: &str, text: &[u8]) -> io::Result<()> {
        // The names that apps looked up are nobody else's business.
        files::write_to_last(&self.folder.join(name), text, 0o600)
    }
}

fn names_file((v4, v6): &(Prefix, Option<Prefix>)) -> String {
    let v6 = v6.map(|v6| v6.to_string()).unwrap_or_default();
    format!("names-{v4}-{v6}").replace(['/', ':'], "_")
}
