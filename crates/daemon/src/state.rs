//! What survives a restart: the IPv6 block of synthetic addresses, the names, what is switched off.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use offramp_rules::{Prefix, ProfileId};

use crate::files;
use crate::policy::{Blocks, Book, Policy};
use crate::told::Told;

/// How many bytes of new names there may be until all are written anew.
const NEW_NAMES: u64 = 2 << 20;
/// The file of what apps were told.
const TOLD: &str = "told.json";

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
            let open = |name: String| -> Box<dyn io::Read> {
                match File::open(self.folder.join(name)) {
                    Ok(file) => Box::new(file),
                    Err(_) => Box::new(io::empty()),
                }
            };
            let (saved, new) = (open(names_file(blocks)), open(new_names_file(blocks)));
            if let Err(error) = book.names.load(saved, new) {
                tracing::warn!(error = %error, "remembered names not read");
            }
        }
    }

    /// Adds what is new to the names that were saved.
    pub(crate) fn save_new_names(&self, policy: &Policy) {
        for (blocks, book) in policy.books() {
            // Whoever was killed may have left a line without its end.
            let mut text = vec![b'\n'];
            let path = self.folder.join(new_names_file(blocks));
            let saved = match book.names.save_new(&mut text) {
                Ok(true) if text.len() == 1 => Ok(()),
                Ok(true) => match files::append(&path, &text, 0o600) {
                    Ok(size) if size > NEW_NAMES => self.save_names_of(blocks, book),
                    appended => appended.map(drop),
                },
                Ok(false) => self.save_names_of(blocks, book),
                Err(error) => Err(error),
            };
            self.tell_saved(saved);
        }
    }

    pub(crate) fn save_names(&self, policy: &Policy) {
        for (blocks, book) in policy.books() {
            self.tell_saved(self.save_names_of(blocks, book));
        }
    }

    fn save_names_of(&self, blocks: &Blocks, book: &Book) -> io::Result<()> {
        let mut text = Vec::new();
        book.names.save(&mut text)?;
        self.write(&names_file(blocks), &text)?;
        match fs::remove_file(self.folder.join(new_names_file(blocks))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn tell_saved(&self, saved: io::Result<()>) {
        if let Err(error) = saved {
            tracing::warn!(folder = %self.folder.display(), error = %error, "names not saved");
        }
    }

    /// What apps were told before. It is taken: after a crash a part of it would be worse than nothing,
    /// because of two names of an address one would be left.
    pub(crate) fn take_told(&self, told: &Told) {
        let path = self.folder.join(TOLD);
        let Ok(text) = fs::read(&path) else { return };
        files::remove(&path);
        if let Err(error) = told.load(&text) {
            tracing::warn!(error = %error, "true addresses of names not read");
        }
    }

    pub(crate) fn save_told(&self, told: &Told) {
        let saved = told.save().and_then(|text| self.write(TOLD, &text));
        if let Err(error) = saved {
            tracing::warn!(folder = %self.folder.display(), error = %error, "true addresses of names not saved");
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

/// What has come since the other file was written.
fn new_names_file(blocks: &Blocks) -> String {
    names_file(blocks) + "-new"
}

fn names_file((v4, v6): &Blocks) -> String {
    let v6 = v6.map(|v6| v6.to_string()).unwrap_or_default();
    format!("names-{v4}-{v6}").replace(['/', ':'], "_")
}
