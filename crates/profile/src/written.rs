//! The declaration as written: what serde makes of a text that holds up against the table of keys.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Declaration {
    pub(crate) identifier: String,
    pub(crate) server_token: Option<String>,
    #[serde(default)]
    pub(crate) revision: u32,
    pub(crate) payload_organization: Option<String>,
    pub(crate) payload_description: Option<String>,
    pub(crate) payload_removal_disallowed: Option<bool>,
    pub(crate) payload: Payload,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Payload {
    pub(crate) visible_name: String,
    pub(crate) order: Option<u32>,
    pub(crate) enabled: Option<bool>,
    pub(crate) servers: Vec<Server>,
    #[serde(default)]
    pub(crate) app_rules: Vec<AppRule>,
    #[serde(default)]
    pub(crate) excluded_domains: Vec<String>,
    #[serde(default, rename = "ExcludedFQDNs")]
    pub(crate) excluded_fqdns: Vec<String>,
    #[serde(default)]
    pub(crate) browser_domains: Vec<String>,
    #[serde(default)]
    pub(crate) network_routing: NetworkRouting,
    #[serde(default)]
    pub(crate) allow_inbound: bool,
    #[serde(default)]
    pub(crate) user_overridable_keys: BTreeSet<String>,
    #[serde(default)]
    pub(crate) unavailable_action: UnavailableAction,
    #[serde(default, rename = "DNS")]
    pub(crate) dns: Dns,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct OverlayDeclaration {
    pub(crate) identifier: String,
    pub(crate) payload: OverlayPayload,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct OverlayPayload {
    #[serde(default)]
    pub(crate) excluded_domains: Vec<String>,
    #[serde(default)]
    pub(crate) network_routing: NetworkRouting,
    pub(crate) unavailable_action: Option<UnavailableAction>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Server {
    pub(crate) name: Option<String>,
    #[serde(rename = "URL")]
    pub(crate) url: String,
    pub(crate) authentication: Option<Authentication>,
    #[serde(default, rename = "TLS")]
    pub(crate) tls: Tls,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Authentication {
    pub(crate) method: crate::profile::Method,
    pub(crate) credentials_asset_reference: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Tls {
    pub(crate) server_name: Option<String>,
    pub(crate) anchors_asset_reference: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AppRule {
    pub(crate) identifier: Option<String>,
    pub(crate) signing_identifier: String,
    pub(crate) path: Option<PathBuf>,
    pub(crate) designated_requirement: Option<String>,
    pub(crate) user: Option<String>,
    #[serde(default)]
    pub(crate) match_domains: Vec<String>,
    #[serde(default)]
    pub(crate) match_tools: Vec<AppRule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NetworkRouting {
    #[serde(default)]
    pub(crate) excluded_routes: Vec<String>,
    pub(crate) exclude_local_networks: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Dns {
    #[serde(rename = "SyntheticDNSAnswerIPv4Prefix")]
    pub(crate) v4: Option<String>,
    #[serde(rename = "SyntheticDNSAnswerIPv6Prefix")]
    pub(crate) v6: Option<String>,
    #[serde(default)]
    pub(crate) real_addresses: bool,
    #[serde(default)]
    pub(crate) refuse_encrypted_resolvers: bool,
    #[serde(default)]
    pub(crate) encrypted_resolvers: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) enum UnavailableAction {
    #[default]
    Drop,
    Direct,
}

impl From<UnavailableAction> for offramp_rules::UnavailableAction {
    fn from(written: UnavailableAction) -> Self {
        match written {
            UnavailableAction::Drop => Self::Drop,
            UnavailableAction::Direct => Self::Direct,
        }
    }
}
