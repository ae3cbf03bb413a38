//! The paths of the control API, one constant each.

/// `GET`: [`Status`](crate::Status).
pub const STATUS: &str = "/v1/status";
/// `GET`: a list of live [`Flow`](crate::Flow)s.
pub const FLOWS: &str = "/v1/flows";
/// `GET`: [`FlowEvent`](crate::FlowEvent)s as newline-delimited JSON, until either end closes.
pub const FLOWS_FOLLOW: &str = "/v1/flows?follow=true";
/// `POST` [`NamesRequest`](crate::NamesRequest): [`NamesAnswer`](crate::NamesAnswer).
pub const DNS: &str = "/v1/dns";
/// `GET`: [`LookupEvent`](crate::LookupEvent)s as newline-delimited JSON, until either end closes.
pub const DNS_FOLLOW: &str = "/v1/dns?follow=true";
/// `POST` [`RunRequest`](crate::RunRequest): [`RunAnswer`](crate::RunAnswer).
pub const RUN: &str = "/v1/run";
/// `POST` [`SwitchRequest`](crate::SwitchRequest): [`SwitchAnswer`](crate::SwitchAnswer).
pub const SWITCH: &str = "/v1/switch";
/// `GET`: a list of [`ProfileStatus`](crate::ProfileStatus). `POST` of a profile's text:
/// [`StoreAnswer`](crate::StoreAnswer).
pub const PROFILES: &str = "/v1/profiles";
/// `GET` with an identifier behind it: [`ProfileText`](crate::ProfileText). `DELETE`:
/// [`StoreAnswer`](crate::StoreAnswer).
pub const PROFILE_PREFIX: &str = "/v1/profiles/";
/// `GET`: a list of [`RunningApp`](crate::RunningApp)s.
pub const APPS: &str = "/v1/apps";
/// `POST` [`ExplainRequest`](crate::ExplainRequest): [`Explanation`](crate::Explanation).
pub const EXPLAIN: &str = "/v1/explain";
/// `PUT` [`UserFiles`](crate::UserFiles): [`UserAnswer`](crate::UserAnswer).
pub const USER_POLICIES: &str = "/v1/user/policies";
/// `GET`: a list of [`Check`](crate::Check)s.
pub const DOCTOR: &str = "/v1/doctor";
/// `POST`: [`ReloadAnswer`](crate::ReloadAnswer).
pub const RELOAD: &str = "/v1/reload";
/// `GET`: OpenMetrics text.
pub const METRICS: &str = "/v1/metrics";

/// The path of one profile, with its identifier percent-encoded.
pub fn profile(identifier: &str) -> String {
    let mut path = String::from(PROFILE_PREFIX);
    for byte in identifier.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                path.push(char::from(byte));
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

/// The identifier in a profile's path, or none where the path is not one of a profile.
pub fn identifier(path: &str) -> Option<String> {
    let written = path.strip_prefix(PROFILE_PREFIX)?;
    let mut bytes = Vec::with_capacity(written.len());
    let mut rest = written.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'/' => return None,
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes)
        .ok()
        .filter(|identifier| !identifier.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profile_path_and_identifier_are_inverse() {
        for written in [
            "work",
            "com.example.vpn",
            "a b",
            "a/b",
            "100%",
            "höhe",
            "..",
        ] {
            assert_eq!(identifier(&profile(written)).as_deref(), Some(written));
        }
    }

    #[test]
    fn other_paths_hold_no_identifier() {
        for path in [
            "/v1/profiles",
            "/v1/profiles/",
            "/v1/profiles/a/b",
            "/v1/profiles/%4",
            "/",
        ] {
            assert_eq!(identifier(path), None, "{path}");
        }
    }
}
