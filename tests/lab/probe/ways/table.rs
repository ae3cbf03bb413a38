//! The list of all ways.

use super::{Way, Who, before, dns, packets, process, ring, tcp, udp};

type Before = fn(super::Target) -> super::Made;
type After = fn(super::Target, Vec<std::os::fd::OwnedFd>) -> super::Outcome;

/// In the order of the README's table; those of one row follow one another.
pub(super) const WAYS: &[Way] = &[
    way("TCP over IPv4, IPv6, v4-mapped", "tcp4", tcp::four),
    way("TCP over IPv4, IPv6, v4-mapped", "tcp6", tcp::six),
    way("TCP over IPv4, IPv6, v4-mapped", "tcp-mapped", tcp::mapped),
    way("TCP over IPv4, IPv6, v4-mapped", "tcp-turned", tcp::turned),
    way(
        "TCP from a chosen source address",
        "tcp-bound4",
        tcp::bound4,
    ),
    way(
        "TCP from a chosen source address",
        "tcp-bound6",
        tcp::bound6,
    ),
    way(
        "TCP by device or mark: SO_BINDTODEVICE, SO_BINDTOIFINDEX, SO_MARK, IP_UNICAST_IF",
        "tcp-device",
        tcp::device,
    ),
    way(
        "TCP by device or mark: SO_BINDTODEVICE, SO_BINDTOIFINDEX, SO_MARK, IP_UNICAST_IF",
        "tcp-device-index",
        tcp::device_index,
    ),
    way(
        "TCP by device or mark: SO_BINDTODEVICE, SO_BINDTOIFINDEX, SO_MARK, IP_UNICAST_IF",
        "tcp-mark",
        tcp::mark,
    ),
    way(
        "TCP by device or mark: SO_BINDTODEVICE, SO_BINDTOIFINDEX, SO_MARK, IP_UNICAST_IF",
        "tcp-unicast-device",
        tcp::unicast_device,
    ),
    way(
        "SO_DONTROUTE, MSG_DONTROUTE",
        "tcp-not-routed",
        tcp::not_routed,
    ),
    way(
        "SO_DONTROUTE, MSG_DONTROUTE",
        "udp-not-routed",
        udp::not_routed,
    ),
    way("MPTCP", "mptcp4", tcp::multipath4),
    way("MPTCP", "mptcp6", tcp::multipath6),
    way(
        "TCP Fast Open: MSG_FASTOPEN, the same without blocking, TCP_FASTOPEN_CONNECT",
        "fast-open",
        tcp::fast_blocking,
    ),
    way(
        "TCP Fast Open: MSG_FASTOPEN, the same without blocking, TCP_FASTOPEN_CONNECT",
        "fast-open-at-once",
        tcp::fast_at_once,
    ),
    way(
        "TCP Fast Open: MSG_FASTOPEN, the same without blocking, TCP_FASTOPEN_CONNECT",
        "fast-open-connect",
        tcp::fast_connect,
    ),
    way(
        "connect(AF_UNSPEC), then elsewhere",
        "tcp-again",
        tcp::again,
    ),
    way(
        "connect(AF_UNSPEC), then elsewhere",
        "udp-elsewhere",
        udp::elsewhere,
    ),
    way("TCP_REPAIR", "tcp-repair", tcp::repaired),
    way(
        "io_uring: connect and send; inline, IOSQE_ASYNC, SQPOLL, direct descriptors",
        "ring-connect",
        ring::connect,
    ),
    way(
        "io_uring: connect and send; inline, IOSQE_ASYNC, SQPOLL, direct descriptors",
        "ring-connect-async",
        ring::connect_async,
    ),
    way(
        "io_uring: connect and send; inline, IOSQE_ASYNC, SQPOLL, direct descriptors",
        "ring-connect-polled",
        ring::connect_polled,
    ),
    way(
        "io_uring: connect and send; inline, IOSQE_ASYNC, SQPOLL, direct descriptors",
        "ring-connect-polled-async",
        ring::connect_polled_async,
    ),
    way(
        "io_uring: connect and send; inline, IOSQE_ASYNC, SQPOLL, direct descriptors",
        "ring-send",
        ring::send,
    ),
    way(
        "io_uring: connect and send; inline, IOSQE_ASYNC, SQPOLL, direct descriptors",
        "ring-send-async",
        ring::send_async,
    ),
    way(
        "io_uring: connect and send; inline, IOSQE_ASYNC, SQPOLL, direct descriptors",
        "ring-send-polled",
        ring::send_polled,
    ),
    way(
        "io_uring: connect and send; inline, IOSQE_ASYNC, SQPOLL, direct descriptors",
        "ring-made-inside",
        ring::made_inside,
    ),
    way(
        "RST, ICMP and TIME_WAIT of sockets that are gone",
        "tcp-reset",
        tcp::reset,
    ),
    way(
        "RST, ICMP and TIME_WAIT of sockets that are gone",
        "tcp-ended",
        tcp::ended,
    ),
    way(
        "RST, ICMP and TIME_WAIT of sockets that are gone",
        "udp-unreachable",
        udp::unreachable,
    ),
    way(
        "UDP over IPv4, IPv6, v4-mapped; connected, and not",
        "udp4",
        udp::four,
    ),
    way(
        "UDP over IPv4, IPv6, v4-mapped; connected, and not",
        "udp6",
        udp::six,
    ),
    way(
        "UDP over IPv4, IPv6, v4-mapped; connected, and not",
        "udp-mapped",
        udp::mapped,
    ),
    way(
        "UDP over IPv4, IPv6, v4-mapped; connected, and not",
        "udp-connected4",
        udp::connected4,
    ),
    way(
        "UDP over IPv4, IPv6, v4-mapped; connected, and not",
        "udp-connected6",
        udp::connected6,
    ),
    way(
        "sendmmsg, UDP_SEGMENT, MSG_MORE, fragments",
        "udp-many",
        udp::many,
    ),
    way(
        "sendmmsg, UDP_SEGMENT, MSG_MORE, fragments",
        "udp-segmented",
        udp::segmented,
    ),
    way(
        "sendmmsg, UDP_SEGMENT, MSG_MORE, fragments",
        "udp-corked",
        udp::corked,
    ),
    way(
        "sendmmsg, UDP_SEGMENT, MSG_MORE, fragments",
        "udp-large",
        udp::large,
    ),
    way(
        "UDP from a chosen source address",
        "udp-bound4",
        udp::bound4,
    ),
    way(
        "UDP from a chosen source address",
        "udp-bound6",
        udp::bound6,
    ),
    way(
        "UDP from a chosen source address",
        "udp-info-source4",
        udp::info_source4,
    ),
    way(
        "UDP from a chosen source address",
        "udp-info-source6",
        udp::info_source6,
    ),
    way(
        "UDP from a foreign source address",
        "udp-foreign",
        udp::foreign,
    ),
    way(
        "UDP by device or mark: SO_BINDTODEVICE, SO_BINDTOIFINDEX, SO_MARK, IP_UNICAST_IF, IPV6_UNICAST_IF",
        "udp-device",
        udp::device,
    ),
    way(
        "UDP by device or mark: SO_BINDTODEVICE, SO_BINDTOIFINDEX, SO_MARK, IP_UNICAST_IF, IPV6_UNICAST_IF",
        "udp-device-index",
        udp::device_index,
    ),
    way(
        "UDP by device or mark: SO_BINDTODEVICE, SO_BINDTOIFINDEX, SO_MARK, IP_UNICAST_IF, IPV6_UNICAST_IF",
        "udp-mark",
        udp::mark,
    ),
    way(
        "UDP by device or mark: SO_BINDTODEVICE, SO_BINDTOIFINDEX, SO_MARK, IP_UNICAST_IF, IPV6_UNICAST_IF",
        "udp-unicast-device4",
        udp::unicast_device4,
    ),
    way(
        "UDP by device or mark: SO_BINDTODEVICE, SO_BINDTOIFINDEX, SO_MARK, IP_UNICAST_IF, IPV6_UNICAST_IF",
        "udp-unicast-device6",
        udp::unicast_device6,
    ),
    way(
        "IP_PKTINFO, IPV6_PKTINFO with a device",
        "udp-info-device4",
        udp::info_device4,
    ),
    way(
        "IP_PKTINFO, IPV6_PKTINFO with a device",
        "udp-info-device6",
        udp::info_device6,
    ),
    way(
        "IP_PKTINFO, IPV6_PKTINFO with a device",
        "udp-sticky-info6",
        udp::sticky_info6,
    ),
    way(
        "Multicast, by route, IP_MULTICAST_IF, IPV6_MULTICAST_IF, scope",
        "multicast4",
        udp::multicast4,
    ),
    way(
        "Multicast, by route, IP_MULTICAST_IF, IPV6_MULTICAST_IF, scope",
        "multicast4-by-device",
        udp::multicast4_by_device,
    ),
    way(
        "Multicast, by route, IP_MULTICAST_IF, IPV6_MULTICAST_IF, scope",
        "multicast6",
        udp::multicast6,
    ),
    way(
        "Multicast, by route, IP_MULTICAST_IF, IPV6_MULTICAST_IF, scope",
        "multicast6-by-scope",
        udp::multicast6_by_scope,
    ),
    way("Broadcast", "broadcast", udp::broadcast),
    way("Broadcast", "directed-broadcast", udp::directed_broadcast),
    way(
        "A neighbour: private, link-local with scope",
        "neighbour",
        udp::neighbour,
    ),
    way(
        "A neighbour: private, link-local with scope",
        "link-local",
        udp::link_local,
    ),
    way(
        "Source routes (IP_OPTIONS, IP_RETOPTS, IPV6_RTHDR), over excluded addresses too",
        "tcp-source-route",
        tcp::source_routed,
    ),
    way(
        "Source routes (IP_OPTIONS, IP_RETOPTS, IPV6_RTHDR), over excluded addresses too",
        "tcp-source-route-excluded",
        tcp::source_routed_over_excluded,
    ),
    way(
        "Source routes (IP_OPTIONS, IP_RETOPTS, IPV6_RTHDR), over excluded addresses too",
        "udp-source-route",
        udp::source_routed,
    ),
    way(
        "Source routes (IP_OPTIONS, IP_RETOPTS, IPV6_RTHDR), over excluded addresses too",
        "udp-source-route-excluded",
        udp::source_routed_over_excluded,
    ),
    way(
        "Source routes (IP_OPTIONS, IP_RETOPTS, IPV6_RTHDR), over excluded addresses too",
        "udp-source-route-once",
        udp::source_routed_once,
    ),
    way(
        "Source routes (IP_OPTIONS, IP_RETOPTS, IPV6_RTHDR), over excluded addresses too",
        "udp-routing-header",
        udp::routing_header6,
    ),
    way(
        "Source routes (IP_OPTIONS, IP_RETOPTS, IPV6_RTHDR), over excluded addresses too",
        "udp-segment-route",
        udp::segments6,
    ),
    way(
        "Source routes (IP_OPTIONS, IP_RETOPTS, IPV6_RTHDR), over excluded addresses too",
        "udp-routing-header-once",
        udp::routing_header6_once,
    ),
    way(
        "IPv6 hop-by-hop and destination options",
        "udp-hop-by-hop",
        udp::hop_by_hop6,
    ),
    way(
        "IPv6 hop-by-hop and destination options",
        "udp-destination-options",
        udp::destination_options6,
    ),
    way(
        "Lookups: UDP and TCP port 53 of a resolver, of 127.0.0.53",
        "dns-udp",
        dns::datagram,
    ),
    way(
        "Lookups: UDP and TCP port 53 of a resolver, of 127.0.0.53",
        "dns-udp-connected",
        dns::connected,
    ),
    way(
        "Lookups: UDP and TCP port 53 of a resolver, of 127.0.0.53",
        "dns-tcp",
        dns::stream,
    ),
    way(
        "Lookups: UDP and TCP port 53 of a resolver, of 127.0.0.53",
        "dns-stub",
        dns::stub,
    ),
    way(
        "Lookups: UDP and TCP port 53 of a resolver, of 127.0.0.53",
        "dns-stub-tcp",
        dns::stub_stream,
    ),
    way(
        "Raw sockets, with IP_HDRINCL, IP in IP, GRE",
        "raw4",
        packets::raw4,
    ),
    way(
        "Raw sockets, with IP_HDRINCL, IP in IP, GRE",
        "raw6",
        packets::raw6,
    ),
    way(
        "Raw sockets, with IP_HDRINCL, IP in IP, GRE",
        "raw-udp",
        packets::raw_udp,
    ),
    way(
        "Raw sockets, with IP_HDRINCL, IP in IP, GRE",
        "raw-header",
        packets::with_header,
    ),
    way(
        "Raw sockets, with IP_HDRINCL, IP in IP, GRE",
        "raw-header6",
        packets::with_header6,
    ),
    way(
        "Raw sockets, with IP_HDRINCL, IP in IP, GRE",
        "raw-ipip",
        packets::tunnel,
    ),
    way(
        "Raw sockets, with IP_HDRINCL, IP in IP, GRE",
        "raw-gre",
        packets::tunnel_by_gre,
    ),
    way("Ping sockets", "ping4", packets::ping4),
    way("Ping sockets", "ping6", packets::ping6),
    way("UDP-Lite, SCTP, DCCP", "udplite4", udp::lite4),
    way("UDP-Lite, SCTP, DCCP", "udplite6", udp::lite6),
    way("UDP-Lite, SCTP, DCCP", "sctp", packets::sctp),
    way("UDP-Lite, SCTP, DCCP", "sctp-many", packets::sctp_many),
    way("UDP-Lite, SCTP, DCCP", "dccp", packets::dccp),
    by_user(
        "AF_PACKET, AF_XDP (not root's by a rule)",
        "packet",
        packets::frame,
    ),
    by_user(
        "AF_PACKET, AF_XDP (not root's by a rule)",
        "xdp",
        packets::express,
    ),
    by_user(
        "A route or a tunnel device of a user's own",
        "route",
        packets::route,
    ),
    by_user(
        "A route or a tunnel device of a user's own",
        "tun",
        packets::tunnel_device,
    ),
    held(
        "Sockets from before, over exec: unconnected",
        "before-tcp",
        before::make_tcp,
        before::connect_it,
    ),
    held(
        "Sockets from before, over exec: unconnected",
        "before-udp",
        before::make_udp,
        before::send_it,
    ),
    held(
        "Sockets from before, over exec: connected, MPTCP, raw, ping",
        "before-tcp-connected",
        before::connect_tcp,
        before::use_tcp,
    ),
    held(
        "Sockets from before, over exec: connected, MPTCP, raw, ping",
        "before-tcp6-connected",
        before::connect_tcp6,
        before::use_tcp,
    ),
    held(
        "Sockets from before, over exec: connected, MPTCP, raw, ping",
        "before-mptcp-connected",
        before::connect_multipath,
        before::use_tcp,
    ),
    held(
        "Sockets from before, over exec: connected, MPTCP, raw, ping",
        "before-udp-connected",
        before::connect_udp,
        before::use_udp,
    ),
    held(
        "Sockets from before, over exec: connected, MPTCP, raw, ping",
        "before-udp6-connected",
        before::connect_udp6,
        before::use_udp,
    ),
    held(
        "Sockets from before, over exec: connected, MPTCP, raw, ping",
        "before-raw",
        before::make_raw,
        before::use_raw,
    ),
    held(
        "Sockets from before, over exec: connected, MPTCP, raw, ping",
        "before-ping",
        before::make_ping,
        before::use_ping,
    ),
    held(
        "Sockets passed by SCM_RIGHTS: unconnected",
        "passed-udp",
        before::pass_udp,
        before::receive_and_send,
    ),
    held(
        "Sockets passed by SCM_RIGHTS: connected",
        "passed-udp-connected",
        before::pass_connected_udp,
        before::receive_and_use_udp,
    ),
    held(
        "Sockets passed by SCM_RIGHTS: connected",
        "passed-tcp-connected",
        before::pass_connected_tcp,
        before::receive_and_use_tcp,
    ),
    held(
        "Connected UDP that an unmanaged process has too, or by pidfd_getfd, or in a ring alone",
        "shared-udp",
        before::share_connected_udp,
        before::use_udp,
    ),
    held(
        "Connected UDP that an unmanaged process has too, or by pidfd_getfd, or in a ring alone",
        "stolen-udp",
        before::steal_udp,
        before::steal_and_use,
    ),
    held(
        "Connected UDP that an unmanaged process has too, or by pidfd_getfd, or in a ring alone",
        "ring-fixed-udp",
        before::connect_udp,
        before::use_by_ring,
    ),
    way(
        "Children: vfork and exec, orphans, daemons, threads, setuid programs",
        "child",
        process::child,
    ),
    way(
        "Children: vfork and exec, orphans, daemons, threads, setuid programs",
        "orphan",
        process::orphan,
    ),
    way(
        "Children: vfork and exec, orphans, daemons, threads, setuid programs",
        "daemon",
        process::daemon,
    ),
    way(
        "Children: vfork and exec, orphans, daemons, threads, setuid programs",
        "thread",
        process::thread,
    ),
    by_user(
        "Children: vfork and exec, orphans, daemons, threads, setuid programs",
        "setuid",
        process::setuid,
    ),
    way("Another control group", "group", process::group),
    by_user(
        "Another control group",
        "group-of-user",
        process::group_of_user,
    ),
    by_user(
        "A user namespace; a socket carried into another network",
        "user-namespace",
        process::user_namespace,
    ),
    by_user(
        "A user namespace; a socket carried into another network",
        "carried",
        process::carried,
    ),
    by_user(
        "Another network namespace, the daemon's own",
        "network-namespace",
        process::network_namespace,
    ),
    way(
        "Another network namespace, the daemon's own",
        "other-network",
        process::other_network,
    ),
    managed(
        "Another network namespace, the daemon's own",
        "inner-network",
        process::inner_network,
    ),
];

const fn way(row: &'static str, name: &'static str, after: After) -> Way {
    Way {
        row,
        name,
        before: None,
        after,
        who: Who::Root,
    }
}

const fn held(row: &'static str, name: &'static str, before: Before, after: After) -> Way {
    Way {
        before: Some(before),
        ..way(row, name, after)
    }
}

const fn by_user(row: &'static str, name: &'static str, after: After) -> Way {
    Way {
        who: Who::User,
        ..way(row, name, after)
    }
}

const fn managed(row: &'static str, name: &'static str, after: After) -> Way {
    Way {
        who: Who::Managed,
        ..way(row, name, after)
    }
}
