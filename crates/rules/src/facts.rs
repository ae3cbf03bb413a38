use std::borrow::Cow;
use std::path::Path;

use crate::{App, Bundle, Cgroup, ProfileId, Program};

/// What rules look at in an app, worked out once for all of them.
pub(crate) struct Facts<'a> {
    pub(crate) app: &'a App,
    /// Its own `offramp run`, or that of an ancestor.
    pub(crate) wrapper: Option<&'a ProfileId>,
    /// The script, where there is one, and what executes it.
    pub(crate) programs: Vec<Seen<'a>>,
    pub(crate) system_units: Vec<&'a str>,
    pub(crate) user_units: Vec<&'a str>,
    /// What it was installed as, and what its control group says that it is.
    pub(crate) bundles: Vec<Cow<'a, Bundle>>,
}

/// A program and all that it is called.
pub(crate) struct Seen<'a> {
    pub(crate) program: &'a Program,
    pub(crate) names: Vec<Cow<'a, str>>,
    /// The path as text.
    pub(crate) path: Option<Cow<'a, str>>,
}

impl<'a> Facts<'a> {
    pub(crate) fn of(app: &'a App, inherited: Option<&'a ProfileId>) -> Self {
        let cgroup = app.cgroup.as_ref();
        let bundles = cgroup.map(Cgroup::bundles).unwrap_or_default();
        let (system_units, user_units) = cgroup.map(Cgroup::units).unwrap_or_default();
        Self {
            app,
            wrapper: app.wrapper.as_ref().or(inherited),
            programs: app
                .script
                .iter()
                .chain(&app.executable)
                .map(Seen::of)
                .collect(),
            system_units,
            user_units,
            bundles: bundles
                .into_iter()
                .map(Cow::Owned)
                .chain(app.bundles.iter().map(Cow::Borrowed))
                .collect(),
        }
    }
}

impl<'a> Seen<'a> {
    fn of(program: &'a Program) -> Self {
        let paths = program.path.iter().chain(&program.known_as);
        let named = paths.filter_map(|path| Some(path.file_name()?.to_string_lossy()));
        let mut names: Vec<_> = program
            .name
            .iter()
            .map(|name| Cow::Borrowed(name.as_str()))
            .chain(named)
            .collect();
        names.sort();
        names.dedup();
        Self {
            program,
            names,
            path: program.path.as_deref().map(Path::to_string_lossy),
        }
    }
}
