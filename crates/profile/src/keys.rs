//! The one table of keys: what the reader takes and what the schema says.

mod app_rules;
mod overlay;

use app_rules::APP_RULE;
pub(crate) use overlay::{OVERLAY, OVERLAY_TYPE, OVERRIDABLE};

/// The `Type` of a declaration.
pub(crate) const TYPE: &str = "org.offramp.configuration.network.vpn";

/// One key of an object.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) required: bool,
    pub(crate) about: &'static str,
}

/// What a value has to look like.
pub(crate) enum Shape {
    Bool,
    /// An integer of at least this and at most `u32::MAX`.
    Integer(u32),
    /// The integer 1.
    Version,
    Text(Format),
    /// One of `now`; one of `later` is not supported yet.
    Choice {
        now: &'static [&'static str],
        later: &'static [&'static str],
    },
    List(&'static Shape),
    /// A list of at least one.
    Some(&'static Shape),
    Object(&'static [Key]),
    /// An object that nobody looks into.
    Opaque,
    /// Part of the format and not supported yet.
    Later,
    /// Part of the format, and not in this place; why.
    Misplaced(&'static str),
}

/// What a string has to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Any,
    NotEmpty,
    Type,
    OverlayType,
    Identifier,
    Token,
    KeyPath,
    Overridable,
    /// With all names below it.
    Domain,
    ExactDomain,
    Host,
    Block,
    Synthetic4,
    Synthetic6,
    ServerUrl,
    Asset,
    Identity,
    Path,
    Requirement,
    User,
    /// A name, an address or a block of addresses.
    Resolver,
}

const fn key(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key {
        name,
        shape,
        required: false,
        about,
    }
}

const fn required(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key {
        name,
        shape,
        required: true,
        about,
    }
}

const fn later(name: &'static str) -> Key {
    key(name, Shape::Later, "Not supported yet.")
}

/// What any program would be named by: each of them would be kept from raw sockets, from multicast
/// and from the machine's resolvers, and could look up nothing without the daemon.
const fn any_app(name: &'static str) -> Key {
    key(
        name,
        Shape::Later,
        "Not supported yet: name the apps in AppRules, with MatchDomains; any others would be kept \
         from raw sockets, multicast and their resolver",
    )
}

impl Key {
    /// Of a key that is not supported yet: what to do instead.
    pub(crate) fn instead(&self) -> Option<&'static str> {
        self.about.strip_prefix("Not supported yet: ")
    }
}

/// A file with several declarations.
pub(crate) const DECLARATIONS: &str = "Declarations";

/// A declaration.
pub(crate) static DECLARATION: &[Key] = &[
    required(
        "Type",
        Shape::Text(Format::Type),
        "The kind of declaration.",
    ),
    required(
        "Identifier",
        Shape::Text(Format::Identifier),
        "The profile's name: at most 64 octets; a declaration replaces one of the same name.",
    ),
    key(
        "ServerToken",
        Shape::Text(Format::Token),
        "Names this revision: at most 64 octets. Default: a hash of the text.",
    ),
    key("PayloadVersion", Shape::Version, "The format's version, 1."),
    key(
        "Revision",
        Shape::Integer(0),
        "Grows with every change. Default 0.",
    ),
    key(
        "PayloadOrganization",
        Shape::Text(Format::Any),
        "Who manages this machine, as shown to people.",
    ),
    key(
        "PayloadDescription",
        Shape::Text(Format::Any),
        "What the profile is for, as shown to people.",
    ),
    key(
        "PayloadDisplayName",
        Shape::Text(Format::Any),
        "What a fleet tool calls the declaration; people see the VisibleName.",
    ),
    key(
        "PayloadRemovalDisallowed",
        Shape::Bool,
        "Whether users are kept from removing it. Default: true in the managed layer.",
    ),
    key(
        "OptionalKeys",
        Shape::List(&Shape::Text(Format::KeyPath)),
        "Paths such as Payload.OnDemand that may be ignored where they are not known.",
    ),
    required("Payload", Shape::Object(PAYLOAD), "What the profile does."),
    later("RemovalDate"),
    later("DurationUntilRemoval"),
    later("PayloadExpirationDate"),
    later("ConsentText"),
];

pub(crate) static PAYLOAD: &[Key] = &[
    required(
        "VisibleName",
        Shape::Text(Format::NotEmpty),
        "The profile's name, as shown to people.",
    ),
    key(
        "Order",
        Shape::Integer(1),
        "Of two profiles of one layer, the one with the lower number is asked first. Default 1000.",
    ),
    key(
        "Enabled",
        Shape::Bool,
        "Whether the profile claims apps. Default true.",
    ),
    key(
        "Provider",
        Shape::Object(PROVIDER),
        "How flows are carried.",
    ),
    key(
        "RoutingMethod",
        Shape::Choice {
            now: &["SourceApplication"],
            later: &["DestinationIP", "NetworkRule"],
        },
        "What traffic is chosen by. Default SourceApplication: by app.",
    ),
    required(
        "Servers",
        Shape::Some(&Shape::Object(SERVER)),
        "The proxy servers: the next one is tried when one fails.",
    ),
    key(
        "AppRules",
        Shape::List(&Shape::Object(APP_RULE)),
        "The apps, besides those started by offramp run --profile IDENTIFIER: at most 5000 rules.",
    ),
    key(
        "ExcludedDomains",
        Shape::List(&Shape::Text(Format::Domain)),
        "Names that are reached directly, with all names below them.",
    ),
    key(
        "ExcludedFQDNs",
        Shape::List(&Shape::Text(Format::ExactDomain)),
        "Names that are reached directly, without those below them.",
    ),
    key(
        "BrowserDomains",
        Shape::List(&Shape::Text(Format::Domain)),
        "Names, with all below them, for which the profile claims browsers too: apps whose desktop \
         entry handles x-scheme-handler/https.",
    ),
    key(
        "NetworkRouting",
        Shape::Object(ROUTING),
        "What is reached directly by address.",
    ),
    key(
        "AllowInbound",
        Shape::Bool,
        "Whether apps take connections from other machines. Default false.",
    ),
    key(
        "UnavailableAction",
        Shape::Choice {
            now: &["Drop", "Direct"],
            later: &[],
        },
        "What happens to flows while no server can be reached. Default Drop: they are refused.",
    ),
    key("DNS", Shape::Object(DNS), "How lookups are answered."),
    key(
        "UserOverridableKeys",
        Shape::List(&Shape::Text(Format::Overridable)),
        "What users may change for their own processes: ExcludedDomains, \
         NetworkRouting.ExcludedRoutes, NetworkRouting.ExcludeLocalNetworks, UnavailableAction.",
    ),
    key("VendorConfig", Shape::Opaque, "Anything; never looked at."),
    later("VPNUUID"),
    later("UIToggleEnabled"),
    later("DisconnectOnSleep"),
    later("Idle"),
    later("Tunnel"),
    any_app("MatchDomains"),
    any_app("MatchFQDNs"),
    any_app("AssociatedDomains"),
    later("OnDemand"),
    later("Proxies"),
    later("AlwaysOn"),
];

static PROVIDER: &[Key] = &[key(
    "Type",
    Shape::Choice {
        now: &["app-proxy"],
        later: &["packet-tunnel"],
    },
    "Default app-proxy: flow by flow.",
)];

static SERVER: &[Key] = &[
    key(
        "Name",
        Shape::Text(Format::NotEmpty),
        "Its name. Default: the host of the URL.",
    ),
    required(
        "URL",
        Shape::Text(Format::ServerUrl),
        "https://HOST:PORT, the port by default 443.",
    ),
    key(
        "Authentication",
        Shape::Object(AUTHENTICATION),
        "How to show who one is.",
    ),
    key("TLS", Shape::Object(TLS), "How to know the server."),
    later("HTTP3RelayURL"),
    later("HTTP2RelayURL"),
    later("AdditionalHTTPHeaderFields"),
    later("AllowPlaintext"),
    later("PinnedKeys"),
    later("RawPublicKeys"),
    later("Via"),
];

static AUTHENTICATION: &[Key] = &[
    required(
        "Method",
        Shape::Choice {
            now: &["Password", "Bearer"],
            later: &["Certificate", "Password+Certificate"],
        },
        "Password (user and password) or Bearer (a token).",
    ),
    required(
        "CredentialsAssetReference",
        Shape::Text(Format::Asset),
        "credential:NAME. Password: one line USER:PASSWORD. Bearer: one line with the token.",
    ),
    later("IdentityAssetReference"),
];

static TLS: &[Key] = &[
    key(
        "ServerName",
        Shape::Text(Format::Host),
        "The name in the server's certificate. Default: the host of the URL.",
    ),
    key(
        "AnchorsAssetReference",
        Shape::Text(Format::Asset),
        "credential:NAME, PEM certificates to trust. Default: those the system trusts.",
    ),
];

static ROUTING: &[Key] = &[
    key(
        "ExcludedRoutes",
        Shape::List(&Shape::Text(Format::Block)),
        "Address blocks that are reached directly.",
    ),
    key(
        "ExcludeLocalNetworks",
        Shape::Bool,
        "Whether the machine's own networks are reached directly. Default false.",
    ),
    later("IncludeAllNetworks"),
    later("ExcludeCellularServices"),
    later("ExcludeAPNs"),
    later("ExcludeDeviceCommunication"),
    later("EnforceRoutes"),
    later("IncludedRoutes"),
    later("IncludedNetworkRules"),
    later("ExcludedNetworkRules"),
    later("ServiceSets"),
];

static DNS: &[Key] = &[
    key(
        "SyntheticDNSAnswerIPv4Prefix",
        Shape::Text(Format::Synthetic4),
        "The block of addresses that stand for names, of 8 to 22 bits. Default 198.18.0.0/15.",
    ),
    key(
        "SyntheticDNSAnswerIPv6Prefix",
        Shape::Text(Format::Synthetic6),
        "The same for IPv6, of 8 to 112 bits. Default: the daemon's.",
    ),
    key(
        "RealAddresses",
        Shape::Bool,
        "Whether apps are told the true addresses of names, asked for at the far side, instead of \
         ones that stand for names. Default false.",
    ),
    key(
        "RefuseEncryptedResolvers",
        Shape::Bool,
        "Whether apps are kept from resolvers of their own that encrypt (DNS over TLS, HTTPS or \
         QUIC), so that they ask by port 53 and their targets have names. Default false.",
    ),
    key(
        "EncryptedResolvers",
        Shape::List(&Shape::Text(Format::Resolver)),
        "Such resolvers besides those that are known: names, with all below them, addresses and \
         address blocks.",
    ),
    later("ServerAddresses"),
    later("DNSProtocol"),
    later("ServerName"),
    later("ServerURL"),
    later("SearchDomains"),
    later("DomainName"),
    later("SupplementalMatchDomains"),
    later("SupplementalMatchDomainsNoSearch"),
    later("AllowFailover"),
];

/// Spellings of other formats, and what to write here.
pub(crate) static ELSEWHERE: &[(&str, &str)] = &[
    ("UserDefinedName", "VisibleName"),
    ("PayloadIdentifier", "Identifier"),
    ("PayloadType", "Type"),
    ("PayloadUUID", "ServerToken"),
    ("ProviderType", "Provider.Type"),
    ("RemoteAddress", "Servers[].URL"),
    ("Relays", "Servers"),
    (
        "ExcludeLocalNetworks",
        "NetworkRouting.ExcludeLocalNetworks",
    ),
    ("ExcludedRoutes", "NetworkRouting.ExcludedRoutes"),
    ("IncludeAllNetworks", "NetworkRouting.IncludeAllNetworks"),
    ("EnforceRoutes", "NetworkRouting.EnforceRoutes"),
    ("OnDemandEnabled", "OnDemand.Enabled"),
    ("OnDemandRules", "OnDemand.Rules"),
    ("SafariDomains", "BrowserDomains"),
];
