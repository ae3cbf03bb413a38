//! Which execs the kernel programs ask about, and what they remember of the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::class::ClassId;
use crate::label::{Exec, ExecKey, FileId, Interest};
use crate::maps::{MapError, Plain, bytes, delete, get, open, put, value};
use crate::programs::skeleton::types;

const EVERY_EXEC: u32 = 1;
const BY_USER: u32 = 2;
const NAMES: u32 = 4;
const FILES: u32 = 8;
const CGROUPS: u32 = 16;

/// The name that every cgroup has: nothing is before the first slash of its path.
const EVERY_CGROUP: &str = "";

/// The maps that the exec hook looks into.
pub(crate) struct Asking {
    interest: MapHandle,
    names: MapHandle,
    files: MapHandle,
    verdicts: MapHandle,
    cgroup_names: MapHandle,
    cgroups: MapHandle,
    questions: MapHandle,
    changing: std::sync::Mutex<()>,
}

impl Asking {
    pub(crate) fn open(pins: &Path) -> Result<Self, MapError> {
        Ok(Self {
            interest: open(pins, "interest")?,
            names: open(pins, "names")?,
            files: open(pins, "files")?,
            verdicts: open(pins, "verdicts")?,
            cgroup_names: open(pins, "cgroup_names")?,
            cgroups: open(pins, "cgroups")?,
            questions: open(pins, "questions")?,
            changing: std::sync::Mutex::new(()),
        })
    }

    /// Puts `wanted` in force: what is new comes first and what is old goes last, so that at no
    /// moment less is asked about than before or after. Where that fails, every exec is asked about.
    pub(crate) fn set(&self, wanted: &Interest, cgroup_root: &Path) -> Result<(), MapError> {
        let _changing = self
            .changing
            .lock()
            .expect("nothing panics while it changes the interest");
        let wanted = Wanted::of(wanted);
        if self.add(&wanted, cgroup_root).is_err() {
            // While everything is asked about, the old may go before the new comes.
            self.ask_about_all(&wanted)?;
            self.retain(&wanted, true)?;
            self.add(&wanted, cgroup_root)?;
        }
        self.put(wanted.flags)?;
        self.retain(&wanted, false)
    }

    /// Tells all that is wanted, whatever of it fails.
    fn add(&self, wanted: &Wanted, cgroup_root: &Path) -> Result<(), MapError> {
        let names = add(&self.names, "names", &wanted.names);
        let files = add(&self.files, "files", &wanted.files);
        let cgroup_names = add(&self.cgroup_names, "cgroup_names", &wanted.cgroup_names);
        let cgroups = match wanted.cgroup_names.is_empty() {
            true => Ok(()),
            false => self.look_at_cgroups(cgroup_root, &wanted.cgroup_names),
        };
        names.and(files).and(cgroup_names).and(cgroups)
    }

    /// Takes back what is not wanted, but with `everywhere` what stands for every cgroup.
    fn retain(&self, wanted: &Wanted, everywhere: bool) -> Result<(), MapError> {
        let mut cgroup_names = wanted.cgroup_names.clone();
        cgroup_names.extend(everywhere.then(|| hash(EVERY_CGROUP)));
        let names = retain(&self.names, "names", &wanted.names);
        let files = retain(&self.files, "files", &wanted.files);
        names
            .and(files)
            .and(retain(&self.cgroup_names, "cgroup_names", &cgroup_names))
    }

    /// Has every exec asked about, and where cgroups matter an answer of its own for each of them.
    fn ask_about_all(&self, wanted: &Wanted) -> Result<(), MapError> {
        let cgroups = match wanted.flags & CGROUPS {
            0 => Ok(()),
            _ => self.mean_every_cgroup(),
        };
        self.put(wanted.flags | EVERY_EXEC)?;
        cgroups
    }

    fn mean_every_cgroup(&self) -> Result<(), MapError> {
        let every = [hash(EVERY_CGROUP)].into();
        // First, for there may be no room left.
        let room = retain(&self.cgroup_names, "cgroup_names", &every);
        let told = add(&self.cgroup_names, "cgroup_names", &every);
        // One that is not known may be meant.
        let forgotten = retain(&self.cgroups, "cgroups", &BTreeSet::<u64>::new());
        room.and(told).and(forgotten)
    }

    /// Puts flags in force; what was remembered before counts no more.
    fn put(&self, flags: u32) -> Result<(), MapError> {
        let known: types::interest = get(&self.interest, "interest", &0u32)?.unwrap_or_default();
        let fresh = types::interest {
            generation: known.generation.wrapping_add(1),
            flags,
        };
        put(&self.interest, "interest", &0u32, bytes(&fresh))
    }

    /// The question about an exec, for as long as it is open.
    pub(crate) fn question(&self, exec: u32) -> Option<Exec> {
        let found = self.questions.lookup(bytes(&exec), MapFlags::ANY);
        read_exec(&found.ok()??)
    }

    /// The open questions, each with who asks.
    pub(crate) fn questions(&self) -> Vec<(u32, u32)> {
        let asker = |exec: u32| {
            let found = self.questions.lookup(bytes(&exec), MapFlags::ANY);
            Some((exec, value::<u32>(&found.ok()??)?))
        };
        keys(&self.questions)
            .into_iter()
            .filter_map(asker)
            .collect()
    }

    /// Closes a question.
    pub(crate) fn close(&self, exec: u32) -> Result<(), MapError> {
        delete(&self.questions, "questions", &exec)
    }

    /// Remembers the answer for execs of the same kind, for as long as the interest is the same.
    pub(crate) fn remember(
        &self,
        exec: &Exec,
        class: Option<ClassId>,
        instance: u32,
    ) -> Result<(), MapError> {
        let verdict = types::verdict {
            class: class.map_or(0, |class| class.number().into()),
            instance,
            generation: exec.key.generation,
        };
        put(&self.verdicts, "verdicts", &exec.key.kind, bytes(&verdict))
    }

    /// Writes down for every cgroup that exists whether one of `names` may mean it. Those that are
    /// made meanwhile are written down by the kernel programs. One that there is no room for is left
    /// out, and so may be meant.
    fn look_at_cgroups(&self, root: &Path, names: &BTreeSet<u64>) -> Result<(), MapError> {
        let mut gone: BTreeSet<u64> = keys(&self.cgroups).into_iter().collect();
        for (id, candidate) in walk(root, names) {
            gone.remove(&id);
            put(&self.cgroups, "cgroups", &id, &[candidate.into()])
                .or_else(|_| delete(&self.cgroups, "cgroups", &id))?;
        }
        for id in gone {
            delete(&self.cgroups, "cgroups", &id)?;
        }
        Ok(())
    }
}

/// An [`Interest`] as the kernel programs have it.
struct Wanted {
    names: BTreeSet<u64>,
    files: BTreeSet<RawFile>,
    cgroup_names: BTreeSet<u64>,
    flags: u32,
}

impl Wanted {
    fn of(interest: &Interest) -> Self {
        let flags = [
            (interest.every_exec, EVERY_EXEC),
            (interest.by_user, BY_USER),
            (!interest.executables.is_empty(), NAMES),
            (!interest.files.is_empty(), FILES),
            (!interest.cgroup_names.is_empty(), CGROUPS),
        ];
        let hashes = |names: &BTreeSet<String>| names.iter().map(|name| hash(name)).collect();
        Self {
            names: hashes(&interest.executables),
            files: interest.files.iter().map(|file| raw(*file)).collect(),
            cgroup_names: hashes(&interest.cgroup_names),
            flags: flags.iter().filter(|(on, _)| *on).map(|(_, f)| f).sum(),
        }
    }
}

/// Every cgroup below `root`, and whether a name of its path is among `names`.
fn walk(root: &Path, names: &BTreeSet<u64>) -> BTreeMap<u64, bool> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(root.to_owned(), false)];
    while let Some((folder, candidate)) = folders.pop() {
        // One that goes away meanwhile is none.
        let Ok(metadata) = fs::metadata(&folder) else {
            continue;
        };
        found.insert(metadata.ino(), candidate);
        let below = fs::read_dir(&folder).into_iter().flatten().flatten();
        for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let name = entry.file_name();
            let hit = parts(&name.to_string_lossy()).any(|part| names.contains(&hash(part)));
            folders.push((entry.path(), candidate || hit));
        }
    }
    found
}

/// What of a cgroup's name is compared: all of it, what is before one of `-@.`, and what is behind
/// a `-` up to the next `-` or `@`.
fn parts(name: &str) -> impl Iterator<Item = &str> {
    let before = name
        .match_indices(['-', '@', '.'])
        .map(|(end, _)| &name[..end]);
    let within = name
        .match_indices(['-', '@'])
        .map(|(end, _)| end)
        .chain([name.len()])
        .map(|end| {
            let start = name[..end].rfind('-').map_or(0, |dash| dash + 1);
            &name[start..end]
        });
    [name].into_iter().chain(before).chain(within)
}

/// FNV-1a, as the kernel programs compute it.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn raw(file: FileId) -> RawFile {
    RawFile([
        file.inode,
        u64::from(file.generation) << 32 | u64::from(file.device),
    ])
}

/// `struct file_id`, in an order that sets can keep.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
struct RawFile([u64; 2]);

// SAFETY: two integers, without padding.
#[expect(unsafe_code, reason = "a promise about layout")]
unsafe impl Plain for RawFile {}

fn keys<K: Plain>(handle: &MapHandle) -> Vec<K> {
    // A key that goes while it is looked at begins the walk anew: the size bounds it.
    let limit = handle.max_entries() as usize;
    handle
        .keys()
        .take(limit)
        .filter_map(|key| value(&key))
        .collect()
}

fn add<K: Plain + Ord>(
    handle: &MapHandle,
    map: &'static str,
    wanted: &BTreeSet<K>,
) -> Result<(), MapError> {
    wanted
        .iter()
        .try_for_each(|key| put(handle, map, key, &[1]))
}

fn retain<K: Plain + Ord>(
    handle: &MapHandle,
    map: &'static str,
    wanted: &BTreeSet<K>,
) -> Result<(), MapError> {
    keys::<K>(handle)
        .iter()
        .filter(|key| !wanted.contains(key))
        .try_for_each(|key| delete(handle, map, key))
}

/// Reads what the exec hook asks; `struct question` of the kernel programs.
pub(crate) fn read_exec(question: &[u8]) -> Option<Exec> {
    const KIND: usize = 16;
    const CGROUP: usize = KIND + size_of::<types::kind>();
    const REST: usize = CGROUP + 8;
    const FILENAME: usize = REST + 6 * 4;
    const ARGUMENTS: usize = FILENAME + 256;
    let word = |at: usize| value::<u32>(question.get(at..)?);
    let kind: types::kind = value(question.get(KIND..)?)?;
    let text = |at: usize, length: u32| {
        let end = at + usize::try_from(length).ok()?;
        Some(String::from_utf8_lossy(question.get(at..end)?).into_owned())
    };
    let arguments = text(ARGUMENTS, word(REST + 20)?)?;
    let arguments = arguments.strip_suffix('\0').unwrap_or(&arguments);
    Some(Exec {
        number: word(4)?,
        before: Some(word(8)?).filter(|before| *before != 0),
        from: ClassId::of(u16::try_from(word(12)?).ok()?),
        pid: word(REST + 4)?,
        uid: word(REST + 8)?,
        gid: word(REST + 12)?,
        cgroup: value(question.get(CGROUP..)?)?,
        file: FileId {
            device: kind.file.device,
            inode: kind.file.inode,
            generation: kind.file.generation,
        },
        filename: text(FILENAME, word(REST + 16)?)?,
        arguments: arguments.split('\0').map(str::to_owned).collect(),
        key: ExecKey {
            kind,
            generation: word(REST)?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_compared_by_all_parts_of_its_name() {
        let of = |name| parts(name).collect::<BTreeSet<_>>();
        let scope = of("app-gnome-org.mozilla.firefox-1234.scope");
        for part in [
            "app-gnome-org.mozilla.firefox-1234.scope",
            "app-gnome-org.mozilla.firefox-1234",
            "app-gnome-org.mozilla.firefox",
            "org.mozilla.firefox",
            "gnome",
            "app",
        ] {
            assert!(scope.contains(part), "{part}");
        }
        assert!(!scope.contains("mozilla"));
        let template = of("getty@tty1.service");
        assert!(template.contains("getty") && !template.contains("tty1"));
    }

    #[test]
    fn a_name_is_hashed_as_the_standard_says() {
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash("foobar"), 0x8594_4171_f739_67e8);
    }
}
