//! What each class of apps means: the claims that its processes have in common.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use offramp_intercept::ClassId;
use offramp_rules::{Claim, Claims, ProfileId};
use serde::{Deserialize, Serialize};

use crate::files;

const NAME: &str = "classes.json";

/// The classes that there are. A restarted daemon learns them from a file in the runtime folder.
pub(crate) struct Classes {
    folder: PathBuf,
    by_number: BTreeMap<ClassId, Arc<Claims>>,
    by_claims: HashMap<Arc<Claims>, ClassId>,
    last: u16,
}

/// A class as the file has it.
#[derive(Serialize, Deserialize)]
struct Kept {
    class: u16,
    #[serde(flatten)]
    claims: KeptClaims,
}

/// Claims as files and messages have them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptClaims {
    wrapper: Option<String>,
    user: Option<u32>,
    rules: Vec<KeptClaim>,
    below: Vec<KeptClaim>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptClaim {
    profile: String,
    rule: String,
    tool: Option<String>,
}

impl Classes {
    /// No classes yet; what becomes of them is kept in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            by_number: BTreeMap::new(),
            by_claims: HashMap::new(),
            last: 0,
        }
    }

    pub(crate) fn get(&self, class: ClassId) -> Option<Arc<Claims>> {
        self.by_number.get(&class).cloned()
    }

    pub(crate) fn all(&self) -> BTreeMap<ClassId, Arc<Claims>> {
        self.by_number.clone()
    }

    /// The class with these claims.
    pub(crate) fn find(&self, claims: &Claims) -> Option<ClassId> {
        self.by_claims.get(claims).copied()
    }

    /// A new class. None: all numbers are taken, or the file cannot be written, and nobody would
    /// know after a restart what the number means. A number that was given back is the last to be
    /// used again.
    pub(crate) fn add(&mut self, claims: &Claims) -> Option<ClassId> {
        let free = (self.last + 1..=ClassId::LIMIT)
            .chain(1..=self.last)
            .filter_map(ClassId::new)
            .find(|class| !self.by_number.contains_key(class))?;
        self.insert(free, Arc::new(claims.clone()));
        if let Err(error) = self.write() {
            tracing::error!(error = %error, "classes not written");
            self.remove(free);
            return None;
        }
        self.last = free.number();
        Some(free)
    }

    pub(crate) fn remove(&mut self, class: ClassId) {
        if let Some(claims) = self.by_number.remove(&class) {
            self.by_claims.remove(&claims);
        }
    }

    /// Takes up the classes that an earlier run left. One that nobody knows the meaning of is of no
    /// profile, so that its apps stay refused.
    pub(crate) fn restore(&mut self, left: impl IntoIterator<Item = ClassId>) {
        let mut known = read(&self.folder);
        for class in left {
            let claims = known.remove(&class).unwrap_or_else(|| Claims {
                wrapper: Some(ProfileId::new("")),
                ..Claims::default()
            });
            self.insert(class, Arc::new(claims));
        }
    }

    fn insert(&mut self, class: ClassId, claims: Arc<Claims>) {
        self.by_claims.insert(Arc::clone(&claims), class);
        self.by_number.insert(class, claims);
    }

    fn write(&self) -> io::Result<()> {
        let table: Vec<_> = self.by_number.iter().map(Kept::of).collect();
        let text = serde_json::to_vec(&table).map_err(io::Error::other)?;
        files::write(&self.folder.join(NAME), &text, 0o600)
    }
}

/// Forgets the classes of earlier runs.
pub(crate) fn remove(folder: &Path) {
    files::remove(&folder.join(NAME));
}

fn read(folder: &Path) -> BTreeMap<ClassId, Claims> {
    let text = fs::read(folder.join(NAME)).unwrap_or_default();
    let table: Vec<Kept> = serde_json::from_slice(&text).unwrap_or_default();
    table.iter().filter_map(Kept::to_class).collect()
}

impl Kept {
    fn of((class, claims): (&ClassId, &Arc<Claims>)) -> Self {
        Self {
            class: class.number(),
            claims: KeptClaims::of(claims),
        }
    }

    fn to_class(&self) -> Option<(ClassId, Claims)> {
        Some((ClassId::new(self.class)?, self.claims.to_claims()))
    }
}

impl KeptClaims {
    pub(crate) fn of(claims: &Claims) -> Self {
        let kept = |claims: &BTreeSet<Claim>| claims.iter().map(KeptClaim::of).collect();
        Self {
            wrapper: claims.wrapper.as_ref().map(ToString::to_string),
            user: claims.user,
            rules: kept(&claims.rules),
            below: kept(&claims.below),
        }
    }

    pub(crate) fn to_claims(&self) -> Claims {
        let claims = |kept: &[KeptClaim]| kept.iter().map(KeptClaim::to_claim).collect();
        Claims {
            wrapper: self.wrapper.as_deref().map(ProfileId::new),
            user: self.user,
            rules: claims(&self.rules),
            below: claims(&self.below),
        }
    }
}

impl KeptClaim {
    fn of(claim: &Claim) -> Self {
        Self {
            profile: claim.profile.to_string(),
            rule: claim.rule.clone(),
            tool: claim.tool.clone(),
        }
    }

    fn to_claim(&self) -> Claim {
        Claim {
            profile: ProfileId::new(&self.profile),
            rule: self.rule.clone(),
            tool: self.tool.clone(),
        }
    }
}
