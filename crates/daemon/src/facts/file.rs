//! A file that was opened, and where it is.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use offramp_intercept::FileId;

use super::mounts;

/// A file, held open: what is asked of it is asked of this very file.
pub(super) struct Opened {
    /// For reading, where it may be read. None: only the name is known.
    file: Option<File>,
    /// None where the file system tells nobody but its user, as FUSE does.
    metadata: Option<Metadata>,
    pub(super) id: Option<FileId>,
    /// The name of a file that is no longer found.
    lost: Option<String>,
}

/// Where a file is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Its own name there.
    pub(super) name: Option<String>,
    /// The path by which the host sees it, or saw it until it was deleted there.
    pub(super) path: Option<PathBuf>,
    /// Whether the host sees it there no more.
    pub(super) is_gone: bool,
}

impl Opened {
    /// The file that a path leads to.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let handle = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(path)?;
        Self::from_handle(handle)
    }

    /// The file that a path leads to which a process named: never what the daemon itself has open.
    pub(super) fn named(path: &Path) -> io::Result<Self> {
        Self::below(AT_FDCWD, path, ResolveFlag::RESOLVE_NO_MAGICLINKS)
    }

    /// The file that a path leads to from a folder, by the rules given.
    pub(super) fn below(folder: impl AsFd, path: &Path, resolve: ResolveFlag) -> io::Result<Self> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(resolve);
        Self::from_handle(openat2(folder, path, how)?.into())
    }

    /// The file of a handle that was opened with `O_PATH`.
    pub(super) fn from_handle(handle: File) -> io::Result<Self> {
        let Ok(metadata) = handle.metadata() else {
            return Ok(Self {
                file: Some(handle),
                metadata: None,
                id: None,
                lost: None,
            });
        };
        if !metadata.is_file() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // Generations are told of files that are open for reading.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(descriptor(&handle))
            .unwrap_or(handle);
        Ok(Self {
            id: FileId::of(&file).ok(),
            metadata: Some(metadata),
            file: Some(file),
            lost: None,
        })
    }

    /// A file that was executed under this name and is no longer found.
    pub(super) fn lost(name: String) -> Self {
        Self {
            file: None,
            metadata: None,
            id: None,
            lost: Some(name),
        }
    }

    /// The same with an identity that was found otherwise, if it was.
    pub(super) fn known_as(self, id: Option<FileId>) -> Self {
        Self {
            id: id.or(self.id),
            ..self
        }
    }

    /// Whether it was opened on a mount that the daemon sees.
    pub(super) fn is_on_mount_of_host(&self) -> bool {
        self.file.as_ref().is_some_and(mounts::is_of_host)
    }

    pub(super) fn owner(&self) -> Option<u32> {
        self.metadata.as_ref().map(MetadataExt::uid)
    }

    pub(super) fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    /// The first octets.
    pub(super) fn head(&self, limit: usize) -> Vec<u8> {
        let mut head = vec![0; limit];
        let length = self.read_at(&mut head, 0).unwrap_or(0);
        head.truncate(length);
        head
    }

    /// Fills `buffer` from `at`; 0 at the end.
    pub(super) fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        match &self.file {
            Some(file) => file.read_at(buffer, at),
            None => Ok(0),
        }
    }

    /// Whether a path of the host leads to this file.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.id.is_some() && Self::at(path).is_ok_and(|other| other.id == self.id)
    }

    /// Where it is. The kernel's own text is believed only where the host sees the file there, or
    /// where the file is on a mount of the host and its name was deleted.
    pub(super) fn place(&self) -> Place {
        let Some(link) = self.link() else {
            return Place {
                name: self.lost.clone(),
                ..Place::default()
            };
        };
        // The kernel's text has no links in it: what leads through one is a path of other mounts.
        if let Some(id) = self.id
            && let Ok(seen) = Self::below(AT_FDCWD, &link, ResolveFlag::RESOLVE_NO_SYMLINKS)
            && seen.id == Some(id)
        {
            return Place {
                name: name_of(&link),
                path: Some(link),
                is_gone: false,
            };
        }
        let bare = link
            .to_str()
            .and_then(|text| text.strip_suffix(" (deleted)"))
            .map(PathBuf::from);
        let path = bare.unwrap_or(link);
        Place {
            name: memory_name(&path).or_else(|| name_of(&path)),
            path: self.is_on_mount_of_host().then_some(path),
            is_gone: true,
        }
    }

    fn link(&self) -> Option<PathBuf> {
        fs::read_link(descriptor(self.file.as_ref()?)).ok()
    }
}

/// The link by which the kernel tells about an open file.
fn descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

pub(super) fn name_of(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// The name of a file in memory alone, which may hold any character.
fn memory_name(path: &Path) -> Option<String> {
    let name = path.to_str()?.strip_prefix('/')?;
    name.starts_with("memfd:").then(|| name.to_owned())
}
