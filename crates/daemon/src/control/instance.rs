//! Programs that run once for each user: what `offramp run` starts may hand over to one that runs
//! outside, and that one goes its own way.

mod entries;
#[cfg(test)]
mod fuzz;
mod processes;

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use offramp_intercept::ClassId;
use offramp_rules::{App, Claims, ProfileId, Target, decide};

use self::entries::{Entry, Service};
use self::processes::{Instance, Meant};
use super::{Desk, as_user};
use crate::api::Peer;
use crate::facts::Facts;
use crate::shared::{ANYWHERE, Shared};

/// Longer scripts are not read to the end.
const SCRIPT: u64 = 64 * 1024;

/// A program that is about to be started.
struct Program {
    /// As the person calls it.
    name: String,
    app: App,
    /// What a script says.
    text: String,
}

impl Desk {
    /// What a person should know of instances outside the class that the program is started in.
    pub(super) async fn instances(
        &self,
        peer: &Peer,
        program: &str,
        class: ClassId,
    ) -> Vec<String> {
        let shared = Arc::clone(&self.shared);
        let (path, uid, pid) = (PathBuf::from(program), peer.uid, peer.pid);
        let look = move || {
            let read = as_user::ask(uid, || Program::read(&shared.facts, &path, uid));
            let Ok(Some(program)) = read else {
                return Vec::new();
            };
            let entries = entries::entries_of(&program.paths());
            let services = entries::services();
            notices(&shared, &program, &entries, &services, uid, pid, class)
        };
        let notices = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        for notice in &notices {
            tracing::info!(
                pid,
                uid,
                program,
                notice,
                "program may hand over to another instance"
            );
        }
        notices
    }
}

fn notices(
    shared: &Shared,
    program: &Program,
    entries: &[Entry],
    services: &[Service],
    uid: u32,
    own: u32,
    class: ClassId,
) -> Vec<String> {
    let claims = shared.class(class).unwrap_or_default();
    let way = profile_of(shared, &claims);
    let is_outside = |instance: &Instance| {
        let carried = carried(shared, instance.pid);
        *carried != *claims && profile_of(shared, &carried) != way
    };
    let paths = program.paths();
    let is_single = entries.iter().any(|entry| !entry.is_terminal)
        || services
            .iter()
            .any(|service| paths.contains(&service.program));
    let instances = processes::find(&shared.facts, uid, own, program);
    let running = instances
        .into_iter()
        .filter(|instance| is_single || instance.listens)
        .find(is_outside);
    if let Some(instance) = running {
        return vec![already_runs(&program.name, &instance)];
    }
    let behind = services.iter().filter(|service| {
        let activated = entries
            .iter()
            .any(|entry| entry.is_activated_as(&service.name));
        activated && !paths.contains(&service.program)
    });
    let mut notices = Vec::new();
    for service in behind {
        let instances = processes::find(&shared.facts, uid, own, service);
        match instances.into_iter().next() {
            Some(instance) if is_outside(&instance) => {
                notices.push(already_runs(&name_of(&service.program), &instance));
            }
            Some(_) => {}
            None => {
                let started = shared.facts.of_path(&service.program, uid);
                let claims = started.map(|app| {
                    let policy = shared.policy();
                    offramp_rules::claims(&policy.rules, &app, &Claims::default())
                });
                if claims.is_ok_and(|claims| profile_of(shared, &claims) != way) {
                    notices.push(is_activated(&program.name, service));
                }
            }
        }
    }
    notices
}

fn already_runs(name: &str, instance: &Instance) -> String {
    format!(
        "{name} is already running outside (pid {}): it may take over what this command opens; \
         close it first, or cover it by a rule with \"SigningIdentifier\": \"exe:{}\"",
        instance.pid,
        instance.path.display()
    )
}

fn is_activated(name: &str, service: &Service) -> String {
    let program = service.program.display();
    format!(
        "{name} may have the session bus start {program} as {}, outside; \
         cover that by a rule with \"SigningIdentifier\": \"exe:{program}\"",
        service.name
    )
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// What claims a process, as the kernel has it.
fn carried(shared: &Shared, pid: u32) -> Arc<Claims> {
    let labelled = shared.capture.labelled().unwrap_or_default();
    let label = labelled.iter().find(|process| process.pid == pid);
    label
        .and_then(|label| shared.carried(label))
        .unwrap_or_default()
}

/// The profile that flows of such apps are under; none for those that go direct by themselves.
fn profile_of(shared: &Shared, claims: &Claims) -> Option<ProfileId> {
    if claims.is_empty() || claims.is_only_above() {
        return None;
    }
    let (policy, world) = (shared.policy(), Arc::clone(&shared.world.borrow()));
    let anywhere = Target {
        host: ANYWHERE,
        port: 443,
    };
    let verdict = decide(&policy.rules, claims, &anywhere, &world).verdict;
    Some(Shared::profile_of(&verdict, claims))
}

impl Program {
    /// With the rights of the calling thread; none where the file cannot be seen.
    fn read(facts: &Facts, path: &Path, uid: u32) -> Option<Self> {
        let app = facts.of_path(path, uid).ok()?;
        let script = app.script.as_ref().and_then(|script| script.path.as_ref());
        let text = script.map(|path| beginning(path)).unwrap_or_default();
        Some(Self {
            name: name_of(path),
            app,
            text,
        })
    }

    /// Where it is, and not where its interpreter is.
    fn paths(&self) -> Vec<PathBuf> {
        Self::paths_of(&self.app)
    }

    fn paths_of(app: &App) -> Vec<PathBuf> {
        let program = app.script.as_ref().or(app.executable.as_ref());
        let known = program
            .into_iter()
            .flat_map(|program| program.path.iter().chain(&program.known_as));
        known.cloned().collect()
    }

    /// Whether it is a script that leads to the program at `path`.
    fn leads_to(&self, path: &Path) -> bool {
        let script = self.app.script.as_ref();
        let script = script.and_then(|script| script.path.as_deref());
        script.is_some_and(|script| leads_to(script, &self.text, path))
    }
}

/// The program itself, or what a script of its name leads to.
impl Meant for Program {
    fn may_be(&self, executable: &Path) -> bool {
        let own = self.app.executable.iter();
        let mut own = own.flat_map(|program| program.path.iter().chain(&program.known_as));
        own.any(|path| path == executable) || self.leads_to(executable)
    }

    fn is(&self, app: &App) -> bool {
        let (own, other) = (self.paths(), Self::paths_of(app));
        let is_same = own.iter().any(|path| other.contains(path));
        is_same || (app.script.is_none() && other.iter().any(|path| self.leads_to(path)))
    }
}

impl Meant for Service {
    fn may_be(&self, executable: &Path) -> bool {
        self.program == executable
    }

    fn is(&self, app: &App) -> bool {
        Program::paths_of(app).contains(&self.program)
    }
}

fn beginning(path: &Path) -> String {
    let mut text = Vec::new();
    let file = OpenOptions::new()
        .read(true)
        // What has become a FIFO meanwhile would wait for somebody who writes.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    match file.and_then(|file| file.take(SCRIPT).read_to_end(&mut text)) {
        Ok(_) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => String::new(),
    }
}

/// Whether a script is there to start the program at `path`: it names it, lies beside it where
/// nothing else lies, or has the name of it and of its folder.
fn leads_to(script: &Path, text: &str, path: &Path) -> bool {
    let (Some(path_text), Some(folder)) = (path.to_str(), path.parent()) else {
        return false;
    };
    let is_end = |c: char| !(c.is_alphanumeric() || matches!(c, '/' | '-' | '_' | '.'));
    let mut named = text.match_indices(path_text).map(|(at, found)| {
        let before = text[..at].chars().next_back();
        let behind = text[at + found.len()..].chars().next();
        before.is_none_or(is_end) && behind.is_none_or(is_end)
    });
    let is_beside = script.parent() == Some(folder)
        && folder
            .file_name()
            .is_some_and(|name| name != "bin" && name != "sbin");
    let name = script.file_name();
    let is_namesake = path.file_name() == name && folder.file_name() == name;
    // A shell that a script names is not what it is there for.
    let is_shared = folder.ends_with("bin") || folder.ends_with("sbin");
    is_namesake || is_beside || (!is_shared && named.any(|whole| whole))
}

#[cfg(test)]
mod tests;
