//! The JSON profiles: reads them, checks them with line and column, layers them, keeps them.
//!
//! It does not decide about flows (`offramp-rules` does) and opens no connection. Start with
//! [`load`], [`Profile`] and [`Problem`].

mod check;
mod credentials;
mod ephemeral;
mod files;
#[cfg(test)]
mod fuzz;
mod json;
mod keys;
mod load;
mod notice;
mod overlay;
mod problem;
mod profile;
mod read;
mod schema;
mod secret;
mod store;
mod url;
mod user;
mod written;

pub use credentials::{CredentialError, Credentials, Password};
pub use ephemeral::ephemeral;
pub use load::{Directories, Loaded, load};
pub use notice::notices;
pub use overlay::UserOverlay;
pub use problem::{Code, Problem};
pub use profile::{Asset, Authentication, Method, Profile, Server, Source};
pub use read::{read, read_bytes, read_user};
pub use schema::schema;
pub use secret::Secret;
pub use store::{ChangeError, Installed, install, remove};
pub use user::{UserFile, UserFiles, install_user};
