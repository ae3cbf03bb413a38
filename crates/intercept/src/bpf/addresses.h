/* Addresses: what they are, and those that stand for resolvers. */
#pragma once

#include "maps.h"

static __always_inline int is_mapped(const __be32 *a)
{
	return a[0] == 0 && a[1] == 0 && a[2] == bpf_htonl(0xffff);
}

static __always_inline int is_loopback(const __be32 *a)
{
	if (is_mapped(a))
		return (a[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return a[0] == 0 && a[1] == 0 && a[2] == 0 && a[3] == bpf_htonl(1);
}

/* connect() to the unspecified address means this machine. */
static __always_inline int is_unspecified(const __be32 *a)
{
	return a[0] == 0 && a[1] == 0 && (a[2] == 0 || is_mapped(a)) && a[3] == 0;
}

static __always_inline int is_multicast(const __be32 *a)
{
	if (is_mapped(a))
		return (a[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) ||
		       a[3] == bpf_htonl(0xffffffff);
	return (a[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

static __always_inline int is_link_local(const __be32 *a)
{
	return (a[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline struct approval *approval_of(__u32 class, const __be32 *a)
{
	struct prefix key = {
		.length = 160,
		/* An IPv6 block may be wide enough to hold the mapped IPv4 addresses. */
		.class = bpf_htonl(class << 1 | !is_mapped(a)),
		.address = { a[0], a[1], a[2], a[3] },
	};

	return bpf_map_lookup_elem(&approved, &key);
}

/* Notes that somebody uses the target. Times are CLOCK_MONOTONIC in units of 2^30 ns, a little more
 * than a second, so that a busy flow does not write all the time. */
static __always_inline void note_use(struct approval *approval, __u64 time)
{
	if (approval->used != (__u32)(time >> 30))
		approval->used = time >> 30;
}

static __always_inline int is_approved(__u32 class, const __be32 *a)
{
	struct approval *approval = approval_of(class, a);

	return approval && approval->state != APPROVAL_SHUT;
}

/* The same for what is about to use it. */
static __always_inline int use_approved(__u32 class, const __be32 *a)
{
	struct approval *approval = approval_of(class, a);

	if (!approval || approval->state == APPROVAL_SHUT)
		return 0;
	note_use(approval, bpf_ktime_get_coarse_ns());
	return 1;
}

/* Whether it is not known yet if the target stays approved. */
static __always_inline int is_in_doubt(__u32 class, const __be32 *a)
{
	struct approval *approval = approval_of(class, a);

	return approval && approval->state == APPROVAL_SHUT;
}

/*
 * Resolvers on this machine, on excluded networks and at addresses that are of one link alone are
 * reached through stand-ins, addresses that routing brings to the daemon: 127.a.b.c as 240.a.b.c,
 * ::1 as 2001:2:0:53::1, others as the next free one of 242.0.0.0/8 and 2001:2:0:53:1::/80.
 */
static __always_inline int to_stand_in(__be32 *a, __u32 class)
{
	int mapped = is_mapped(a);
	__be32 fresh[4] = {};
	__u32 number = 0;
	__be32 *known;
	__u32 *next;

	if (is_unspecified(a))
		a[3] = mapped ? bpf_htonl(0x7f000001) : bpf_htonl(1);
	if (is_loopback(a)) {
		if (mapped) {
			a[3] = (a[3] & bpf_htonl(0x00ffffff)) | bpf_htonl(0xf0000000);
		} else {
			a[0] = bpf_htonl(0x20010002);
			a[1] = bpf_htonl(0x00000053);
			a[3] = bpf_htonl(1);
		}
		return 0;
	}
	if (!bpf_map_lookup_elem(&own, a) && !is_approved(class, a) && !is_link_local(a))
		return 0;
	known = bpf_map_lookup_elem(&stand_ins, a);
	if (!known) {
		next = bpf_map_lookup_elem(&stand_in_count, &number);
		if (!next)
			return -1;
		/* Twice as many numbers as entries: the oldest entry is long gone when one returns. */
		number = __sync_fetch_and_add(next, 1) & 0x1fff;
		if (mapped) {
			fresh[2] = bpf_htonl(0xffff);
			fresh[3] = bpf_htonl(0xf2000000 | number);
		} else {
			fresh[0] = bpf_htonl(0x20010002);
			fresh[1] = bpf_htonl(0x00000053);
			fresh[2] = bpf_htonl(0x00010000);
			fresh[3] = bpf_htonl(number);
		}
		if (bpf_map_update_elem(&resolvers, fresh, a, BPF_ANY) ||
		    bpf_map_update_elem(&stand_ins, a, fresh, BPF_ANY))
			return -1;
		known = fresh;
	}
	a[0] = known[0];
	a[1] = known[1];
	a[2] = known[2];
	a[3] = known[3];
	return 0;
}

static __always_inline int from_stand_in(__be32 *a)
{
	__be32 *other;

	if (is_mapped(a) && (a[3] & bpf_htonl(0xff000000)) == bpf_htonl(0xf0000000)) {
		a[3] = (a[3] & bpf_htonl(0x00ffffff)) | bpf_htonl(0x7f000000);
		return 1;
	}
	if (a[0] == bpf_htonl(0x20010002) && a[1] == bpf_htonl(0x53) && a[2] == 0 &&
	    a[3] == bpf_htonl(1)) {
		a[0] = 0;
		a[1] = 0;
		return 1;
	}
	other = bpf_map_lookup_elem(&resolvers, a);
	if (!other)
		return 0;
	__builtin_memcpy(a, other, 16);
	return 1;
}
