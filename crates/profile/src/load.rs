mod good;
mod settle;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use offramp_rules::{Layer, ProfileId, Profiles};

use crate::credentials::Credentials;
use crate::files::{self, Refused};
use crate::json::SIZE;
use crate::notice::Notices;
use crate::problem::{Code, Problem};
use crate::profile::Profile;
use crate::read::{Contents, read_contents};
use crate::user;
use good::Good;
use settle::Candidates;

/// The profiles in force, and what is wrong with the files that they come from.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// In the order in which they are asked; no two with one name.
    pub profiles: Vec<Arc<Profile>>,
    /// In the order of the files, then of the places in them.
    pub problems: Vec<Problem>,
    /// What every file said when it was last good.
    files: BTreeMap<PathBuf, Arc<Contents>>,
}

impl Loaded {
    /// What decides about flows.
    pub fn rules(&self) -> Profiles {
        Profiles::new(self.profiles.iter().map(|profile| profile.rules.clone()))
    }

    /// The profile with this name.
    pub fn find(&self, id: &ProfileId) -> Option<&Arc<Profile>> {
        self.profiles.iter().find(|profile| profile.id() == id)
    }

    /// The profile that a user means by a name: the first in the order of the layers whose
    /// `Identifier`, or whole name, it is, and that is no other user's.
    pub fn find_for(&self, uid: u32, name: &str) -> Option<&Arc<Profile>> {
        self.profiles.iter().find(|profile| {
            let is_named = profile.identifier() == name || profile.id().as_str() == name;
            is_named && profile.rules.owner.is_none_or(|owner| owner == uid)
        })
    }
}

/// Where profiles and credentials are.
#[derive(Clone, Debug)]
pub struct Directories {
    /// `policies/managed`, `policies/recommended` and `credentials` are in it.
    pub config: PathBuf,
    /// What packages bring: `managed` and `recommended` are in it. A file of the same name in the
    /// configuration, or a link to /dev/null there, takes the place of one here.
    pub vendor: Option<PathBuf>,
    /// What users have given: `UID/policies` and `UID/credentials` are in it. None: users have no
    /// profiles.
    pub users: Option<PathBuf>,
    /// The daemon's own directory: in `good` are copies of what every file said when it was last
    /// good. None: nothing is remembered across restarts.
    pub state: Option<PathBuf>,
}

impl Directories {
    /// The configuration directory `config` with the vendor's `/usr/lib/offramp/policies`.
    pub fn new(config: impl Into<PathBuf>) -> Self {
        Self {
            config: config.into(),
            vendor: Some(PathBuf::from("/usr/lib/offramp/policies")),
            users: None,
            state: None,
        }
    }

    /// The user whose file this is, if it is one that a user has given.
    pub fn owner_of(&self, file: &Path) -> Option<u32> {
        user::of(self.users.as_ref()?, file)
    }

    /// The same with what the daemon keeps in `state`: users' files in `users`, copies in `good`.
    pub fn with_state(self, state: impl Into<PathBuf>) -> Self {
        let state = state.into();
        Self {
            users: Some(state.join("users")),
            state: Some(state),
            ..self
        }
    }
}

/// Reads all profiles. A file that has become bad keeps its last good profiles, from `previous` or
/// from a copy in the state directory, and its problems are told; a file that is gone is gone.
///
/// Files and their directories have to belong to root or to the user of this process, and nobody
/// else may write them.
///
/// A user's profile is for this user's processes alone. It comes before a recommended profile of the
/// same `Identifier`, which still claims those of this user's processes that the user's profile does
/// not; a managed one of that `Identifier` supersedes it.
pub fn load(directories: &Directories, previous: Option<&Loaded>) -> Loaded {
    let mut loader = Loader {
        loaded: Loaded::default(),
        candidates: Candidates::default(),
        good: directories.state.as_deref().map(Good::open),
        previous,
    };
    loader.machine(directories);
    // Also while their credentials are looked at, below.
    let _held = directories.users.as_deref().and_then(user::hold);
    if let Some(users) = &directories.users {
        loader.users(users);
    }
    loader.finish(directories)
}

/// The text that stands for a link to /dev/null.
const NOTHING: &str = "";

struct Loader<'a> {
    loaded: Loaded,
    candidates: Candidates,
    good: Option<Good>,
    previous: Option<&'a Loaded>,
}

impl Loader<'_> {
    fn machine(&mut self, directories: &Directories) {
        let policies = directories.config.join("policies");
        // A later file goes before an earlier one of the same layer, also of the vendor's.
        for (name, layer) in [
            ("recommended", Layer::Recommended),
            ("managed", Layer::Managed),
        ] {
            let above = [&*directories.config, &*policies];
            let masked = self.directory(&policies.join(name), &above, layer, None, &[]);
            if let Some(vendor) = &directories.vendor {
                let folder = vendor.join(name);
                self.directory(&folder, &[vendor], Layer::Vendor, None, &masked);
            }
        }
    }

    fn users(&mut self, users: &Path) {
        let all = match user::all(users) {
            Ok(all) => all,
            Err(e) if e.kind() == ErrorKind::NotFound => return,
            Err(e) => {
                let message = format!("the directory cannot be read: {e}");
                self.trouble(Problem::of_file(Code::CannotBeApplied, users, message));
                self.known_users(users)
            }
        };
        for uid in all {
            let folder = user::folder(users, uid);
            let policies = folder.join("policies");
            self.directory(&policies, &[users, &*folder], Layer::User, Some(uid), &[]);
        }
    }

    /// The users who had given anything before.
    fn known_users(&self, users: &Path) -> BTreeSet<u32> {
        let known = self
            .previous
            .iter()
            .flat_map(|previous| previous.files.keys());
        known.filter_map(|path| user::of(users, path)).collect()
    }

    /// Reads the files of a directory, but those that are masked; returns their names.
    fn directory(
        &mut self,
        path: &Path,
        above: &[&Path],
        layer: Layer,
        owner: Option<u32>,
        masked: &[OsString],
    ) -> Vec<OsString> {
        let names = match list(path, above) {
            Ok(names) => names,
            Err(None) => return Vec::new(),
            Err(Some(problem)) => {
                self.trouble(*problem);
                return self.keep_all(path, layer, owner);
            }
        };
        for name in names.iter().filter(|name| !masked.contains(name)) {
            self.file(path.join(name), layer, owner);
        }
        names
    }

    fn file(&mut self, path: PathBuf, layer: Layer, owner: Option<u32>) {
        if is_masked(&path) {
            if let (Some(good), None) = (&mut self.good, owner) {
                good.keep(&path, layer, NOTHING);
            }
            return self.take(path, Arc::new(Contents::nothing()), owner);
        }
        match self.read(&path, layer, owner) {
            Ok(contents) => {
                if let (Some(good), None) = (&mut self.good, owner) {
                    good.keep(&path, layer, &contents.text);
                }
                self.take(path, contents, owner);
            }
            Err(problems) => {
                self.loaded.problems.extend(problems);
                self.recall(path, layer, owner);
            }
        }
    }

    /// Reads a file. What is as it was before is not read as JSON again.
    fn read(
        &self,
        path: &Path,
        layer: Layer,
        owner: Option<u32>,
    ) -> Result<Arc<Contents>, Vec<Problem>> {
        let bytes = read_bytes(path)?;
        let known = self.previous.and_then(|previous| previous.files.get(path));
        match known {
            // An empty file is bad, and is not what a link to /dev/null was.
            Some(known) if !bytes.is_empty() && known.text.as_bytes() == bytes => {
                Ok(Arc::clone(known))
            }
            _ => read_contents(&bytes, path, layer, owner).map(Arc::new),
        }
    }

    /// Takes what the file said when it was last good.
    fn recall(&mut self, path: PathBuf, layer: Layer, owner: Option<u32>) {
        if let Some(good) = &mut self.good {
            good.is_present(&path);
        }
        let known = self.previous.and_then(|previous| previous.files.get(&path));
        let copy = || {
            let text = self.good.as_ref()?.find(&path, layer)?;
            match text {
                NOTHING => Some(Contents::nothing()),
                text => read_contents(text.as_bytes(), &path, layer, owner).ok(),
            }
        };
        if let Some(contents) = known.cloned().or_else(|| copy().map(Arc::new)) {
            self.take(path, contents, owner);
        }
    }

    /// Keeps what the files of a directory said that cannot be read any more; returns their names.
    fn keep_all(&mut self, directory: &Path, layer: Layer, owner: Option<u32>) -> Vec<OsString> {
        let known = self
            .previous
            .iter()
            .flat_map(|previous| previous.files.keys());
        let mut paths: Vec<PathBuf> = known
            .filter(|path| path.parent() == Some(directory))
            .cloned()
            .collect();
        paths.extend(self.good.iter().flat_map(|good| good.within(directory)));
        paths.sort();
        paths.dedup();
        let names = paths.iter().filter_map(|path| path.file_name());
        let names = names.map(OsString::from).collect();
        for path in paths {
            self.recall(path, layer, owner);
        }
        names
    }

    fn take(&mut self, path: PathBuf, contents: Arc<Contents>, owner: Option<u32>) {
        self.candidates.add(&contents, owner);
        self.loaded.files.insert(path, contents);
    }

    fn finish(mut self, directories: &Directories) -> Loaded {
        if let Some(good) = &mut self.good {
            good.finish();
            self.loaded.problems.append(&mut good.problems);
        }
        let (profiles, told) = self.candidates.settle();
        let mut loaded = self.loaded;
        loaded.problems.extend(told);
        let mut notices = Notices::default();
        for profile in &profiles {
            let credentials = Credentials::open_for(directories, profile);
            loaded.problems.extend(credentials.check(profile));
            loaded.problems.extend(notices.of(profile));
        }
        loaded.profiles = profiles;
        loaded
            .problems
            .sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        // A directory above several others is told once.
        loaded.problems.dedup();
        loaded
    }

    fn trouble(&mut self, problem: Problem) {
        self.loaded.problems.push(problem);
    }
}

/// The names of the files in a directory that nobody else may change, nor those above it. None: it
/// is not there.
fn list(path: &Path, above: &[&Path]) -> Result<Vec<OsString>, Option<Box<Problem>>> {
    let told = |path: &Path, message: String, hint: Option<&str>| {
        let problem = Problem::of_file(Code::CannotBeApplied, path, message);
        Some(Box::new(match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }))
    };
    for directory in above.iter().copied().chain([path]) {
        match files::is_directory_guarded(directory) {
            Ok(()) => {}
            Err(Refused::Unreadable(e)) if e.kind() == ErrorKind::NotFound => return Err(None),
            Err(Refused::Unreadable(e)) => {
                return Err(told(
                    directory,
                    format!("the directory cannot be read: {e}"),
                    None,
                ));
            }
            Err(Refused::Exposed(what)) => {
                let hint = "no file in it counts while others may change it: \
                            chown root and chmod go-w";
                return Err(told(directory, format!("the directory {what}"), Some(hint)));
            }
        }
    }
    names(path).map_err(|e| told(path, format!("the directory cannot be read: {e}"), None))
}

/// The names of the files that count, in their order.
pub(crate) fn names(directory: &Path) -> std::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if text.ends_with(".json") && !text.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn is_masked(path: &Path) -> bool {
    std::fs::read_link(path).is_ok_and(|target| target == Path::new("/dev/null"))
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, Vec<Problem>> {
    files::read(path, 0o022, SIZE).map_err(|refused| {
        let problem = match refused {
            Refused::Unreadable(e) => {
                Problem::of_file(Code::CannotBeApplied, path, format!("cannot be read: {e}"))
            }
            Refused::Exposed(what) => Problem::of_file(Code::CannotBeApplied, path, what).hint(
                "it has to be a file of root's that nobody else may write: \
                 chown root and chmod go-w",
            ),
        };
        vec![problem]
    })
}

/// The profiles of one file of the machine's: none if it is a link to /dev/null.
pub(crate) fn read_profiles(path: &Path, layer: Layer) -> Result<Vec<Arc<Profile>>, Vec<Problem>> {
    match is_masked(path) {
        true => Ok(Vec::new()),
        false => Ok(read_contents(&read_bytes(path)?, path, layer, None)?.profiles),
    }
}
