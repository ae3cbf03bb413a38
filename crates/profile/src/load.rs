use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use offramp_rules::{Layer, ProfileId, Profiles};

use crate::credentials::{Credentials, exposure};
use crate::json::SIZE;
use crate::problem::{Code, Problem};
use crate::profile::Profile;
use crate::read::{place, read_bytes};

/// The profiles in force, and what is wrong with the files that they come from.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// In the order in which they are asked; no two with one name.
    pub profiles: Vec<Arc<Profile>>,
    /// In the order of the files, then of the places in them.
    pub problems: Vec<Problem>,
    /// What every file said when it was last good.
    files: BTreeMap<PathBuf, Vec<Arc<Profile>>>,
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

/// Reads all profiles. A file that has become bad since `previous` keeps its last good profiles,
/// and its problems are told; a file that is gone is gone.
///
/// Files have to belong to root or to the user of this process, and nobody else may write them.
pub fn load(directories: &Directories, previous: Option<&Loaded>) -> Loaded {
    let mut loader = Loader {
        loaded: Loaded::default(),
        candidates: Vec::new(),
        previous,
    };
    let policies = directories.config.join("policies");
    // A later file goes before an earlier one of the same layer, also of the vendor's.
    for (name, layer) in [
        ("recommended", Layer::Recommended),
        ("managed", Layer::Managed),
    ] {
        let own = policies.join(name);
        let masked = loader.directory(&own, layer, &[]);
        if let Some(vendor) = &directories.vendor {
            loader.directory(&vendor.join(name), Layer::Vendor, &masked);
        }
    }
    loader.settle();
    let credentials = Credentials::open(&directories.config);
    let Loader { mut loaded, .. } = loader;
    for profile in &loaded.profiles {
        loaded.problems.extend(credentials.check(profile));
    }
    loaded
        .problems
        .sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    loaded
}

struct Loader<'a> {
    loaded: Loaded,
    candidates: Vec<Arc<Profile>>,
    previous: Option<&'a Loaded>,
}

impl Loader<'_> {
    /// Reads the files of a directory, but those that are masked; returns their names.
    fn directory(&mut self, path: &Path, layer: Layer, masked: &[OsString]) -> Vec<OsString> {
        let names = match names(path) {
            Ok(names) => names,
            Err(e) if e.kind() == ErrorKind::NotFound => return Vec::new(),
            Err(e) => {
                let message = format!("the directory cannot be read: {e}");
                self.trouble(Problem::of_file(Code::CannotBeApplied, path, message));
                self.keep_all(path);
                return Vec::new();
            }
        };
        for name in names.iter().filter(|name| !masked.contains(name)) {
            self.file(path.join(name), layer);
        }
        names
    }

    fn file(&mut self, path: PathBuf, layer: Layer) {
        let profiles = match read_file(&path, layer) {
            Ok(profiles) => profiles.into_iter().map(Arc::new).collect(),
            Err(problems) => {
                self.loaded.problems.extend(problems);
                match self.previous.and_then(|previous| previous.files.get(&path)) {
                    Some(good) => good.clone(),
                    None => return,
                }
            }
        };
        self.candidates.extend(profiles.iter().cloned());
        self.loaded.files.insert(path, profiles);
    }

    /// Keeps what the files of a directory said that cannot be read any more.
    fn keep_all(&mut self, directory: &Path) {
        for (path, profiles) in self.previous.iter().flat_map(|previous| &previous.files) {
            if path.parent() == Some(directory) {
                self.candidates.extend(profiles.iter().cloned());
                self.loaded.files.insert(path.clone(), profiles.clone());
            }
        }
    }

    /// Chooses one profile of each name: the earlier layer, within one layer the later file.
    fn settle(&mut self) {
        let mut chosen: HashMap<ProfileId, Arc<Profile>> = HashMap::new();
        let mut losers = Vec::new();
        for candidate in std::mem::take(&mut self.candidates) {
            match chosen.get(candidate.id()) {
                Some(winner) if winner.rules.layer < candidate.rules.layer => {
                    losers.push(candidate);
                }
                _ => losers.extend(chosen.insert(candidate.id().clone(), candidate)),
            }
        }
        for loser in losers {
            self.trouble(superseded(&loser, &chosen[loser.id()]));
        }
        let mut profiles: Vec<_> = chosen.into_values().collect();
        profiles.sort_by(|a, b| a.rules.cmp(&b.rules));
        self.loaded.profiles = profiles;
    }

    fn trouble(&mut self, problem: Problem) {
        self.loaded.problems.push(problem);
    }
}

fn superseded(loser: &Profile, winner: &Profile) -> Problem {
    let by = match &winner.source.file {
        Some(file) => file.display().to_string(),
        None => format!("the {} layer", winner.rules.layer),
    };
    let (line, column) = place(&loser.source, loser.id(), &["Identifier"]);
    Problem {
        code: Code::Superseded,
        file: loser.source.file.clone(),
        line,
        column,
        key_path: "Identifier".to_owned(),
        message: format!("{} is in force as {by} has it", loser.id()),
        hint: None,
    }
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

/// Reads one file as a layer has it: no profiles if it is a link to /dev/null.
pub(crate) fn read_file(path: &Path, layer: Layer) -> Result<Vec<Profile>, Vec<Problem>> {
    if std::fs::read_link(path).is_ok_and(|target| target == Path::new("/dev/null")) {
        return Ok(Vec::new());
    }
    let unreadable = |e: std::io::Error| {
        let problem = Problem::of_file(Code::CannotBeApplied, path, format!("cannot be read: {e}"));
        vec![problem]
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if let Some(what) = exposure(&metadata, 0o022) {
        let hint = "it has to be a file of root's that nobody else may write: \
                    chown root and chmod go-w";
        let problem = Problem::of_file(Code::CannotBeApplied, path, what).hint(hint);
        return Err(vec![problem]);
    }
    let mut bytes = Vec::new();
    // One byte over the limit is enough for the reader to refuse.
    let limit = u64::try_from(SIZE).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    read_bytes(&bytes, Some(path), layer)
}
