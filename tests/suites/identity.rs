//! Every kind of identity against what is the app and what only looks like it.
//!
//! Who went where is what the origin saw. systemd, Flatpak, Snap and desktops are simulated: their
//! control groups are made by hand with the names that they give, and their files are written by
//! the test.

#[path = "identity/files.rs"]
mod files;
#[path = "identity/groups.rs"]
mod groups;
#[path = "identity/paths.rs"]
mod paths;
#[path = "identity/people.rs"]
mod people;
#[path = "identity/scripts.rs"]
mod scripts;

use offramp_tests::check_matrix;

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn names_of_executables() {
    check_matrix(&files::CASES);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn paths_of_executables() {
    check_matrix(&paths::CASES);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn patterns_that_may_mean_any_executable() {
    check_matrix(&files::PATTERNS);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn scripts_and_their_interpreters() {
    check_matrix(&scripts::CASES);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn users_requirements_tools_and_domains() {
    check_matrix(&people::CASES);
}

#[test]
#[ignore = "needs root and BPF: run scripts/test"]
fn control_groups_and_bundles() {
    check_matrix(&groups::CASES);
}
