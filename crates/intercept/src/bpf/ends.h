/* Where the flow of a socket begins and ends, and whether it takes our device. */
#pragma once

#include "addresses.h"

/* The two ends of a socket, as IPv6 addresses. */
struct ends {
	__be32 source[4];
	__be32 target[4];
	__be16 target_port;
};

static __always_inline void read_ends(struct sock_common *sk, struct ends *ends)
{
	ends->target_port = sk->skc_dport;
	if (sk->skc_family == AF_INET) {
		ends->source[2] = ends->target[2] = bpf_htonl(0xffff);
		ends->source[3] = sk->skc_rcv_saddr;
		ends->target[3] = sk->skc_daddr;
		return;
	}
	bpf_probe_read_kernel(ends->source, 16, &sk->skc_v6_rcv_saddr);
	bpf_probe_read_kernel(ends->target, 16, &sk->skc_v6_daddr);
}

/* The addresses of our device: 198.18.0.1 and 2001:2::1. */
static __always_inline int is_inside(const __be32 *a)
{
	if (is_mapped(a))
		return a[3] == bpf_htonl(0xc6120001);
	return a[0] == bpf_htonl(0x20010002) && a[1] == 0 && a[2] == 0 && a[3] == bpf_htonl(1);
}

/* Whether a flow takes our device: by its route, or where it has none at the moment, as far as its
 * source tells. */
static __always_inline int takes_device(struct sock_common *sk, struct ends *ends, int *known)
{
	struct settings *set = get_settings();
	struct dst_entry *route = BPF_CORE_READ((struct sock *)sk, sk_dst_cache);
	/* Zero also for the device that routes have which were replaced. */
	__u32 device = BPF_CORE_READ(route, dev, ifindex);

	*known = device || is_inside(ends->source);
	if (device)
		return set && device == set->device;
	return is_inside(ends->source);
}

/* Whether a flow goes where the class does not let it. */
static __always_inline int is_astray(struct owner *owner, struct sock_common *sk)
{
	struct class *class = get_class(owner->label.class);
	struct ends ends = {};
	int known;

	read_ends(sk, &ends);
	if (!ends.target_port || takes_device(sk, &ends, &known))
		return 0;
	/* One that has its mark from the beginning takes the device when it is routed again. */
	if (!known && !(owner->flags & (OWNER_DOOMED | OWNER_MOVED)))
		return 0;
	if (!class || ends.target_port == bpf_htons(DNS_PORT))
		return 1;
	if (is_loopback(ends.target) || is_unspecified(ends.target) ||
	    bpf_map_lookup_elem(&own, ends.target) || is_approved(owner->label.class, ends.target))
		return 0;
	if (is_multicast(ends.target) && class->flags & CLASS_MULTICAST)
		return 0;
	/* It may be one that another machine began. */
	return owner->flags & OWNER_DOOMED || !(class->flags & CLASS_INBOUND);
}

static __always_inline int comes_from_inside(struct sock_common *sk)
{
	struct ends ends = {};
	int known;

	read_ends(sk, &ends);
	return ends.target_port && takes_device(sk, &ends, &known);
}

/* Whether the flow is to be ended. */
static __always_inline int is_over(struct owner *owner, struct sock_common *sk)
{
	if (owner->flags & OWNER_RELEASED)
		return comes_from_inside(sk);
	return is_astray(owner, sk);
}
