//! The JSON profiles: reads them, checks them with line and column, layers them, keeps them.
//!
//! It does not decide about flows (`offramp-rules` does) and opens no connection. Start with
//! [`load`], [`Profile`] and [`Problem`].

mod check;
mod credentials;
mod ephemeral;
mod json;
mod keys;
mod load;
mod problem;
mod profile;
mod read;
mod schema;
mod secret;
mod store;
mod url;
mod written;

pub use credentials::{CredentialError, Credentials, Password};
pub use ephemeral::ephemeral;
pub use load::{Directories, Loaded, load};
pub use problem::{Code, Problem};
pub use profile::{Asset, Authentication, Method, Profile, Server, Source};
pub use read::{read, read_bytes};
pub use schema::schema;
pub use secret::Secret;
pub use store::{ChangeError, Installed, install, remove};
