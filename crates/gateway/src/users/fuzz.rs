//! The users file, and what clients say who they are.

use offramp_fuzz::fuzz;

use super::file::parse;
use super::split_scheme;

const PASSWORD: &[u8] = b"a:$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA\n# x\n";
const TOKEN: &[u8] = b"b:sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n";

#[test]
fn users_files() {
    fuzz(
        "users_files",
        &[PASSWORD, TOKEN, b":x", b"a:plain"],
        |input| {
            let Ok(text) = std::str::from_utf8(input) else {
                return;
            };
            match parse(text) {
                Ok(table) => {
                    let lines = text.lines().count();
                    assert!(table.passwords.len() + table.tokens.len() <= lines);
                    assert!(argon2::password_hash::PasswordHash::new(&table.decoy).is_ok());
                }
                Err((line, _)) => assert!((1..=text.lines().count()).contains(&line)),
            }
        },
    );
}

#[test]
fn authorizations() {
    fuzz(
        "authorizations",
        &[b"Basic YTpi", b"Bearer  x ", b" ", b"Basic\tYTpi"],
        |input| {
            if let Some((scheme, rest)) = split_scheme(input) {
                assert!(scheme.len() + rest.len() < input.len());
            }
        },
    );
}
